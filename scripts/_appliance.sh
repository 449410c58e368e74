# shellcheck shell=bash disable=SC2154,SC2034 # root, venv: _setup.sh; what is set here is used by those who source it
# What scripts/install and scripts/uninstall share: where things lie, what is ours, and what this machine is.
# shellcheck source=scripts/_setup.sh
source "$(dirname -- "$(readlink -f -- "${BASH_SOURCE[0]}")")/_setup.sh"

readonly EX_NOPERM=77 EX_CONFIG=78 EX_TEMPFAIL=75
unit=edge-agent.service
account=edge-agent
broker_conf=/etc/mosquitto/conf.d/edge-agent.conf broker_passwords=/etc/mosquitto/edge-agent.passwd
broker_mark='Written by scripts/install of edge-agent.'

# places MODE: where everything lies, for the whole machine (system) or for one user (user)
places() {
  mode=$1
  if [ "$mode" = user ]; then
    prefix=$HOME/.local/share/edge-agent etc=$HOME/.config/edge-agent state=$HOME/.local/state/edge-agent
    units=$HOME/.config/systemd/user bin=$HOME/.local/bin
    control=(systemctl --user)
    export XDG_RUNTIME_DIR=${XDG_RUNTIME_DIR:-/run/user/$EUID}
  else
    prefix=/opt/edge-agent etc=/etc/edge-agent state=/var/lib/edge-agent units=/etc/systemd/system bin=/usr/local/bin
    control=(systemctl)
  fi
  releases=$prefix/releases manifest=$prefix/installed activating=$prefix/.activating
}

# --- what is ours ----------------------------------------------------------------------------------------------------

# Everything outside $prefix that was written is a line of the manifest. What is not in it is somebody else's.
recorded() { [ -f "$manifest" ] && grep -qxF -- "$1" "$manifest"; }
record() { recorded "$1" || printf '%s\n' "$1" >>"$manifest"; }
exists() { [ -e "$1" ] || [ -L "$1" ]; }

# put SOURCE TARGET: a file of ours, whole or not at all
put() {
  mkdir -p -- "$(dirname -- "$2")"
  record "$2"
  cmp -s -- "$1" "$2" && return
  install -m 644 -- "$1" "$2.new"
  mv -fT -- "$2.new" "$2"
}

# link TARGET NAME: a symbolic link, changed in one step
link() {
  ln -sfnT -- "$1" "$2.new"
  mv -fT -- "$2.new" "$2"
}

# --- what this machine is --------------------------------------------------------------------------------------------

platform() {
  local tree
  tree=$(tr '\0' '\n' 2>/dev/null </proc/device-tree/compatible || true)
  if [ -e /etc/nv_tegra_release ] || grep -q '^nvidia,tegra' <<<"$tree"; then
    echo jetson
  elif grep -q '^brcm,bcm2' <<<"$tree" || grep -qs '^Model.*Raspberry Pi' /proc/cpuinfo; then
    echo raspberrypi
  else
    echo generic
  fi
}

# A Coral accelerator: over USB before (1a6e:089a) and after (18d1:9302) it got its firmware, or over PCIe.
has_coral() {
  [ -e /dev/apex_0 ] || cat /sys/bus/usb/devices/*/idVendor 2>/dev/null | grep -qxE '1a6e|18d1'
}

systemd_runs() {
  if [ "$mode" = user ]; then
    systemctl --user show-environment >/dev/null 2>&1
  else
    [ -d /run/systemd/system ]
  fi
}

previous_release() { readlink -- "$prefix/previous" 2>/dev/null | sed 's,.*/,,' || true; }
current_release() { readlink -- "$prefix/current" 2>/dev/null | sed 's,.*/,,' || true; }
