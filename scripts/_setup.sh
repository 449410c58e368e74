# shellcheck shell=bash
# What the scripts beside this file share: a virtual environment inside the checkout, and the system packages under it.
#
# prepare LEVEL                    .venv with what LEVEL (demo, test, check) needs, and the system packages for that
# require_packages PACKAGE...      these Debian or Ubuntu packages
# EDGE_AGENT_PYTHON=python3.12     the interpreter to use; by default the distribution's, else the newest on PATH
#
# Writes nothing outside the checkout, except through apt-get. Says what it does on stderr; says nothing when all is there.
# Relies on `set -e`: call these functions as plain commands, not in conditions, unless they are questions.
set -euo pipefail

root=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." >/dev/null && pwd -P)
venv=$root/.venv
pythons=(python3.14 python3.13 python3.12 python3.11 python3.10 python3)
# The distribution's first: its GStreamer bindings are for no other.
[[ ":$PATH:" != *:/usr/bin:* ]] || pythons=(/usr/bin/python3 "${pythons[@]}")
[ -z "${EDGE_AGENT_PYTHON:-}" ] || pythons=("$EDGE_AGENT_PYTHON")
readonly EX_UNAVAILABLE=69 # sysexits.h: something needed is not here

say() { printf '%s: %s\n' "${0##*/}" "$*" >&2; }
die() {
  say "error: $1"
  exit "${2:-1}"
}

# --- system packages -------------------------------------------------------------------------------------------------

# Root without anybody typing a password.
is_root() { [ "$EUID" -eq 0 ] || sudo -n true 2>/dev/null; }

# Root with somebody at the keyboard, told what for.
becomes_root() { [ -t 0 ] && [ -t 2 ] && command -v sudo >/dev/null && say "sudo may ask for your password, to install: $*" && sudo -v; }

as_root() { if [ "$EUID" -eq 0 ]; then "$@"; else sudo "$@"; fi; }

apt_install() {
  as_root env DEBIAN_FRONTEND=noninteractive apt-get -qq -o DPkg::Lock::Timeout=300 install --no-install-recommends "$@" 2>&1 </dev/null
}

# install_packages PACKAGE...: false if they are not to be had; only then is shown how apt-get ended
install_packages() {
  command -v apt-get >/dev/null || return 1
  say "installing with apt-get: $*"
  local output
  # Without package lists, or with old ones, the first try fails at once.
  if output=$(apt_install "$@") || output=$(as_root apt-get -qq update 2>&1 && apt_install "$@"); then return; fi
  tail -n 20 <<<"$output" >&2
  return 1
}

# require_packages PACKAGE...: installs them, or names them and stops
require_packages() {
  [ $# -gt 0 ] || return 0
  if { is_root || becomes_root "$@"; } && install_packages "$@"; then return; fi
  say "error: system packages are missing and could not be installed from here: $*
  Run this, or have it run by somebody who may, then try again:
  sudo apt-get update && sudo apt-get install --no-install-recommends $*"
  exit "$EX_UNAVAILABLE"
}

# --- Python ----------------------------------------------------------------------------------------------------------

# find_python NAME...: prints the first that can make virtual environments
find_python() {
  local name
  for name in "$@"; do
    if "$name" -c 'import sys, venv; sys.exit(sys.version_info < (3, 10))' 2>/dev/null &&
      { "$name" -c 'import ensurepip' || "$name" -c 'import pip'; } 2>/dev/null; then
      command -v -- "$name"
      return
    fi
  done
  return 1
}

# python_packages: prints what is missing to make a virtual environment
python_packages() { find_python "${pythons[@]}" >/dev/null || echo python3-venv; }

# opencv_packages: prints what OpenCV's wheel expects of the system and does not find
opencv_packages() {
  local python soname
  python=$(find_python "${pythons[@]}") || python=
  for soname in libGL.so.1:libgl1 libgthread-2.0.so.0:libglib2.0-0; do # apt-get finds libglib2.0-0t64 by this name too
    if [ -n "$python" ]; then
      "$python" -c 'import ctypes, sys; ctypes.CDLL(sys.argv[1])' "${soname%:*}" 2>/dev/null
    else
      /sbin/ldconfig -p | grep -qF "${soname%:*}"
    fi || echo "${soname#*:}"
  done
}

# --- virtual environments --------------------------------------------------------------------------------------------

# stamp VENV: what it was made from; another checkout path, interpreter or pyproject.toml is another stamp
stamp() { { cat "$root/pyproject.toml" && printf '%s\n' "$root" "$(readlink -f "$1/bin/python")"; } | sha256sum; }

# ready VENV LEVEL: it was finished for this level, and nothing has changed since
ready() { [ -x "$1/bin/python" ] && [ -f "$1/.ready-$2" ] && [ "$(<"$1/.ready-$2")" = "$(stamp "$1")" ]; }

# wanted VENV: its interpreter is the one that was asked for, if one was
wanted() {
  local which='import sys; print(sys.version_info, sys.base_prefix)'
  [ -z "${EDGE_AGENT_PYTHON:-}" ] || [ "$("$1/bin/python" -c "$which" 2>/dev/null)" = "$("$EDGE_AGENT_PYTHON" -c "$which")" ]
}

# usable VENV: it can be added to. One whose first run was interrupted cannot, nor one that was moved.
usable() { [ ! -e "$1/.unfinished" ] && grep -qsF -- "$1" "$1/bin/activate" && "$1/bin/python" -c 'import pip' 2>/dev/null; }

# create_venv VENV PYTHON [OPTION...]
create_venv() {
  rm -rf -- "$1"
  mkdir -- "$1"
  touch -- "$1/.unfinished"
  if "$2" -c 'import ensurepip' 2>/dev/null; then
    "$2" -m venv "${@:3}" -- "$1"
  else # Debian's python3-pip without its python3-venv
    "$2" -m venv --without-pip "${@:3}" -- "$1"
    "$2" -m pip install -q --target "$("$1/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')" pip
  fi
}

# install_into VENV PIP-ARGUMENT...: pip install, in the checkout
install_into() {
  local pip=("$1/bin/python" -m pip install -q)
  # Dependency groups came with pip 25.1.
  "$1/bin/python" -c 'import pip, sys; sys.exit([int(part) for part in pip.__version__.split(".")[:2]] < [25, 1])' ||
    "${pip[@]}" --upgrade 'pip>=25.1'
  (cd -- "$root" && "${pip[@]}" "${@:2}")
}

# mend_opencv VENV: where the system lacks what OpenCV's wheel expects, the same OpenCV without windows takes its place
mend_opencv() {
  local problem version
  if problem=$("$1/bin/python" -c 'import cv2' 2>&1); then return; fi
  say "OpenCV does not load here (${problem##*$'\n'}): taking opencv-python-headless, which needs no system packages and opens no windows"
  version=$("$1/bin/python" -c 'import importlib.metadata as m; print(m.version("opencv-python"))')
  "$1/bin/python" -m pip uninstall -q -y opencv-python
  "$1/bin/python" -m pip install -q --force-reinstall --no-deps "opencv-python-headless==$version"
  "$1/bin/python" -c 'import cv2'
}

# build_venv VENV PYTHON PIP-ARGUMENT...
build_venv() {
  # pip's cache serves the run that repairs an interrupted one; /tmp may be small, or in memory.
  export TMPDIR=$root/.venv-cache/tmp PIP_CACHE_DIR=$root/.venv-cache/pip PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_INPUT=1
  mkdir -p -- "$TMPDIR"
  usable "$1" || create_venv "$1" "$2"
  say "installing Python packages into ${1##*/} ($("$1/bin/python" --version)); the first time it takes some minutes"
  rm -f -- "$1"/.ready-*
  install_into "$1" "${@:3}"
  mend_opencv "$1"
}

# finish_venv VENV LEVEL...
finish_venv() {
  local level
  for level in "${@:2}"; do stamp "$1" >"$1/.ready-$level"; done
  rm -rf -- "$1/.unfinished" "$root/.venv-cache"
}

prepare() {
  local level=$1 packages python
  [ -z "${EDGE_AGENT_PYTHON:-}" ] || "$EDGE_AGENT_PYTHON" -c 'import sys; sys.exit(sys.version_info < (3, 10))' ||
    die "EDGE_AGENT_PYTHON=$EDGE_AGENT_PYTHON is no Python 3.10 or newer" "$EX_UNAVAILABLE"
  if ready "$venv" "$level" && wanted "$venv"; then return; fi
  [ -w "$root" ] || die "cannot write to $root"
  mapfile -t packages < <(python_packages && opencv_packages)
  if [[ " ${packages[*]} " = *" python3-venv "* ]]; then
    require_packages "${packages[@]}"
  elif [ ${#packages[@]} -gt 0 ] && is_root; then
    install_packages "${packages[@]}" || say "going on without"
  fi
  python=$(find_python "${pythons[@]}") || die "no Python 3.10 or newer that can make virtual environments (tried: ${pythons[*]})" "$EX_UNAVAILABLE"
  trap 'say "error: not finished; the next run takes it up from here"' EXIT
  (
    flock 9
    wanted "$venv" || rm -rf -- "$venv"
    if ready "$venv" "$level"; then exit; fi
    case $level in
      demo)
        build_venv "$venv" "$python" -e '.[demo]'
        finish_venv "$venv" demo
        ;;
      test)
        build_venv "$venv" "$python" -e '.[demo]' --group test
        finish_venv "$venv" demo test
        ;;
      check)
        build_venv "$venv" "$python" -e '.[demo]' --group test --group check
        finish_venv "$venv" demo test check
        ;;
    esac
  ) 9<"$root"
  trap - EXIT
}
