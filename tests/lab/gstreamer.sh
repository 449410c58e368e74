#!/bin/bash
# Webcams through GStreamer: run as root inside a machine with kernel modules vivid and v4l2loopback, mosquitto, ffmpeg,
# v4l2-ctl, python3-gi, gir1.2-gst-plugins-base-1.0 and gstreamer1.0-plugins-good, after
#   python3 -m venv V && V/bin/pip install -e CHECKOUT
# as:  tests/lab/gstreamer.sh V/bin/edge-agent [PHASE...]     (default: all of check process errors unplugged renumbered sender)
# YUYV and NV12 (vivid), MJPG (v4l2loopback), a pipeline of one's own that sets controls, sizes that are not there, nodes
# that are no cameras, a missing element, a busy device, permissions, errors that the driver injects, unplug and replug in two
# ways, another number, a sender that stops, and a camera in a process of its own, as is the default.
set -uo pipefail
# shellcheck source=tests/lab/lab.sh
source "$(dirname "$(readlink -f "$0")")/lab.sh"
lab
camera() { # camera ID SOURCE [LINES]. v4l2src asks for every rate of every size of vivid's 40 formats: 5 s, where nothing else runs;
  # and the model is not what is tried here: more frames for it would leave an emulated machine little time for the cameras
  printf "[[cameras]]\nid = \"%s\"\nsource = '%s'\nkind = \"gstreamer\"\nopen_timeout_s = 30\nmax_fps = 1\n%s\n" "$1" "$2" "${3-}"
}
small=$'width = 640\nheight = 360\nfps = 5'
own="v4l2src device=$two extra-controls=c,brightness=77 ! video/x-raw,format=YUY2,width=640,height=360,framerate=5/1 ! appsink"
cameras() {
  camera yuyv $zero $'format = "YUYV"\n'"$small"
  camera nv12 $one $'format = "NV12"\n'"$small"
  camera mjpg /dev/video20 "$thread"
  camera own "$own" ""
  camera size $three "$thread"$'\nwidth = 641\nheight = 361\nformat = "YUYV"'
  camera meta $meta "$thread"
}
{ header state; cameras; camera apart $four "$small"$'\nformat = "YUYV"'; } >"$work/agent.toml"

if phase check; then
  { header element; camera gone 'nosuchsrc ! appsink'; } >"$work/element.toml"
  "$agent" check -c "$work/element.toml" >"$work/element" 2>&1
  has "no element 'nosuchsrc'" "$work/element" "check names an element that is missing"
  { header other; cameras; camera nothing /dev/video99 "$thread"; camera null /dev/null "$thread"; } >"$work/check.toml"
  "$agent" check --probe -c "$work/check.toml" >"$work/check" 2>&1; cut -c1-300 "$work/check"
  has "ok .*camera yuyv: 640x360, none \(YUY2\)" "$work/check" "vivid gives YUYV at the size asked for"
  has "ok .*camera nv12: 640x360, none \(NV12\)" "$work/check" "vivid gives NV12 at the size asked for"
  has "ok .*camera mjpg: 640x480, jpeg" "$work/check" "v4l2loopback gives MJPG, not decoded by GStreamer"
  has "ok .*camera own: 640x360, none \(YUY2\)" "$work/check" "a pipeline of one's own"
  has "failed.*camera size.*does not offer 641x361.*the nearest is 640x360" "$work/check" "a size that is none: the nearest"
  has "failed.*camera meta.*metadata; the camera is $zero" "$work/check" "a metadata node: the camera's node"
  has "failed.*camera nothing.*video99 does not exist" "$work/check" "an absent device is said"
  has "failed.*camera null.*it is no V4L2 device" "$work/check" "a node that is no camera is said"
  { header nobody; camera only $two "$thread"; } >"$work/nobody.toml"
  sed -i 's,^state_dir.*,state_dir = "/tmp/lab-nobody",' "$work/nobody.toml"
  runuser -u nobody -- "$agent" check --probe -c "$work/nobody.toml" >"$work/only" 2>&1
  has "failed.*camera only.*belongs to the group 'video'" "$work/only" "no permission: the group that owns the node"
fi

echo "--- run"
hold
listen
started "$work/agent.toml"
since 120 'camera/yuyv/detections .*"width":640,"height":360' "YUYV frames are served"
since 60 'camera/nv12/detections .*"width":640,"height":360' "NV12 frames are served"
since 60 'camera/mjpg/detections .*"width":640,"height":480' "MJPG frames are served"
since 60 'camera/own/detections .*"width":640,"height":360' "frames of a pipeline of one's own are served"
[ $failures -lt 4 ] || { tail -n 20 "$work/log"; exit 1; } # nothing below can work either
since 30 'camera/yuyv/status .*"mode":"YUY2 640x360 at 5/s"' "the negotiated mode is in the status"
since 30 'camera/size/status .*"code":"unsupported".*the nearest is 640x360' "a size that is not offered is that camera's state"
since 30 'camera/meta/status .*"code":"not_found".*the camera is /dev/v4l/by-id/usb-Lab_Zero_SN0-video-index0' "so is a metadata node"
v4l2-ctl -d $two -C brightness >"$work/controls"
has 'brightness: 77' "$work/controls" "a control that the pipeline sets"
if phase process; then apart; fi
before=$(descriptors $run)

if phase errors; then
  mark
  v4l2-ctl -d $zero -c inject_v4l2_buf_flag_error=1
  v4l2-ctl -d $zero -c percentage_of_dropped_buffers=30
  served 60 yuyv "frames are served beside damaged and dropped buffers"
  v4l2-ctl -d $zero -c percentage_of_dropped_buffers=0
  not_since 'camera/yuyv/status .*backoff' "and no reconnect"
  mark
  v4l2-ctl -d $zero -c inject_vidioc_qbuf_error=1
  since 60 'camera/yuyv/detections' "a buffer that is not taken back: frames go on"
  served 60 yuyv "and further"
  mark
  v4l2-ctl -d $zero -c inject_fatal_streaming_error=1
  since 30 'camera/yuyv/status .*"state":"(backoff|connecting)".*"code":' "a fatal streaming error is published"
  heard | grep camera/yuyv/status | grep -m1 -oE '"code":"[a-z_]+","message":"[^"]*"'
  mark # a status of before was "online", too
  since 60 'camera/yuyv/status .*"state":"online"' "and it is online again"
  served 60 yuyv "and frames are served"
fi

if phase unplugged; then
  for round in 1 2; do
    mark
    v4l2-ctl -d $zero -c disconnect=1
    since 30 'camera/yuyv/status .*"state":"backoff".*"code":"unplugged"' "way A, $round: unplugged is published"
    mark # a status of before was "online", too
    since 150 'camera/yuyv/status .*"state":"online"' "way A, $round: online again"
  done
  served 90 yuyv "way A: frames are served again"
  for round in 1 2; do
    mark
    unbind
    since 30 'camera/yuyv/status .*"code":"(not_found|unplugged)"' "way B, $round: the node vanished, published"
    since 30 'camera/own/status .*"code":"(not_found|unplugged)"' "way B, $round: of the pipeline of one's own, too"
    served 30 mjpg "way B, $round: the other camera goes on"
    mark
    rebind
    for name in yuyv nv12 own apart; do since 150 "camera/$name/status .*\"state\":\"online\"" "way B, $round: $name is online again"; done
  done
  served 90 yuyv "way B: frames are served again"
fi

if phase renumbered; then
  was=$(readlink -f $zero)
  mark
  renumber
  since 60 'camera/yuyv/status .*"code":"(not_found|unplugged)"' "renumbered: the node vanished, published"
  mark # a status of before was "online", too
  [ "$(readlink -f $zero)" != "$was" ] && ok "renumbered: $was became $(readlink -f $zero)" || bad "renumbered: $was"
  since 150 'camera/yuyv/status .*"state":"online"' "renumbered: online again through its link"
  since 150 'camera/own/status .*"state":"online"' "renumbered: the pipeline of one's own, too"
  served 90 yuyv "renumbered: frames are served"
  v4l2-ctl -d $two -C brightness >"$work/controls"
  has 'brightness: 77' "$work/controls" "renumbered: the control is set again"
fi

if phase sender; then
  mark
  halt $sender
  since 40 'camera/mjpg/status .*"state":"(backoff|stalled)"' "its sender stopped: that is published"
  mark # a status of before was "online", too
  go_on $sender
  since 150 'camera/mjpg/status .*"state":"online"' "its sender goes on: online again"
  served 90 mjpg "and frames are served"
fi
flat "the agent" "$before" "$(descriptors $run)"
grep -q CRITICAL "$work/log" && { bad "GStreamer finds no fault with us"; grep CRITICAL "$work/log" | sed -n 1,10p; } || ok "GStreamer finds no fault with us"
finish
