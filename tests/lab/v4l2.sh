#!/bin/bash
# Webcams for real: run as root inside a machine with kernel modules vivid and v4l2loopback, mosquitto and ffmpeg, after
#   python3 -m venv V && V/bin/pip install -e CHECKOUT
# as:  tests/lab/v4l2.sh V/bin/edge-agent
# Tries YUYV (vivid) and MJPG (v4l2loopback), unplug and replug, a busy device, and a node that is no camera.
set -uo pipefail
agent=$1
work=$(mktemp -d)
trap 'kill $(jobs -p) 2>/dev/null; rm -rf "$work"' EXIT
failures=0
ok() { echo "ok      $*"; }
bad() { echo "FAILED  $*"; failures=$((failures + 1)); }
has() { if grep -qE -- "$1" "$2"; then ok "$3"; else bad "$3"; tail -5 "$2"; fi; }
await() { # await SECONDS PATTERN FILE
  local end=$((SECONDS + $1))
  until grep -qE -- "$2" "$3" 2>/dev/null; do [ $SECONDS -lt $end ] || return 1; sleep 0.2; done
}

modprobe vivid n_devs=1 node_types=0x1 num_inputs=1 input_types=0x0
modprobe v4l2loopback devices=1 video_nr=20 card_label=loop exclusive_caps=1
udevadm settle
vivid=$(readlink -f /dev/v4l/by-path/*vivid* 2>/dev/null | head -1)
vivid=${vivid:-$(grep -lr vivid /sys/class/video4linux/*/name | head -1 | sed 's,.*/\(video[0-9]*\)/name,/dev/\1,')}
ffmpeg -nostdin -v error -re -stream_loop -1 -f lavfi -i testsrc2=size=640x480:rate=10 -c:v mjpeg -pix_fmt yuvj422p -f v4l2 /dev/video20 &
mosquitto -p 18830 >"$work/mosquitto.log" 2>&1 &
sleep 3

"$agent" devices >"$work/devices" 2>&1; cat "$work/devices"
has "source = " "$work/devices" "devices prints the line to paste"

cat >"$work/agent.toml" <<T
[device]
id = "lab"
state_dir = "state"
[model]
threads = 2
[mqtt]
host = "127.0.0.1"
port = 18830
[health]
interval_s = 1
[[cameras]]
id = "yuyv"
source = "$vivid"
width = 640
height = 360
[[cameras]]
id = "mjpg"
source = "/dev/video20"
width = 640
height = 480
T
"$agent" check --probe -c "$work/agent.toml" >"$work/check" 2>&1; cat "$work/check"
has "ok .*camera yuyv: 640x360, none \(YUYV\)" "$work/check" "vivid gives YUYV at the size asked for"
has "ok .*camera mjpg: 640x480, jpeg" "$work/check" "v4l2loopback gives MJPG"

mosquitto_sub -p 18830 -v -t 'edge/#' >"$work/heard" &
"$agent" run -c "$work/agent.toml" >"$work/log" 2>&1 &
run=$!
await 120 'camera/yuyv/detections .*"width":640,"height":360' "$work/heard" && ok "YUYV frames are served" || bad "YUYV frames are served"
await 60 'camera/mjpg/detections .*"width":640,"height":480' "$work/heard" && ok "MJPG frames are served" || bad "MJPG frames are served"

"$agent" check --probe -c "$work/agent.toml" >"$work/busy" 2>&1
has "failed.*camera yuyv.*(busy|another program)" "$work/busy" "a busy device is said"

v4l2-ctl -d "$vivid" -c disconnect=1
await 30 'camera/yuyv/status .*"state":"backoff"' "$work/heard" && ok "unplugged: backoff is published" || bad "unplugged: backoff is published"
: >"$work/heard.seen"
lines=$(wc -l <"$work/heard")
back() { tail -n "+$((lines + 1))" "$work/heard" >"$work/after"; await 1 'camera/yuyv/detections' "$work/after"; }
for _ in $(seq 60); do back && break; sleep 0.5; done
back && ok "and back: frames are served again" || bad "and back: frames are served again"

echo vivid.0 >/sys/bus/platform/drivers/vivid/unbind
lines=$(wc -l <"$work/heard")
gone() { tail -n "+$((lines + 1))" "$work/heard" >"$work/after"; await 1 'camera/yuyv/status .*"code":"(not_found|unplugged)"' "$work/after"; }
for _ in $(seq 60); do gone && break; sleep 0.5; done
gone && ok "the node vanished: not_found is published" || bad "the node vanished: not_found is published"
echo vivid.0 >/sys/bus/platform/drivers/vivid/bind
lines=$(wc -l <"$work/heard")
for _ in $(seq 120); do back && break; sleep 0.5; done
back && ok "the node came back: frames are served again" || bad "the node came back: frames are served again"
kill -0 $run && ok "the agent never restarted" || bad "the agent never restarted"
kill -TERM $run
wait $run; [ $? -eq 0 ] && ok "SIGTERM: exit 0" || bad "SIGTERM: exit 0"
grep -q Traceback "$work/log" && { bad "no traceback in the log"; grep -A20 Traceback "$work/log" | head -40; } || ok "no traceback in the log"
tail -12 "$work/log"
[ $failures -eq 0 ] && echo "ALL OK" || echo "$failures FAILED"
exit $failures
