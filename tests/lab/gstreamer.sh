#!/bin/bash
# Webcams through GStreamer: run as root inside a machine with kernel modules vivid and v4l2loopback, mosquitto, ffmpeg,
# v4l2-ctl, python3-gi, gir1.2-gst-plugins-base-1.0 and gstreamer1.0-plugins-good, after
#   python3 -m venv V && V/bin/pip install -e CHECKOUT
# as:  tests/lab/gstreamer.sh V/bin/edge-agent
# Tries YUYV and NV12 (vivid) and MJPG (v4l2loopback), a pipeline of one's own, unplug and replug in both ways, injected
# buffer errors, a busy device, a size that is not offered, a missing element, and a node that is no camera.
set -uo pipefail
agent=$1
work=$(mktemp -d)
trap 'kill $(jobs -p) 2>/dev/null; rm -rf "$work"' EXIT
failures=0
ok() { echo "ok      $*"; }
bad() { echo "FAILED  $*"; failures=$((failures + 1)); }
has() { if grep -qE -- "$1" "$2"; then ok "$3"; else bad "$3"; tail -5 "$2"; fi; }
await() { # await SECONDS PATTERN FILE [FROM-LINE]
  local end=$((SECONDS + $1))
  # Not grep -q: it would leave early, and end tail by SIGPIPE.
  until tail -n "+${4:-1}" "$3" 2>/dev/null | grep -E -- "$2" >/dev/null; do [ $SECONDS -lt $end ] || return 1; sleep 0.2; done
}
expect() { # expect SECONDS PATTERN TEXT: in what the broker sends from now on
  if await "$1" "$2" "$work/heard" "$(($(wc -l <"$work/heard") + 1))"; then ok "$3"; else
    bad "$3"
    tail -n 5 "$work/log" "$work/heard" | cut -c1-600
  fi
}

modprobe vivid n_devs=2 node_types=0x1,0x1 num_inputs=1,1 input_types=0x0,0x0
modprobe v4l2loopback devices=1 video_nr=20 card_label=loop exclusive_caps=1
udevadm settle
mapfile -t nodes < <(grep -l '^vivid' /sys/class/video4linux/*/name | sed 's,.*/\(video[0-9]*\)/name,/dev/\1,' | sort -V)
yuyv=${nodes[0]} nv12=${nodes[1]}
ffmpeg -nostdin -v error -re -stream_loop -1 -f lavfi -i testsrc2=size=640x480:rate=10 -c:v mjpeg -pix_fmt yuvj422p -f v4l2 /dev/video20 &
mosquitto -p 18830 >"$work/mosquitto.log" 2>&1 &
sleep 3

header() {
  cat <<T
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
T
}
camera() { # camera ID SOURCE LINE...
  printf '[[cameras]]\nid = "%s"\nsource = "%s"\nkind = "gstreamer"\n' "$1" "$2"
  shift 2
  printf '%s\n' "$@"
}
{
  header
  camera yuyv "$yuyv" 'width = 640' 'height = 360' 'format = "YUYV"'
  camera nv12 "$nv12" 'width = 640' 'height = 360' 'format = "NV12"'
  camera mjpg /dev/video20
  camera own 'videotestsrc is-live=true ! video/x-raw,width=322,height=242,framerate=5/1,format=RGB ! appsink'
} >"$work/agent.toml"

"$agent" check --probe -c "$work/agent.toml" >"$work/check" 2>&1; cat "$work/check"
has "ok .*camera yuyv: 640x360, none \(YUY2\)" "$work/check" "vivid gives YUYV at the size asked for"
has "ok .*camera nv12: 640x360, none \(NV12\)" "$work/check" "vivid gives NV12 at the size asked for"
has "ok .*camera mjpg: 640x480, jpeg" "$work/check" "v4l2loopback gives MJPG, not decoded by GStreamer"
has "ok .*camera own: 322x242, none \(RGB\)" "$work/check" "a pipeline of one's own"

{
  header
  camera odd "$yuyv" 'width = 641' 'height = 13' 'format = "YUYV"'
  camera nothing /dev/video99
  camera null /dev/null
} >"$work/wrong.toml"
"$agent" check --probe -c "$work/wrong.toml" >"$work/wrong" 2>&1; cat "$work/wrong"
has "failed.*camera odd.*the nearest is" "$work/wrong" "a size that is not offered is refused, and the nearest named"
has "failed.*camera nothing.*video99" "$work/wrong" "an absent device is said"
has "failed.*camera null" "$work/wrong" "a node that is no camera is said"
{
  header
  camera gone 'nosuchsrc ! appsink'
} >"$work/element.toml"
"$agent" check -c "$work/element.toml" >"$work/element" 2>&1
has "no element 'nosuchsrc'" "$work/element" "check names an element that is missing"

mosquitto_sub -p 18830 -v -t 'edge/#' >"$work/heard" &
"$agent" run -c "$work/agent.toml" >"$work/log" 2>&1 &
run=$!
for one in 'yuyv/detections .*"width":640,"height":360' 'nv12/detections .*"width":640,"height":360' \
  'mjpg/detections .*"width":640,"height":480' 'own/detections .*"width":322,"height":242'; do
  expect 60 "camera/$one" "frames are served: ${one%%/*}"
done
[ $failures -lt 4 ] || exit 1 # nothing below can work either

"$agent" check --probe -c "$work/agent.toml" >"$work/busy" 2>&1
has "failed.*camera yuyv.*([Bb]usy|another program)" "$work/busy" "a busy device is said"

v4l2-ctl -d "$yuyv" -c inject_v4l2_buf_flag_error=1 2>/dev/null || v4l2-ctl -d "$yuyv" -c percentage_of_dropped_buffers=30
expect 30 'camera/yuyv/detections' "frames are served beside damaged and dropped buffers"
v4l2-ctl -d "$yuyv" -c percentage_of_dropped_buffers=0

v4l2-ctl -d "$yuyv" -c disconnect=1
expect 30 'camera/yuyv/status .*"state":"backoff"' "unplugged: backoff is published"
expect 60 'camera/yuyv/detections' "and back: frames are served again"

echo vivid.0 >/sys/bus/platform/drivers/vivid/unbind
expect 40 'camera/yuyv/status .*"code":"(not_found|unplugged)"' "the node vanished: not_found or unplugged is published"
expect 10 'camera/nv12/detections' "the other cameras go on"
echo vivid.0 >/sys/bus/platform/drivers/vivid/bind
expect 90 'camera/yuyv/detections' "the node came back: frames are served again"

kill %1 # MJPG's ffmpeg: the stream stops, the node stays
expect 40 'camera/mjpg/status .*"state":"(backoff|stalled)"' "MJPG's sender ended: that is published"
ffmpeg -nostdin -v error -re -stream_loop -1 -f lavfi -i testsrc2=size=640x480:rate=10 -c:v mjpeg -pix_fmt yuvj422p -f v4l2 /dev/video20 &
expect 90 'camera/mjpg/detections' "MJPG's sender came back: frames are served again"

kill -0 $run && ok "the agent never restarted" || bad "the agent never restarted"
kill -TERM $run
wait $run; [ $? -eq 0 ] && ok "SIGTERM: exit 0" || bad "SIGTERM: exit 0"
grep -q Traceback "$work/log" && { bad "no traceback in the log"; grep -A20 Traceback "$work/log" | head -40; } || ok "no traceback in the log"
grep -q CRITICAL "$work/log" && { bad "GStreamer finds no fault with us"; grep CRITICAL "$work/log" | head; } || ok "GStreamer finds no fault with us"
tail -25 "$work/log"
[ $failures -eq 0 ] && echo "ALL OK" || echo "$failures FAILED"
exit $failures
