# shellcheck shell=bash
# What the scenarios of this folder have in common. They read it with "source", as root, in a machine of the lab:
# cameras and their udev links, a broker, and what to say of what is seen. Kernel modules: vivid, v4l2loopback.
agent=$1 phases=${*:2}
work=$(mktemp -d)
chmod 755 "$work"
cd "$work" || exit 1 # where an ordinary user may be, too
trap 'kill $(jobs -p) 2>/dev/null; rm -rf "$work" /run/udev/rules.d/99-lab.rules' EXIT
failures=0 lines=0
# In threads, unless LAB_ISOLATION says otherwise: a process of its own, the default, takes an emulated machine over 10 s to start.
thread="isolation = \"${LAB_ISOLATION:-thread}\""

phase() { # phase NAME: whether it is to be run, and its headline
  [[ " ${phases:-$1} " == *" $1 "* ]] && echo "--- $1"
}
ok() { echo "ok      $*"; }
bad() { echo "FAILED  $*"; failures=$((failures + 1)); }
has() { # has PATTERN FILE WHAT
  if grep -qE -- "$1" "$2"; then ok "$3"; return 0; fi
  bad "$3"
  tail -n 5 "$2" | cut -c1-600
  return 1
}
mark() { lines=$(wc -l <"$work/heard"); }
heard() { tail -n "+$((lines + 1))" "$work/heard"; }
since() { # since SECONDS PATTERN WHAT: the broker sent that since the last mark. Says how long it took from here.
  local from=$SECONDS most=$(($1 * ${LAB_PATIENCE:-1})) # LAB_PATIENCE=4: on a machine that others use, too
  until heard | grep -E -- "$2" >/dev/null; do # not grep -q: it would end tail by SIGPIPE
    kill -0 "$run" 2>/dev/null || { bad "$3 (the agent has ended)"; finish; }
    if [ $((SECONDS - from)) -ge $most ]; then
      bad "$3 (not within $most s)"
      heard | grep /status | tail -n 3 | cut -c1-600
      return 1
    fi
    sleep 0.5 # to look costs three processes
  done
  ok "$3 ($((SECONDS - from)) s)"
}
not_since() { # not_since PATTERN WHAT
  if heard | grep -E -- "$1" >/dev/null; then bad "$2"; heard | grep -E -- "$1" | head -n 2 | cut -c1-600; else ok "$2"; fi
}
served() { # served SECONDS CAMERA WHAT: frames, from now on
  mark
  since "$1" "camera/$2/detections" "$3"
}
descriptors() { # descriptors PROCESS: the least of some looks, since files and devices are read for a moment all the time
  local least=99999 now
  for _ in 1 2 3 4 5 6; do
    now=$(find "/proc/$1/fd" -mindepth 1 2>/dev/null | wc -l)
    [ "$now" -lt $least ] && least=$now
    sleep 0.3
  done
  echo "$least"
}
flat() { # flat WHAT BEFORE NOW
  if [ "$3" -le $(($2 + 1)) ]; then ok "descriptors of $1 do not grow: $2, then $3"; else bad "descriptors of $1 grow: $2, then $3"; fi
}

# vivid 0: a camera with its metadata node; 1: with an output node, and multi-planar if the scenario says so; the rest: plain.
# There are no USB links in a machine without USB: rules like udev's own make them.
names=(Zero One Two Three Four)
id=/dev/v4l/by-id
vivid="n_devs=5 node_types=0x20001,0x101,0x1,0x1,0x1 multiplanar=1,${multiplanar:-1},1,1,1 num_inputs=1,1,1,1,1 input_types=0x0,0x0,0x0,0x0,0x0 num_outputs=1,1,1,1,1"
zero=$id/usb-Lab_Zero_SN0-video-index0 meta=$id/usb-Lab_Zero_SN0-video-index1 one=$id/usb-Lab_One_SN1-video-index0
two=$id/usb-Lab_Two_SN2-video-index0 three=$id/usb-Lab_Three_SN3-video-index0 four=$id/usb-Lab_Four_SN4-video-index0
links() {
  mkdir -p /run/udev/rules.d
  for number in 0 1 2 3 4; do
    echo "SUBSYSTEM==\"video4linux\", ATTR{name}==\"vivid-00$number-vid-cap\", SYMLINK+=\"v4l/by-id/usb-Lab_${names[number]}_SN$number-video-index0\""
    echo "SUBSYSTEM==\"video4linux\", ATTR{name}==\"vivid-00$number-meta-cap\", SYMLINK+=\"v4l/by-id/usb-Lab_${names[number]}_SN$number-video-index1\""
  done >/run/udev/rules.d/99-lab.rules
  udevadm control --reload
}
plug() { # plug [OPTION]: all vivid cameras
  # shellcheck disable=SC2086
  modprobe vivid $vivid "$@"
  udevadm settle
}
unbind() { echo vivid.0 >/sys/bus/platform/drivers/vivid/unbind; }
rebind() { echo vivid.0 >/sys/bus/platform/drivers/vivid/bind; }
renumber() { # all vivid cameras come back with other numbers
  unbind
  for _ in $(seq 60); do rmmod vivid 2>/dev/null && break; sleep 0.5; done # whoever had it open lets go first
  plug vid_cap_nr=40,41,42,43,44
}
stream() { # stream FILE NODE &: over and over, until it is told to end. A node that somebody looks at takes no writer just then: again
  local writer=
  trap 'kill $writer 2>/dev/null; exit' TERM
  while :; do
    ffmpeg -nostdin -v error -re -stream_loop -1 -i "$1" -c:v copy -f v4l2 "$2" &
    writer=$!
    wait $writer
    sleep 0.3
  done
}
send_mjpg() { # encoded once: to encode all the time takes an emulated machine one of its two cores
  [ -e "$work/mjpg.avi" ] || ffmpeg -nostdin -v error -f lavfi -i testsrc2=size=640x480:rate=10 -t 3 -c:v mjpeg -pix_fmt yuvj422p "$work/mjpg.avi"
  stream "$work/mjpg.avi" /dev/video20 &
  sender=$!
}
send_h264() { # a key frame each second. Looped as MPEG-TS: of AVI its times, of MP4 its bitstream filter end with the first round
  [ -e "$work/h264.ts" ] || ffmpeg -nostdin -v error -f lavfi -i testsrc2=size=320x240:rate=5 -t 4 -c:v libx264 -preset ultrafast -g 5 -bf 0 -pix_fmt yuv420p "$work/h264.ts"
  stream "$work/h264.ts" /dev/video21 &
  coder=$!
}
halt() { # halt SENDER: it sends nothing more, and keeps its node a camera's. Ended and begun anew, with a reader at the node,
  pkill -STOP -P "$1" # a sender may leave v4l2loopback 0.12 with neither of its two roles, for good
}
go_on() { # go_on SENDER
  pkill -CONT -P "$1"
}
lab() { # everything that a scenario stands on
  links
  plug
  modprobe v4l2loopback devices=2 video_nr=20,21 card_label=loop,coded exclusive_caps=1,1
  udevadm settle
  ls -l $id
  send_mjpg
  mosquitto -p 18830 >"$work/mosquitto.log" 2>&1 &
  sleep 3
}
header() { # header STATE: of a configuration, all cameras of which follow
  printf '[device]\nid = "lab"\nstate_dir = "%s"\n[mqtt]\nhost = "127.0.0.1"\nport = 18830\n[health]\ninterval_s = 1\n[model]\nthreads = 1\n' "$work/$1"
}
listen() {
  mosquitto_sub -p 18830 -v -t 'edge/#' >"$work/heard" &
  sleep 1
  mark
}
started() { # started CONFIGURATION
  "$agent" run -c "$1" >"$work/log" 2>&1 &
  run=$!
}
hold() { # somebody else streams from the camera that is to be apart
  v4l2-ctl -d $four --stream-mmap --stream-count=1000000 >/dev/null 2>&1 &
  holder=$!
  until [ "$(v4l2-ctl -d $four --set-fmt-video=width=320 2>&1 | grep -ci busy)" -gt 0 ]; do sleep 0.2; done
}
child() { # the agent's process that holds the camera "apart"; others of its cameras may have processes, too
  local each node
  node=$(readlink -f $four)
  for each in $(pgrep -P "$run"); do
    find "/proc/$each/fd" -mindepth 1 -lname "$node*" 2>/dev/null | grep . >/dev/null && { echo "$each"; return; }
  done
}
apart() { # the camera of that name, which runs in a process of its own, by default, and is busy at first
  since 120 "camera/apart/status .*\"code\":\"busy\".*in use by v4l2-ctl \(process $holder\)" "a busy device is said, and by whom"
  mark
  kill $holder
  since 60 'camera/apart/status .*"state":"online".*"isolation":"process"' "it is let go: online, by default in a process of its own"
  served 60 apart "default isolation: frames are served"
  local first second
  first=$(child)
  mark
  kill -9 "$first"
  since 20 'camera/apart/status .*was ended by SIGKILL' "default isolation: a killed process is published"
  mark # a status of before was "online", too
  since 90 'camera/apart/status .*"state":"online"' "default isolation: and another takes its place"
  served 60 apart "default isolation: which serves frames"
  second=$(child)
  [ -n "$second" ] && [ "$second" != "$first" ] && ok "default isolation: process $first became $second" || bad "default isolation: process $first, then '$second'"
  mark
  v4l2-ctl -d $four -c disconnect=1
  since 30 'camera/apart/status .*"state":"backoff".*"code":"unplugged"' "default isolation: unplugged is published"
  mark # a status of before was "online", too
  since 60 'camera/apart/status .*"state":"online"' "default isolation: online again"
  served 60 apart "default isolation: frames are served again"
  [ "$(child)" != "$second" ] && ok "default isolation: unplugging ended the process, and closed all that it held" || bad "default isolation: the process outlived its device"
}
finish() {
  kill -0 "$run" && ok "the agent never restarted" || bad "the agent never restarted"
  kill -TERM "$run"
  wait "$run" && ok "SIGTERM: exit 0" || bad "SIGTERM: exit 0, not $?"
  if grep -q Traceback "$work/log"; then bad "no traceback in the log"; grep -A20 Traceback "$work/log" | sed -n 1,40p; else ok "no traceback in the log"; fi
  tail -n 8 "$work/log" | cut -c1-300
  echo "$SECONDS s"
  [ $failures -eq 0 ] && echo "ALL OK" || echo "$failures FAILED"
  exit $failures
}
