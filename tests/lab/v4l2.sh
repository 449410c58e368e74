#!/bin/bash
# Webcams for real: run as root inside a machine with kernel modules vivid and v4l2loopback, mosquitto and ffmpeg, after
#   python3 -m venv V && V/bin/pip install -e CHECKOUT
# as:  tests/lab/v4l2.sh V/bin/edge-agent [PHASE...]     (default: all of listing check h264 process errors unplugged renumbered sender)
# YUYV and NV12 (vivid, single- and multi-planar), MJPG and H.264 (v4l2loopback), controls, sizes that are not there, nodes that
# are no cameras, a busy device, permissions, errors that the driver injects, unplug and replug in two ways, another number,
# senders that stop, and a camera in a process of its own, as is the default.
set -uo pipefail
multiplanar=2 # of the second vivid
here=$(dirname "$(readlink -f "$0")")
# shellcheck source=tests/lab/lab.sh
source "$here/lab.sh"
lab
send_h264
for _ in $(seq 120); do # before that its node is no camera
  v4l2-ctl -d /dev/video21 --get-fmt-video 2>&1 | grep H264 >/dev/null && break
  sleep 0.5
done

if phase listing; then
  "$agent" devices --controls >"$work/devices" 2>&1
  has "source = \"$zero\"" "$work/devices" "devices prints the stable name to paste"
  has "^    NV12 .*640x360 \(.*30/25" "$work/devices" "with formats, sizes and rates"
  has '^    test_pattern = "75% Colorbar"    # "75% Colorbar", "100% Colorbar"' "$work/devices" "with controls, their values and what they take"
  has 'opens as MJPG 640x480' "$work/devices" "and what it would open as"
  has "vivid \(metadata: no camera\)" "$work/devices" "the metadata node is told apart"
  has "vivid \(output: no camera\)" "$work/devices" "the output node too"
  has "^decoders:" "$work/devices" "and what decodes here"
  "$agent" devices --json >"$work/json"; python3 - "$work/json" <<'P' && ok "the same as JSON" || bad "the same as JSON"
import json, sys
found = json.load(open(sys.argv[1]))
assert [c["role"] for c in found["cameras"]].count("camera") == 7, found
assert any(c["name"] == "brightness" and c["value"] == "128" for c in found["cameras"][0]["controls"])
P
  runuser -u nobody -- "$agent" devices >"$work/nobody" 2>&1
  has "belongs to the group 'video': sudo usermod -aG video" "$work/nobody" "an ordinary user is told the group"
fi
camera() { printf '[[cameras]]\nid = "%s"\nsource = "%s"\n%s\n' "$1" "$2" "${3-}"; }
rarely=$'\ninterval_s = 5' # the model is not what is tried here; it would leave an emulated machine little time for the cameras
{ header state
  camera yuyv $zero "$thread"$'\nmax_fps = 2\nformat = "YUYV"\nwidth = 640\nheight = 360\nfps = 5\ncontrols = { gain = 77, gain_automatic = false, test_pattern = "100% Green", brightness = 90 }'
  camera nv12 $one "$thread"$'\nwidth = 640\nheight = 360\nfps = 5\nformat = "NM12"'"$rarely"
  camera mjpg /dev/video20 "$thread$rarely"
  camera h264 /dev/video21 "$thread$rarely"$'\nformat = "H264"'
  camera typo $two "$thread"$'\ncontrols = { brightnes = 3 }'
  camera size $three "$thread"$'\nwidth = 641\nheight = 360'
  camera meta $meta "$thread"
} >"$work/agent.toml"

if phase check; then
  "$agent" check -c "$work/agent.toml" >"$work/valid" 2>&1 && ok "check without --probe looks at no device" || { bad "check"; cat "$work/valid"; }
  "$agent" check --probe -c "$work/agent.toml" >"$work/check" 2>&1; cut -c1-300 "$work/check"
  has "ok .*camera yuyv: 640x360, none \(YUYV\)" "$work/check" "vivid gives YUYV at the size asked for"
  has "ok .*camera nv12: 640x360, none \(NM12\)" "$work/check" "and multi-planar NV12"
  has "ok .*camera mjpg: 640x480, jpeg" "$work/check" "v4l2loopback gives MJPG"
  has "ok .*camera h264: 320x240, h264 \(FFmpeg, software\)" "$work/check" "and H.264"
  has "failed.*camera typo.*did you mean brightness\?" "$work/check" "a control that is none: the one that was meant"
  has "failed.*camera size.*does not offer 641x360; the nearest is 640x360" "$work/check" "a size that is none: the nearest"
  has "failed.*camera meta.*metadata; the camera is $zero" "$work/check" "a metadata node: the camera's node"
  # One by one in one process: each is opened and closed before the next.
  v4l2-ctl -d $two -c inject_vidioc_reqbufs_error=1
  v4l2-ctl -d $three -c inject_vidioc_streamon_error=1
  { header other
    camera reqbufs $two "$thread"
    camera streamon $three "$thread"
    camera recovered $two "$thread"
    camera range $two "$thread"$'\ncontrols = { brightness = 300 }'
    camera ruled $two "$thread"$'\ncontrols = { gain = 3 }'
    camera menu $two "$thread"$'\ncontrols = { test_pattern = "plaid" }'
    camera rate $two "$thread"$'\nwidth = 640\nheight = 360\nfps = 500'
    camera format $two "$thread"$'\nformat = "MJPG"'
    camera cheapest $two "$thread"$'\nwidth = 640\nheight = 360'
    camera folder /dev/v4l "$thread"
    camera unknown /dev/video77 "$thread"
  } >"$work/other.toml"
  "$agent" check --probe -c "$work/other.toml" >"$work/others" 2>&1; grep -E 'camera' "$work/others" | cut -c1-260
  try() { has "$2" "$work/others" "$1"; }
  try "an error when buffers are asked for" 'failed.*camera reqbufs: .*does not start'
  try "an error when streaming starts" 'failed.*camera streamon: .*does not start'
  try "and then it works" 'ok .*camera recovered: '
  try "a control out of its range" 'camera range: .*brightness = 300 is not possible: it takes 0 to 255'
  try "a control that another rules" 'camera ruled: .*gain has no effect while another control rules it; set that too: gain_automatic'
  try "a menu's names" 'camera menu: .*it takes "75% Colorbar", "100% Colorbar"'
  try "a rate that is none" 'camera rate: .*does not offer 640x360 at 500/s; the nearest is .* 640x360 at 40/s'
  try "a format that is not offered" 'camera format: .*does not offer format MJPG; it offers'
  try "the cheapest format by itself" 'ok .*camera cheapest: 640x360, none \(NV12\)'
  try "a directory" 'camera folder: /dev/v4l is a directory'
  try "an unknown device" 'camera unknown: .*does not exist; is the camera plugged in\?'
  { header nobody; camera only $two "$thread"; } >"$work/nobody.toml"; chmod 644 "$work/nobody.toml"; sed -i 's,^state_dir.*,state_dir = "/tmp/lab-nobody",' "$work/nobody.toml"
  runuser -u nobody -- "$agent" check --probe -c "$work/nobody.toml" >"$work/only" 2>&1
  has "failed.*camera only.*belongs to the group 'video'" "$work/only" "no permission: the group that owns the node"
  (cd /root && runuser -u nobody -- "$agent" check --probe -c "$work/nobody.toml") >"$work/only" 2>&1
  if has "failed.*camera only.*belongs to the group 'video'" "$work/only" "the same from a folder that it may not enter"; then
    grep -q Traceback "$work/only" && bad "without a traceback" || ok "without a traceback"
  fi
fi

if phase h264; then
  "$(dirname "$agent")/python" "$here/h264_pictures.py" /dev/video21 "$work/h264.ts" >"$work/pictures" 2>&1 &&
    ok "each picture is one of those that were sent: $(tail -n 2 "$work/pictures" | head -n 1)" || bad "the pictures of H.264"
  cat "$work/pictures"
fi

echo "--- run"
camera apart $four $'width = 640\nheight = 360\nfps = 5\nformat = "YUYV"'"$rarely" >>"$work/agent.toml"
hold
listen
started "$work/agent.toml"
since 120 'camera/yuyv/detections .*"width":640,"height":360' "YUYV frames are served"
since 60 'camera/nv12/detections .*"width":640,"height":360' "NV12 frames are served"
since 60 'camera/mjpg/detections .*"width":640,"height":480' "MJPG frames are served"
since 60 'camera/h264/detections .*"width":320,"height":240' "H.264 frames are served"
since 30 'camera/h264/status .*"mode":"H264 320x240 at' "its mode is in the status"
since 30 'camera/h264/status .*"decoder":"h264 .FFmpeg, software.' "and its decoder"
since 30 'camera/yuyv/status .*"mode":"YUYV 640x360 at 5/s"' "the negotiated mode is in the status"
since 30 'camera/typo/status .*"code":"unsupported".*did you mean brightness' "a wrong control is that camera's state"
since 30 'camera/size/status .*"code":"unsupported".*the nearest is 640x360' "so is a size that is not offered"
since 30 'camera/meta/status .*"code":"not_found".*the camera is /dev/v4l/by-id/usb-Lab_Zero_SN0-video-index0' "so is a metadata node"
v4l2-ctl -d $zero -C gain,gain_automatic,brightness,test_pattern >"$work/controls"; tr '\n' ' ' <"$work/controls"; echo
has 'gain: 77' "$work/controls" "a control is set after the automatic that ruled it"
has 'test_pattern: 1 |test_pattern: 8' "$work/controls" "a menu by its name"
has 'brightness: 90' "$work/controls" "a number"

if phase process; then apart; fi
before=$(descriptors $run)

if phase errors; then
  mark
  for _ in $(seq 12); do # each time one buffer; one that nobody would have served is left out like any other, and not counted
    v4l2-ctl -d $zero -c inject_v4l2_buf_flag_error=1
    sleep 0.4
  done
  since 20 '"unreadable":[1-9]' "a buffer marked as damaged is one lost frame"
  mark
  v4l2-ctl -d $zero -c inject_vidioc_qbuf_error=1
  since 30 'camera/yuyv/detections' "a buffer that is not taken back costs nothing"
  not_since 'camera/yuyv/status .*backoff' "and no reconnect"
  mark
  v4l2-ctl -d $zero -c inject_fatal_streaming_error=1
  since 30 'camera/yuyv/status .*"state":"(backoff|connecting)".*Input/output error' "a fatal streaming error is published"
  mark # a status of before was "online", too
  since 60 'camera/yuyv/status .*"state":"online"' "and it is online again"
  served 60 yuyv "and frames are served"
fi

if phase unplugged; then
  for round in 1 2 3; do
    mark
    v4l2-ctl -d $zero -c disconnect=1
    since 30 'camera/yuyv/status .*"state":"backoff".*"code":"unplugged"' "way A, $round: unplugged is published"
    mark # a status of before was "online", too
    since 60 'camera/yuyv/status .*"state":"online"' "way A, $round: online again"
  done
  served 60 yuyv "way A: frames are served again"
  for round in 1 2; do
    mark
    unbind
    since 30 'camera/yuyv/status .*"code":"(not_found|unplugged)"' "way B, $round: the node vanished, published"
    served 30 mjpg "way B, $round: the other camera goes on"
    mark
    rebind
    for name in yuyv nv12 apart; do since 60 "camera/$name/status .*\"state\":\"online\"" "way B, $round: $name is online again"; done
  done
  served 60 yuyv "way B: frames are served again"
fi

if phase renumbered; then
  was=$(readlink -f $zero)
  mark
  renumber
  since 60 'camera/yuyv/status .*"code":"(not_found|unplugged)"' "renumbered: the node vanished, published"
  mark # a status of before was "online", too
  [ "$(readlink -f $zero)" != "$was" ] && ok "renumbered: $was became $(readlink -f $zero)" || bad "renumbered: $was"
  since 90 'camera/yuyv/status .*"state":"online"' "renumbered: online again through its link"
  v4l2-ctl -d $zero -C gain,brightness >"$work/controls"
  has 'gain: 77' "$work/controls" "renumbered: controls are set again"
  served 60 yuyv "renumbered: frames are served"
fi

if phase sender; then
  mark
  halt $sender
  since 40 'camera/mjpg/status .*"state":"(backoff|stalled)"' "its sender stopped: that is published"
  mark # a status of before was "online", too
  go_on $sender
  since 90 'camera/mjpg/status .*"state":"online"' "its sender goes on: online again"
  served 60 mjpg "and frames are served"
  mark
  halt $coder
  since 40 'camera/h264/status .*"state":"(backoff|stalled)"' "so did that of H.264: published"
  mark
  go_on $coder
  since 90 'camera/h264/status .*"state":"online"' "and goes on: online again"
  served 60 h264 "and frames are served"
fi
flat "the agent" "$before" "$(descriptors $run)"
finish
