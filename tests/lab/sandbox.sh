#!/bin/bash
# Inside the sandbox of the service: what it must not be able to do, and what it must. Run by tests/lab/appliance.sh as a unit that has
# the very settings of edge-agent.service, in place of the agent. One line each; the last says how many were wrong.
# shellcheck disable=SC2015 # ok and bad always succeed
failures=0
PATH=$PATH:/usr/sbin:/sbin
ok() { echo "ok      $*"; }
bad() { echo "FAILED  $*"; failures=$((failures + 1)); }
denied() { # denied WHAT COMMAND...
  local what=$1 output
  shift
  if output=$("$@" 2>&1); then bad "denied: $what: it was possible"; else ok "denied: $what: $(tail -n 1 <<<"$output" | cut -c1-110)"; fi
}
allowed() { # allowed WHAT COMMAND...
  local what=$1 output
  shift
  if output=$("$@" 2>&1); then ok "allowed: $what"; else bad "allowed: $what: $(tail -n 1 <<<"$output" | cut -c1-200)"; fi
}
# shellcheck disable=SC2317 # called through denied and allowed
py() { python3 -c "$1"; }

denied "write to /etc" touch /etc/edge-agent/x
denied "write to /usr" touch /usr/local/bin/x
denied "write to its own release" touch /opt/edge-agent/x
denied "write to /var/tmp of others" test -e /var/tmp/marker
denied "see /tmp of others" test -e /tmp/marker
denied "read /home" ls /home/lab
denied "read /root" ls /root
denied "read the broker's password as a file" cat /etc/edge-agent/mqtt_password
denied "read /etc/shadow" cat /etc/shadow
denied "write to another service's state" touch /var/lib/mosquitto/x
denied "a raw socket" py 'import socket; socket.socket(socket.AF_INET, socket.SOCK_RAW, 1)'
denied "a packet socket" py 'import socket; socket.socket(socket.AF_PACKET, socket.SOCK_RAW)'
denied "a Bluetooth socket" py 'import socket; socket.socket(socket.AF_BLUETOOTH, socket.SOCK_RAW, 1)'
denied "a new user namespace" unshare -U true
denied "a new mount namespace" unshare -m true
denied "a new network namespace" unshare -n true
denied "mount" mount -t tmpfs none /var/lib/edge-agent
denied "the disk" py 'open("/dev/vda", "rb").read(1)'
denied "kernel memory" py 'open("/dev/mem", "rb").read(1)'
denied "the console" py 'open("/dev/ttyS0", "wb").write(b"x")'
denied "input devices" py 'import glob; [open(p, "rb") for p in glob.glob("/dev/input/event*") or ["/nowhere"]]'
denied "the kernel's log" py 'open("/dev/kmsg").read(1)'
denied "load a module" modprobe dummy
denied "set the clock" date -s 2020-01-01
denied "set the host's name" hostname other
denied "set a kernel parameter" py 'open("/proc/sys/kernel/panic", "w").write("1")'
denied "become root" py 'import os; os.setuid(0)'
denied "make a setuid file" py 'import os; f = os.environ["STATE_DIRECTORY"] + "/s"; open(f, "w"); os.chmod(f, 0o4755)'
denied "see other processes" py 'import os; os.listdir("/proc/1/")'
denied "end another process" py 'import os; os.kill(1, 9)'
denied "trace a process" py 'import ctypes, os, sys; sys.exit(ctypes.CDLL(None).ptrace(16, os.getppid(), 0, 0) == 0 or 1)'
denied "real-time priority" py 'import os; os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(50))'
denied "a core dump" py 'import resource; resource.setrlimit(resource.RLIMIT_CORE, (1 << 20, 1 << 20))'
denied "reboot" systemctl reboot
allowed "its state" touch "$STATE_DIRECTORY/x"
allowed "its runtime directory" touch "$RUNTIME_DIRECTORY/x"
allowed "its credential" cat "$CREDENTIALS_DIRECTORY/mqtt_password"
allowed "the network" py 'import socket; socket.create_connection(("127.0.0.1", 1883), 5)'
allowed "/proc/meminfo, /proc/loadavg, /proc/cpuinfo" cat /proc/meminfo /proc/loadavg /proc/cpuinfo
allowed "threads on one core" py 'import os; os.sched_setaffinity(0, {0})'
allowed "shared memory" py 'from multiprocessing import shared_memory as m; s = m.SharedMemory(create=True, size=4096); s.unlink()'
[ ! -e /dev/video0 ] || allowed "cameras" py 'open("/dev/video0", "r+b", buffering=0)'
rm -f "$STATE_DIRECTORY/x" "$STATE_DIRECTORY/s" "$RUNTIME_DIRECTORY/x"
exit $failures
