#!/bin/bash
# The appliance for real: run as root inside a machine of the lab (systemd, mosquitto), with a checkout and a folder of wheels made by
#   python3 -m pip wheel -w WHEELS CHECKOUT          (with the lab's Python)
# as:  tests/lab/appliance.sh WHEELS [PHASE...]
# Phases, in this order: bad install again restart kill backoff stopped inference capture sandbox memory camera broker reload boot
# broken upgrade clock disk uninstall user deb. All but "bad", "user" and "deb" need "install" before them; "memory", "camera" and "clock" need the VM.
# shellcheck disable=SC2015,SC2317,SC2034,SC2119,SC2120,SC2016,SC2012 # ok and bad always succeed; functions are called through within
set -uo pipefail
here=$(dirname "$(readlink -f "$0")")
checkout=$here/../..
wheels=$(readlink -f "$1")
# shellcheck source=tests/lab/lab.sh
source "$here/lab.sh"
etc=/etc/edge-agent prefix=/opt/edge-agent toml=/etc/edge-agent/agent.toml
wheel=$(echo "$wheels"/edge_agent-*.whl)
install() { "$checkout/scripts/install" --offline "$wheels" "$@" >"$work/out" 2>&1; }

now() { date +%s%N; }
took() { echo "$((($(now) - $1) / 100000000))" | sed 's/.$/.&/; s/^\./0./'; } # seconds, with tenths
show() { systemctl show -p "$1" --value edge-agent; }
restarts() { show NRestarts; }
pid() { show MainPID; }
answer() { edge-agent status --json 2>/dev/null | python3 -c "import json, sys; beat = json.load(sys.stdin)['heartbeat']; print($1)" 2>/dev/null; }
served() { [ "$(answer "sum(c['frames_served_total'] for c in beat['cameras'].values())")" -gt "${1:-0}" ] 2>/dev/null; }
within() { # within SECONDS WHAT COMMAND...: says how long it took
  local from most=$(($1 * ${LAB_PATIENCE:-1})) what=$2 # LAB_PATIENCE=6: in an emulated machine
  from=$(now)
  shift 2
  until "$@" >/dev/null 2>&1; do
    if [ $((($(now) - from) / 1000000000)) -ge "$most" ]; then bad "$what (not within $most s)"; return 1; fi
    sleep 0.1
  done
  ok "$what ($(took "$from") s)"
}
subscribe() { mosquitto_sub -u edge-agent -P "$(cat $etc/mqtt_password)" -v -t 'edge/#'; }
listening() { # everything that the broker hears, from now on; said again after it was away
  : >"$work/heard"
  while :; do subscribe 2>/dev/null; sleep 0.2; done >>"$work/heard" &
  listener=$!
  sleep 1
}
detections() { tail -n "+$((lines + 1))" "$work/heard" | grep -a '/detections {' >/dev/null; }
# The last run of the agent that detections came from, and whether they come from another one now: those of before may be on their way yet.
stream() { grep -a '/detections {' "$work/heard" | tail -n 1 | grep -o '"stream":"[^"]*"'; }
other_stream() { [ "$(stream)" != "$1" ]; }
same_life() { [ "$(restarts)" = "$1" ] && [ "$(pid)" = "$2" ] && ok "$3: no restart" || bad "$3: restarts $1, then $(restarts); process $2, then $(pid)"; }
restarted() { [ "$(restarts)" -gt "$1" ]; }
healthy() { within "${1:-60}" "it does well" edge-agent status --wait 0 --up 1; }
refused() { # refused CODE PATTERN WHAT INSTALL-OPTION...: and nothing was changed
  local before code=0
  before=$(find /opt /etc /usr/local /var/lib /root -xdev 2>/dev/null | sort | sha256sum)
  "$checkout/scripts/install" "${@:4}" >"$work/out" 2>&1 || code=$?
  [ "$code" = "$1" ] && ok "$3: exit code $1" || bad "$3: exit code $code, not $1: $(tail -n 2 "$work/out")"
  has "$2" "$work/out" "$3: it is said"
  [ "$before" = "$(find /opt /etc /usr/local /var/lib /root -xdev 2>/dev/null | sort | sha256sum)" ] && ok "$3: nothing was changed" || bad "$3: something was changed"
}

if phase bad; then
  mkdir "$work/empty" "$work/some"
  cp "$wheel" "$work/some"
  refused 78 'holds no edge_agent' "a folder without us" --offline "$work/empty"
  refused 78 'there is no folder' "no folder" --offline /nowhere
  refused 78 'not in .*some, or not for this machine' "an incomplete folder" --offline "$work/some"
  refused 78 'no wheel of edge-agent' "another wheel" --wheel "$(echo "$wheels"/numpy*.whl)"
  refused 2 'no option' "an unknown option" --frobnicate
  echo mine >/etc/systemd/system/edge-agent.service
  refused 78 'is not of this installation' "a foreign unit" --offline "$wheels"
  rm /etc/systemd/system/edge-agent.service
  mkdir /opt/edge-agent && echo mine >/opt/edge-agent/file
  refused 78 'is not of this installation' "a foreign folder" --offline "$wheels"
  rm -r /opt/edge-agent
  systemctl -q mask edge-agent.service
  refused 78 'masked' "a masked service" --offline "$wheels"
  systemctl -q unmask edge-agent.service
  mosquitto -p 1883 >/dev/null 2>&1 & taken=$!
  sleep 0.5
  refused 78 'port 1883 is taken' "a port that is taken" --offline "$wheels" --with-broker
  kill $taken
  runuser -u nobody -- "$checkout/scripts/install" >"$work/out" 2>&1; [ $? = 77 ] && has 'needs root' "$work/out" "without root" || bad "without root"
  unshare -m bash -c "mount -o bind,ro /etc /etc 2>/dev/null && mount -o remount,bind,ro /etc && '$checkout/scripts/install' --offline '$wheels'" >"$work/out" 2>&1
  has 'cannot write to /etc' "$work/out" "a read-only /etc"
  mkdir "$work/fake" && printf '#!/bin/sh\n[ "$1" = -m ] && echo armv7l || echo Linux\n' >"$work/fake/uname" && chmod +x "$work/fake/uname"
  PATH=$work/fake:$PATH refused 69 'armv7l is not supported' "a 32-bit machine" --offline "$wheels"
  EDGE_AGENT_PYTHON=/nowhere/python3 refused 69 'no Python 3.10 or newer' "no Python" --offline "$wheels"
fi

if phase install; then
  from=$(now)
  install --with-broker && ok "install --offline --with-broker ($(took "$from") s)" || { bad "install"; tail -n 30 "$work/out"; exit 1; }
  has 'its heartbeat arrives at the broker' "$work/out" "the heartbeat was heard at the broker"
  # One camera that gives frames all the time, and one that is a file: what follows needs something to do.
  sed -i '/^# No camera/,$d' $toml
  printf '[health]\ninterval_s = 1\n[[cameras]]\nid = "test"\nsource = "synthetic"\nisolation = "process"\nfps = 10\n' >>$toml
  systemctl restart edge-agent
  healthy
  within 20 "frames are served" served 5
  [ "$(stat -c %a:%U:%G $toml $etc/mqtt_password | xargs)" = "640:root:edge-agent 600:root:root" ] && ok "nobody else reads settings and password" || bad "permissions"
  runuser -u nobody -- "$prefix/current/bin/edge-agent" status >"$work/out" 2>&1; [ $? = 69 ] && ok "nobody else may ask for the state" || bad "anybody may ask"
fi
[ -x $prefix/current/bin/edge-agent ] && { within 60 "it serves" served 1; listening; mark; }

if phase again; then
  life=$(pid)
  from=$(now)
  install --with-broker && ok "installing the same again ($(took "$from") s)" || { bad "again"; tail "$work/out"; }
  [ "$(ls $prefix/releases)" = "$(basename "$(readlink $prefix/current)")" ] && ok "one release, as before" || bad "releases: $(ls $prefix/releases)"
  healthy
fi

if phase restart; then
  from=$(now) last=$(stream)
  systemctl restart edge-agent
  ok "systemctl restart returns when it is ready ($(took "$from") s)"
  within 10 "detections at the broker again" other_stream "$last"
fi

if phase kill; then
  for n in 1 2 3; do
    sleep 3
    last=$(stream)
    kill -9 "$(pid)"
    within 10 "kill -9, number $n: detections are at the broker again" other_stream "$last"
  done
  rm -f /run/edge-agent/failures
fi

if phase backoff; then
  mv $prefix/current/bin/edge-agent "$work/program"
  printf '#!/bin/sh\nexit 1\n' >$prefix/current/bin/edge-agent && chmod +x $prefix/current/bin/edge-agent
  systemctl restart edge-agent 2>/dev/null
  before=$(restarts)
  sleep 40
  count=$(($(restarts) - before))
  [ "$count" -ge 4 ] && [ "$count" -le 9 ] && ok "a program that always fails: $count restarts in 40 s, and it is not given up" || bad "back-off: $count restarts in 40 s"
  rm $prefix/current/bin/edge-agent && mv "$work/program" $prefix/current/bin/edge-agent
  systemctl stop edge-agent && systemctl start edge-agent && ok "a stop on purpose begins anew"
  healthy
fi

if phase stopped; then
  before=$(restarts) last=$(stream)
  kill -STOP "$(pid)"
  from=$(now)
  within 60 "SIGSTOP of the process: systemd's watchdog ends it and starts another" restarted "$before"
  within 15 "detections again, $(took "$from") s after it was stopped, and then" other_stream "$last"
fi

if phase inference; then
  before=$(restarts) from=$(now) last=$(stream)
  python3 "$here/freeze_thread.py" "$(pid)" >"$work/frozen" 2>&1 & freezer=$!
  within 5 "the busiest thread, which infers, stands still" grep frozen "$work/frozen"
  sleep 2
  within 90 "an inference that hangs: the watchdog acts" restarted "$before"
  kill $freezer 2>/dev/null
  within 15 "detections again, $(took "$from") s after, and then" other_stream "$last"
  journalctl -u edge-agent --no-pager -o cat --since -2min >"$work/journal"
  has 'makes no progress' "$work/journal" "the journal says why"
  has '(Thread|Current thread) 0x' "$work/journal" "and has the tracebacks of all threads"
fi

if phase capture; then
  life=$(pid) before=$(restarts)
  child=$(pgrep -P "$life" | head -n 1)
  kill -STOP "$child"
  gone() { ! kill -0 "$child" 2>/dev/null; }
  within 40 "SIGSTOP of a capture: its process is replaced" gone
  mark
  within 20 "detections again" detections
  same_life "$before" "$life" "SIGSTOP of a capture"
fi

if phase sandbox; then
  touch /tmp/marker /var/tmp/marker; mkdir -p /home/lab
  cp "$here/sandbox.sh" /usr/local/lib/edge-agent-lab-sandbox.sh
  mkdir -p /run/systemd/system/edge-agent.service.d
  printf '[Service]\nType=oneshot\nExecStart=\nExecStart=/bin/bash /usr/local/lib/edge-agent-lab-sandbox.sh\nRestart=no\nWatchdogSec=0\nMemoryMax=infinity\n' >/run/systemd/system/edge-agent.service.d/90-lab.conf
  systemctl daemon-reload
  from=$(date '+%F %T')
  systemctl restart edge-agent 2>/dev/null
  journalctl -u edge-agent --no-pager -o cat --since "$from" | grep -E '^(ok|FAILED) ' >"$work/sandbox"
  cat "$work/sandbox"
  wrong=$(grep -c '^FAILED' "$work/sandbox")
  [ "$wrong" = 0 ] && [ "$(wc -l <"$work/sandbox")" -gt 30 ] && ok "the sandbox holds, and lets through what is needed: $(wc -l <"$work/sandbox") attempts" || bad "sandbox: $wrong of $(wc -l <"$work/sandbox") attempts went wrong"
  rm -r /run/systemd/system/edge-agent.service.d /usr/local/lib/edge-agent-lab-sandbox.sh
  systemctl daemon-reload
  systemctl reset-failed edge-agent 2>/dev/null
  systemctl restart edge-agent
  healthy
fi

if phase memory; then
  before=$(restarts)
  mkdir -p /run/systemd/system/edge-agent.service.d
  printf '[Service]\nMemoryHigh=infinity\nMemoryMax=100M\nMemorySwapMax=0\n' >/run/systemd/system/edge-agent.service.d/90-lab.conf
  systemctl daemon-reload
  systemctl restart edge-agent 2>/dev/null
  sleep 15
  journalctl -u edge-agent --no-pager -o cat --since -20s >"$work/journal"
  has 'memory|oom' "$work/journal" "a limit of 100 MB: the journal says so: $(grep -iE 'memory|oom' "$work/journal" | tail -n 1 | cut -c1-150)"
  echo "memory limit: result $(show Result), exit status $(show ExecMainStatus), restarts $(($(restarts) - before))"
  rm -r /run/systemd/system/edge-agent.service.d
  systemctl daemon-reload
  systemctl restart edge-agent
  healthy
fi

if phase camera; then
  # A camera of the kernel: what is plugged in at installation is in agent.toml; unplugged, it is waited for.
  links
  modprobe vivid n_devs=1 node_types=0x1 num_inputs=1 input_types=0x0 num_outputs=0,0
  udevadm settle
  cp $toml "$work/good.toml"
  edge-agent example --short --username edge-agent >$toml
  has 'v4l/by-id' $toml "a short agent.toml names the camera that is plugged in"
  sed -i "s/^id = .*/id = \"vivid\"/" $toml
  systemctl restart edge-agent
  mark
  within 120 "detections of the camera at the broker" detections
  [ "$(answer "[c['state'] for c in beat['cameras'].values()]")" = "['online']" ] && ok "the camera is online" || bad "camera: $(answer "beat['cameras']")"
  life=$(pid) before=$(restarts)
  unbind
  sleep "${LAB_UNPLUGGED_S:-120}"
  same_life "$before" "$life" "the camera was unplugged for ${LAB_UNPLUGGED_S:-120} s"
  echo "verdict $(answer "beat['verdict']"): $(answer "beat['reasons'][0]")"
  rebind
  udevadm settle
  mark
  within 90 "plugged in again: detections" detections
  same_life "$before" "$life" "and afterwards"
  cp "$work/good.toml" $toml
  systemctl restart edge-agent
  healthy 120
fi

if phase broker; then
  life=$(pid) before=$(restarts)
  systemctl stop mosquitto
  sleep "${LAB_OUTAGE_S:-150}"
  same_life "$before" "$life" "the broker was away for ${LAB_OUTAGE_S:-150} s"
  [ "$(answer "beat['verdict']")" = degraded ] && ok "the verdict is degraded, and says: $(answer "beat['reasons'][0]")" || bad "verdict: $(answer "beat['verdict']")"
  mark
  systemctl start mosquitto
  within 70 "what waited arrives when it is back" detections
  same_life "$before" "$life" "and afterwards"
fi

if phase reload; then
  cp $toml "$work/good.toml"
  life=$(pid) before=$(restarts)
  sed -i 's/^interval_s = 1$/interval_s = 2/' $toml
  systemctl reload edge-agent; sleep 3
  same_life "$before" "$life" "a reload with a valid file"
  sed -i 's/^fps = 10$/fsp = 10/' $toml
  systemctl reload edge-agent; sleep 3
  same_life "$before" "$life" "a reload with an invalid file"
  journalctl -u edge-agent --no-pager -o cat --since -1min >"$work/journal"
  has 'fsp' "$work/journal" "the journal names the key"
  show StatusText >"$work/status"
  has 'fsp|refused|invalid' "$work/status" "and so does the status line"
  cp "$work/good.toml" $toml
  systemctl restart edge-agent
  healthy
fi

if phase boot; then
  cp $toml "$work/good.toml"
  sed -i 's/^fps = 10$/fsp = 10/' $toml
  systemctl restart edge-agent 2>/dev/null
  before=$(restarts)
  sleep 5
  [ "$(show ActiveState):$(show ExecMainStatus)" = failed:78 ] && [ "$(restarts)" = "$before" ] && ok "an invalid file at boot: 78, and no restart" || bad "an invalid file at boot: $(show ActiveState) $(show ExecMainStatus)"
  journalctl -u edge-agent --no-pager -o cat --since -1min >"$work/journal"
  has 'agent.toml:[0-9]+: .*fsp' "$work/journal" "the journal has file, line and key"
  cp "$work/good.toml" $toml
  systemctl restart edge-agent
  healthy
fi

if phase broken; then
  release=$(readlink $prefix/current)
  export INSTALL_WELL_WITHIN_S=45
  number=0
  for how in crash mute blind import strict; do
    number=$((number + 1)) life=$(pid) from=$(now)
    other=$(python3 "$here/other_wheel.py" "$wheel" "9.0.$number" $how "$work")
    install --wheel "$other" && bad "$how: it was taken" || ok "a release that is broken ($how) is not taken ($(took "$from") s): $(grep -o 'error: .*' "$work/out" | head -n 1 | cut -c1-150)"
    [ "$(readlink $prefix/current)" = "$release" ] && ok "$how: $release is in use" || bad "$how: in use is $(readlink $prefix/current)"
    has 'error: ' "$work/out" "$how: it is said why"
    case $how in import | strict) [ "$(pid)" = "$life" ] && ok "$how: the service was not touched" || bad "$how: it was restarted" ;; esac
    healthy
  done
fi

if phase upgrade; then
  other=$(python3 "$here/other_wheel.py" "$wheel" 9.1.0 good "$work")
  # Interrupted at any moment: the next run takes it up, and there is one agent throughout.
  for after in 2 8 14 18; do
    setsid "$checkout/scripts/install" --offline "$wheels" --wheel "$other" >"$work/out" 2>&1 & run=$!
    sleep $after
    kill -9 -- -$run 2>/dev/null; wait $run 2>/dev/null
    [ -x "$prefix/current/bin/edge-agent" ] && ok "cut off by kill -9 after $after s: $(readlink $prefix/current) in use, $(show ActiveState)" || bad "cut off after $after s: nothing in use"
  done
  from=$(now)
  install --wheel "$other" && ok "an upgrade ($(took "$from") s)" || { bad "upgrade"; tail "$work/out"; }
  [ "$(readlink $prefix/current)" = releases/9.1.0 ] && [ "$(answer "beat['agent_version']")" = 9.1.0 ] && ok "9.1.0 is in use" || bad "in use: $(readlink $prefix/current)"
  [ -e $prefix/.activating ] && bad "a mark was left" || ok "nothing is half done"
  [ "$(find $prefix/releases -mindepth 1 -maxdepth 1 | wc -l)" = 2 ] && ok "the release before it is kept" || bad "releases: $(ls $prefix/releases)"
fi

if phase clock; then
  life=$(pid) before=$(restarts)
  if date -s '+2 days' >/dev/null 2>&1; then
    mark; within 5 "the clock goes two days on: detections come" detections
    date -s '-3 days' >/dev/null
    mark; within 5 "and three days back: detections come" detections
    date -s '+1 day' >/dev/null
    sleep 35
    same_life "$before" "$life" "the clock was set"
  else
    echo "skipped: the clock cannot be set here"
  fi
fi

if phase disk; then
  life=$(pid) before=$(restarts)
  mountpoint -q /var/lib/edge-agent || true
  dd if=/dev/zero of=/var/lib/edge-agent/fill bs=1M >/dev/null 2>&1
  mark; within 10 "the disk is full: detections come" detections
  same_life "$before" "$life" "the disk is full"
  systemctl restart edge-agent
  mark; within 30 "started with a full disk: detections come" detections
  journalctl -u edge-agent --no-pager -o cat --since -40s >"$work/journal"
  has 'nothing can be kept across a restart' "$work/journal" "started with a full disk: the journal says so"
  rm /var/lib/edge-agent/fill
  healthy 90
fi

if phase uninstall; then
  listed() { find / -xdev \( -path /proc -o -path /sys -o -path /host -o -path "$work" -o -path /lab \) -prune -o \( -name '*edge-agent*' -o -name '*edge_agent*' \) -print 2>/dev/null | grep -v "^$(readlink -f "$checkout")" | grep -vE '/journal/|^/tmp/'; }
  "$checkout/scripts/uninstall" >"$work/out" 2>&1 && ok "uninstall" || bad "uninstall"
  [ -f $toml ] && ok "settings are kept" || bad "settings are gone"
  systemctl cat edge-agent >/dev/null 2>&1 && bad "the unit is still there" || ok "the unit is gone"
  "$checkout/scripts/uninstall" --purge >"$work/out" 2>&1 && ok "uninstall --purge" || bad "uninstall --purge"
  getent passwd edge-agent >/dev/null && bad "the user is still there" || ok "the user is gone"
  listed >"$work/left"
  [ -s "$work/left" ] && { bad "files are left"; cat "$work/left"; } || ok "no file of it is left"
fi

if phase user; then # without root, for one user
  useradd -m -s /bin/bash lab 2>/dev/null
  loginctl enable-linger lab
  uid=$(id -u lab)
  until [ -S "/run/user/$uid/systemd/private" ]; do sleep 0.2; done
  as_lab() { runuser -u lab -- env -C /home/lab HOME=/home/lab XDG_RUNTIME_DIR="/run/user/$uid" "$@"; }
  from=$(now)
  as_lab "$checkout/scripts/install" --user --offline "$wheels" >"$work/out" 2>&1 && ok "install --user ($(took "$from") s)" || { bad "install --user"; tail "$work/out"; }
  has 'no heartbeat was heard' "$work/out" "without a broker that is said, and is no failure"
  as_lab .local/bin/edge-agent status >"$work/status" 2>&1
  has "release +/home/lab/.local/share/edge-agent/releases/" "$work/status" "status: it runs from the user's home"
  find / -xdev -user lab \( -path /home/lab -o -path /proc -o -path /host -o -path /sys \) -prune -o -user lab -newer "$work/status" -print 2>/dev/null | grep -v "^/run/user" | grep . && bad "it wrote outside" || ok "nothing outside of the user's home"
  as_lab "$checkout/scripts/uninstall" --user --purge >"$work/out" 2>&1 && ok "uninstall --user --purge" || { bad "uninstall --user"; tail "$work/out"; }
  find /home/lab -name '*edge*' | grep . && bad "files are left" || ok "nothing is left"
fi

if phase deb; then # the package, in place of the scripts
  deb=$("$checkout/scripts/build-deb" --wheels "$wheels" -o "$work" 2>"$work/out") && ok "build-deb: $(du -h "$deb" | cut -f1)" || { bad "build-deb"; cat "$work/out"; }
  from=$(now)
  dpkg -i "$deb" >"$work/out" 2>&1 && ok "dpkg -i ($(took "$from") s)" || { bad "dpkg -i"; tail "$work/out"; }
  healthy
  dpkg -i "$deb" >"$work/out" 2>&1 && ok "dpkg -i again" || { bad "dpkg -i again"; tail "$work/out"; }
  healthy
  dpkg -r edge-agent >"$work/out" 2>&1 && [ ! -e $prefix ] && [ -e $toml ] && ok "dpkg -r keeps the settings" || { bad "dpkg -r"; tail "$work/out"; }
  dpkg -P edge-agent >"$work/out" 2>&1 && [ ! -e $etc ] && ok "dpkg -P leaves nothing" || { bad "dpkg -P"; tail "$work/out"; }
  find / -xdev \( -path /proc -o -path /sys -o -path /host -o -path "$work" -o -path /lab \) -prune -o -name '*edge-agent*' -print 2>/dev/null | grep -v "^$(readlink -f "$checkout")" | grep -vE '/journal/|^/tmp/'
fi

echo "$SECONDS s"
[ $failures -eq 0 ] && echo "ALL OK" || echo "$failures FAILED"
exit $failures
