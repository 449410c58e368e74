# shellcheck shell=bash disable=SC2154 # variables of _appliance.sh and of install
# Releases: one virtual environment each, built where it stays, beside the one that runs. Read by scripts/install.

# shellcheck disable=SC2034 # for install
readonly NEEDED_MB=900
# Never built here: it would take an hour, or end in an error that nobody can read.
readonly compiled=numpy,opencv-python,opencv-python-headless,av,onnxruntime,ai-edge-litert,pydantic-core,protobuf,ml-dtypes

# find_wheel: sets wheel, from --wheel or from the folder of --offline; without both it is built later
find_wheel() {
  [ -z "$wheel" ] && [ -n "$offline" ] || return 0
  wheel=$(find "$offline" -maxdepth 1 -name 'edge_agent-*-py3-none-any.whl' | sort -V | tail -n 1)
  [ -n "$wheel" ] || die "$offline holds no edge_agent-*.whl; make the folder on a machine like this one, with a network: python3 -m pip wheel -w FOLDER $root" "$EX_CONFIG"
}

# built_wheel: prints the path of a wheel made from the checkout
built_wheel() {
  local builder=$prefix/.build
  say "building a wheel from $root"
  rm -rf -- "$builder"
  create_venv "$builder" "$python" >&2
  "$builder/bin/python" -m pip wheel -q --no-deps -w "$builder/wheel" "$root" >&2 || die "no wheel could be built from $root (see above); nothing was changed"
  echo "$builder"/wheel/edge_agent-*.whl
}

# name_release: sets release (the folder) and version; another wheel of the same version gets a name of its own
name_release() {
  local file=${wheel##*/} sum
  version=${file#edge_agent-} version=${version%%-*}
  sum=$(sha256sum <"$wheel") sum=${sum%% *}
  release=$releases/$version
  if [ -f "$release/.wheel" ] && [ "$(<"$release/.wheel")" != "$sum" ]; then release=$release-${sum:0:8}; fi
  wheel_sum=$sum
}

complete() { [ -f "$release/.wheel" ] && [ "$(<"$release/.wheel")" = "$wheel_sum" ]; }

# system_packages: prints whether the environment is to see the distribution's Python packages, and why
system_packages() {
  [ "$(platform)" != jetson ] || { echo "NVIDIA's packages"; return; }
  if "$python" -c 'import gi' 2>/dev/null; then echo "GStreamer's bindings"; fi
}

build_release() {
  local why options=() index=()
  if complete; then return; fi
  why=$(system_packages)
  [ -z "$why" ] || { options=(--system-site-packages) && say "the environment sees the distribution's Python packages, for $why"; }
  [ -z "$offline" ] || index=(--no-index --find-links "$offline")
  say "building $release ($("$python" --version)); the first time it takes some minutes"
  rm -rf -- "$release"
  export TMPDIR=$prefix/.tmp PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_INPUT=1
  mkdir -p -- "$TMPDIR" "$releases"
  create_venv "$release" "$python" "${options[@]}"
  if ! pip_install "${index[@]}" "$wheel"; then
    drop_release
    if [ -n "$offline" ]; then
      die "the packages above are not in $offline, or not for this machine ($("$python" -c 'import sysconfig; print(sysconfig.get_platform())'), $("$python" --version)). Nothing was changed. On such a machine with a network: python3 -m pip wheel -w FOLDER $root" "$EX_CONFIG"
    fi
    die "Python packages could not be installed (see above); nothing was changed" "$EX_UNAVAILABLE"
  fi
  prefer_nvidia
  mend_offline_opencv "${index[@]}" || { drop_release && die "OpenCV does not load here; install libgl1 and libglib2.0-0, or put opencv_python_headless into the folder" "$EX_UNAVAILABLE"; }
  "$release/bin/edge-agent" version >/dev/null || { drop_release && die "what was installed does not run (see above); nothing was changed"; }
  mkdir -p -- "$release/share/edge-agent"
  cp -r -- "$root/systemd" "$release/share/edge-agent/"
  rm -rf -- "$release/.unfinished" "$TMPDIR"
  sync -f "$release"
  printf '%s\n' "$wheel_sum" >"$release/.wheel"
}

# pip_install ARGUMENT...
pip_install() { "$release/bin/python" -m pip install -q --no-cache-dir --only-binary="$compiled" "$@" 2>&1 | sed 's/^/  /' >&2; }

# Where the distribution has NVIDIA's ONNX Runtime, PyPI's must not hide it: both are the module onnxruntime.
prefer_nvidia() {
  "$python" -c 'import importlib.metadata as m; m.version("onnxruntime-gpu")' 2>/dev/null || return 0
  say "using the onnxruntime-gpu that is installed, in place of PyPI's onnxruntime"
  "$release/bin/python" -m pip uninstall -q -y onnxruntime
}

# As mend_opencv, from the folder where there is no network.
mend_offline_opencv() {
  local version
  "$release/bin/python" -c 'import cv2' 2>/dev/null && return
  version=$("$release/bin/python" -c 'import importlib.metadata as m; print(m.version("opencv-python"))')
  say "OpenCV does not load here: taking opencv-python-headless, which needs no system packages and opens no windows"
  "$release/bin/python" -m pip uninstall -q -y opencv-python
  pip_install "$@" --force-reinstall --no-deps "opencv-python-headless==$version" && "$release/bin/python" -c 'import cv2'
}

drop_release() { rm -rf -- "$release"; }

# drop_unused: a release that did not come to be used goes
drop_unused() {
  [ -n "${release:-}" ] && [[ " $(current_release) $(previous_release) " != *" ${release##*/} "* ]] && drop_release
  return 0
}

# prune_releases: the one that runs and the one before stay
prune_releases() {
  local each kept
  kept=" $(current_release) $(previous_release) "
  for each in "$releases"/*; do
    [[ $kept = *" ${each##*/} "* ]] || rm -rf -- "$each"
  done
  rm -rf -- "$prefix/.build" "$prefix/.tmp"
}
