# shellcheck shell=bash disable=SC2154 # variables of _appliance.sh and of install
# Making a release the one that runs, seeing whether it does well, and going back. Read by scripts/install.

# How long a new version must run without a restart, and how long it may take to do as well as the one before.
readonly UP_S=${INSTALL_UP_S:-10} WELL_WITHIN_S=${INSTALL_WELL_WITHIN_S:-120} RESTARTS=4

ctl() { "${control[@]}" "$@"; }

# outside_paths RELEASE: prints what of a release lies outside $prefix, for this machine: source, tabulator, target
outside_paths() {
  local from=$1/share/edge-agent/systemd drop=$units/$unit.d
  pair() { printf '%s\t%s\n' "$from/$1" "$2"; }
  if [ "$mode" = user ]; then
    pair "user/$unit" "$units/$unit"
    return
  fi
  pair "$unit" "$units/$unit"
  pair edge-agent.sysusers.conf /etc/sysusers.d/edge-agent.conf
  [ "$(platform)" = generic ] || pair "drop-ins/10-$(platform).conf" "$drop/10-$(platform).conf"
  ! has_coral || pair drop-ins/10-coral.conf "$drop/10-coral.conf"
  ! [ -e "$etc/mqtt_password" ] || pair drop-ins/20-network-credentials.conf "$drop/20-network-credentials.conf"
}

# write_units RELEASE: the units of a release; those of ours that it does not have go
write_units() {
  local source target each wanted=
  while IFS=$'\t' read -r source target; do
    [ -f "$source" ] || continue
    put "$source" "$target"
    wanted+=$target$'\n'
  done < <(outside_paths "$1")
  for each in "$units/$unit.d"/*.conf; do
    [ -e "$each" ] && recorded "$each" && ! grep -qxF -- "$each" <<<"$wanted" && rm -f -- "$each"
  done
  return 0
}

# switch_to RELEASE: units, then the link; nothing is started
switch_to() {
  write_units "$1"
  link "releases/${1##*/}" "$prefix/current"
  record "$bin/edge-agent"
  mkdir -p -- "$bin"
  link "$prefix/current/bin/edge-agent" "$bin/edge-agent"
  if systemd_runs; then ctl daemon-reload; fi
}

# activate: from here on an interruption is undone, at once or by the next run (recover)
activate() {
  local before
  before=$(current_release)
  printf '%s\n' "$before" >"$activating"
  sync -f "$activating"
  trap 'undo' EXIT
  trap 'exit 130' INT TERM HUP
  switch_to "$release"
}

# confirm: the new release stays
confirm() {
  local before
  before=$(<"$activating")
  trap - EXIT INT TERM HUP
  if [ -n "$before" ] && [ "$before" != "${release##*/}" ]; then link "releases/$before" "$prefix/previous"; fi
  rm -f -- "$activating"
}

# undo: back to what ran before; where nothing did, nothing is left running
undo() {
  local code=$?
  trap - EXIT INT TERM HUP
  set +e
  go_back
  drop_unused
  [ $code -ne 0 ] || code=1
  exit $code
}

go_back() {
  local before
  before=$(<"$activating")
  if [ -n "$before" ] && [ -d "$releases/$before" ]; then
    say "going back to $before"
    switch_to "$releases/$before"
    if was_running; then ctl restart --no-block "$unit"; fi
    if was_running && ! wait_well "$releases/$before" ""; then
      say "error: $before does not run either: journalctl -u edge-agent"
      return
    fi
    say "$before is in use again"
  else
    say "taking back what was begun"
    if systemd_runs; then ctl disable --now "$unit" >/dev/null 2>&1; fi
    while read -r target; do rm -f -- "$target"; done <"$manifest"
    : >"$manifest"
    rmdir -- "$units/$unit.d" 2>/dev/null
    rm -f -- "$prefix/current"
    if systemd_runs; then ctl daemon-reload; fi
  fi
  rm -f -- "$activating"
}

# recover: a run that was cut off (power, kill -9) left its mark
recover() {
  [ -e "$activating" ] || return 0
  say "an installation was interrupted"
  was=${was:-yes}
  go_back
}

was_running() { [ "${was:-}" = yes ] && systemd_runs && [ "$start" = yes ]; }

# start_and_watch BEFORE: start it, and wait until it does well (as well as BEFORE, an answer of edge-agent status --json)
start_and_watch() {
  ctl enable -q "$unit"
  ctl reset-failed "$unit" 2>/dev/null || true
  ctl restart --no-block "$unit"
  wait_well "$release" "$1"
}

# wait_well RELEASE BEFORE
wait_well() {
  local ask=("$1/bin/edge-agent" status --wait 3 --up "$UP_S" --release "$1") until=$((SECONDS + WELL_WITHIN_S)) answer
  [ ! -s "$2" ] || ask+=(--as-good-as "$2")
  say "waiting for the service to do well ($WELL_WITHIN_S s at most)"
  while :; do
    if answer=$(cd / && timeout 30 "${ask[@]}" 2>&1); then
      [ "$(ctl show -p ActiveState --value "$unit")" != active ] || return 0
      answer="it never told systemd that it is ready"
    fi
    if [ "$(ctl show -p ActiveState --value "$unit")" = failed ]; then
      answer="the service has ended: $(ctl show -p Result,ExecMainStatus --value "$unit" | tr '\n' ' ')"
      break
    fi
    if [ "$(ctl show -p NRestarts --value "$unit")" -ge "$RESTARTS" ]; then
      answer="it ended, and was started again, $RESTARTS times"
      break
    fi
    [ $SECONDS -lt $until ] || break
  done
  say "error: it does not do well: ${answer##*error: }"
  journal | sed 's/^/  /' >&2
  return 1
}

journal() {
  local which=(-u "$unit")
  [ "$mode" = system ] || which=(--user-unit "$unit")
  journalctl "${which[@]}" -n 15 -o cat --no-pager 2>/dev/null || true
}
