#!/bin/bash
# The same on arm64, in a userland that qemu-user emulates: installs for one user, checks, inspects the model, and runs a clip through it
# to a real broker of this machine; then does the run here, and compares. Run as root from a checkout:
#   tests/lab/arm64.sh LAB [MODEL...]      LAB: the folder with arm64-run.sh; MODEL: more .onnx or .tflite files to compare
# shellcheck disable=SC2015,SC2016 # ok and bad always succeed
set -uo pipefail
lab=$(readlink -f "$1")
shift
root=$(readlink -f "$(dirname "$0")/../..")
work=${LAB_WORK:-$(mktemp -d)} # LAB_WORK: a folder to keep, so that the next run finds the installation
trap 'kill $(jobs -p) 2>/dev/null; [ -n "${LAB_WORK:-}" ] || rm -rf "$work"' EXIT
failures=0
ok() { echo "ok      $*"; }
bad() { echo "FAILED  $*"; failures=$((failures + 1)); }
python=$root/.venv/bin/python
port=18831
mkdir -p "$work/share"
rm -rf "$work/share/checkout"
(cd "$root" && git ls-files | tar cf - -T -) | (mkdir "$work/share/checkout" && tar xf - -C "$work/share/checkout")
ffmpeg -nostdin -v error -y -i "$root/edge_agent/data/people_cross.mp4" -c copy -frames:v "${LAB_FRAMES:-40}" "$work/share/clip.mp4"
mosquitto -p $port >"$work/mosquitto.log" 2>&1 &
until mosquitto_pub -p $port -t lab -m x 2>/dev/null; do sleep 0.1; done

settings() { # settings WHERE MODEL: of a run, with paths as they are there
  printf '[device]\nid = "%s"\nstate_dir = "%s"\n[mqtt]\nhost = "127.0.0.1"\nport = %s\n[model]\n%s\nthreads = 1\nlanes = 1\n[[cameras]]\nid = "clip"\nsource = "%s/clip.mp4"\n' \
    "$(basename "$1")" "/tmp/state-$(basename "$1")" $port "$2" "$1"
}
emulated() { "$lab/arm64-run.sh" -s "$work/share" - 2>&1; }
listen() { mosquitto_sub -p $port -t "edge/$1/camera/clip/detections" >"$work/$1.$2" & }

from=$SECONDS
emulated <<'S' >"$work/install" && ok "scripts/install --user --no-start ($((SECONDS - from)) s, emulated)" || { bad "install"; tail -n 20 "$work/install"; exit 1; }
set -e
uname -m
export HOME=/host/home; mkdir -p $HOME
/host/checkout/scripts/install --user --no-start
$HOME/.local/bin/edge-agent version
$HOME/.local/bin/edge-agent check
$HOME/.local/bin/edge-agent model inspect "$(find $HOME/.local -name oid_int8_pp.tflite)"
$HOME/.local/bin/edge-agent doctor || true
S
grep -q '^aarch64' "$work/install" && ok "on aarch64: $(grep -E '^(onnxruntime|ai-edge-litert|numpy|av) ' "$work/install" | tr '\n' ',')" || bad "not on aarch64"
grep -q ': valid, ' "$work/install" && ok "edge-agent check" || { bad "edge-agent check"; tail -n 30 "$work/install"; }
sed -n '/^family/,/^verdict/p' "$work/install"

number=0
for model in builtin "$@"; do
  number=$((number + 1))
  if [ "$model" = builtin ]; then here='path = "builtin"' there=$here; else
    cp "$model" "$work/share/"
    here="path = \"$work/share/$(basename "$model")\"" there="path = \"/host/$(basename "$model")\""
  fi
  settings /host "$there" >"$work/share/agent.toml"
  settings "$work/share" "$here" >"$work/agent.toml"
  listen host $number
  listen share $number
  sleep 1
  from=$SECONDS
  echo 'export HOME=/host/home; exec $HOME/.local/bin/edge-agent run -c /host/agent.toml' | emulated >"$work/run" && ok "$(basename "$model"): the clip on arm64 ($((SECONDS - from)) s, emulated)" || { bad "run"; tail "$work/run"; }
  "$root/.venv/bin/edge-agent" run -c "$work/agent.toml" >"$work/run" 2>&1 && ok "$(basename "$model"): and here" || { bad "run here"; tail "$work/run"; }
  sleep 1
  "$python" "$root/tests/lab/same_detections.py" "$work/host.$number" "$work/share.$number" || failures=$((failures + 1))
done
[ $failures -eq 0 ] && echo "ALL OK" || echo "$failures FAILED"
exit $failures
