#!/bin/bash
# The service under a real systemd, in its own unit with all its fences: notify, reload, watchdog, journal fields, memory ceiling.
# In the lab's container or VM, as root: health.sh AGENT UNIT   (AGENT: bin/edge-agent of a venv; UNIT: systemd/edge-agent.service)
# PHASES=... runs only those. The memory's phase wants cgroup limits: the VM.
set -u
agent=$1 unit=$2
failures=0
ok() { echo "ok      $*"; }
bad() { echo "FAILED  $*"; failures=$((failures + 1)); }
phase() { [[ " ${PHASES:-$1} " == *" $1 "* ]] && echo "--- $1"; }
show() { systemctl show -p "$1" --value edge-agent; }
within() { # within SECONDS WHAT COMMAND...: until it succeeds; says how long that took
  local most=$1 what=$2 began=$SECONDS
  shift 2
  until "$@" >/dev/null 2>&1; do
    if [ $((SECONDS - began)) -ge $((most * ${LAB_PATIENCE:-1})) ]; then
      bad "$what (not within $most s)"
      systemctl status --no-pager -l edge-agent 2>&1 | head -n 25 | cut -c1-300
      return 1
    fi
    sleep 0.3
  done
  ok "$what ($((SECONDS - began)) s)"
}
status_has() { show StatusText | grep -qE -- "$1"; }
field() { journalctl -q -u edge-agent -o cat "$@" | grep -q .; }
entry() { journalctl -q -u edge-agent -o cat | grep -qE -- "$1"; }
health() { timeout 20 mosquitto_sub -h 127.0.0.1 -t 'edge/+/health' -C 1; }
health_has() { health | grep -qE -- "$1"; }
pid() { show MainPID; }

id edge-agent >/dev/null 2>&1 || useradd --system --no-create-home edge-agent
getent group video >/dev/null || groupadd --system video
sed "s|^ExecStart=[^ ]*|ExecStart=$agent|" "$unit" >/etc/systemd/system/edge-agent.service
mkdir -p /etc/edge-agent
cat >/etc/edge-agent/agent.toml <<'TOML'
[mqtt]
host = "127.0.0.1"
[health]
interval_s = 2
[[cameras]]
id = "front"
source = "synthetic"
fps = 10
[[cameras]]
id = "gone"
source = "/dev/video9"
TOML
chown -R root:edge-agent /etc/edge-agent && chmod 640 /etc/edge-agent/agent.toml
systemctl daemon-reload
systemctl reset-failed edge-agent 2>/dev/null

if phase start; then
  systemctl restart edge-agent && ok "READY without broker and camera" || bad "start"
  within 20 "status tells of both" status_has '1 of 2 cameras online.*broker away.*gone: .*video9'
  mosquitto -d -p 1883 >/dev/null 2>&1
  within 40 "and of the broker's coming" status_has 'broker connected'
  within 10 "heartbeat knows the machine" health_has '"boot_id":"[0-9a-f-]{36}"'
  echo "        clock: $(health | grep -oE '"clock":\{[^}]*\}')"
  echo "        memory: $(health | grep -oE '"memory_limit_bytes":[^}]*')"
  health | grep -q '"readers_failed_total":0' && ok "no reader failed behind the fences" || bad "a reader failed"
fi
if phase journal; then
  field EDGE_CAMERA=gone && ok "the journal finds a camera's lines: EDGE_CAMERA=gone" || bad "no field EDGE_CAMERA"
  field LOGGER=edge_agent.app PRIORITY=6 && ok "and a module's" || bad "no field LOGGER"
  entry '^<[0-9]>' && bad "raw priorities in lines" || ok "no raw priorities in lines"
fi
if phase reload; then
  before=$(pid)
  sed -i 's/^fps = 10/fps = 12/' /etc/edge-agent/agent.toml
  systemctl reload edge-agent && ok "systemctl reload returns" || bad "reload"
  within 10 "the change is told" entry 'configuration read again'
  echo 'nonsense = 1' >>/etc/edge-agent/agent.toml
  systemctl reload edge-agent && ok "a wrong file is no failure of the unit" || bad "reload of a wrong file"
  within 10 "refused in STATUS" status_has 'configuration refused, the one before holds: /etc/edge-agent/agent.toml:'
  within 10 "refused on MQTT" health_has '"verdict":"degraded".*configuration refused'
  entry 'configuration refused.*nonsense' && ok "refused in the journal, with line and key" || bad "not in the journal"
  [ "$(pid)" = "$before" ] && [ "$(show ActiveState)" = active ] && ok "the same process goes on" || bad "another process"
  sed -i '/^nonsense/d' /etc/edge-agent/agent.toml
  systemctl reload edge-agent
  within 10 "mended: the refusal is gone" bash -c "! systemctl show -p StatusText --value edge-agent | grep -q refused"
fi
if phase watchdog; then
  mkdir -p /etc/systemd/system/edge-agent.service.d
  printf '[Service]\nWatchdogSec=6\n' >/etc/systemd/system/edge-agent.service.d/99-lab.conf
  systemctl daemon-reload && systemctl restart edge-agent
  within 20 "running" status_has '1 of 2 cameras online'
  before=$(pid)
  sleep 12
  [ "$(pid)" = "$before" ] && ok "an absent camera costs no restart in two periods" || bad "restarted"
  kill -STOP "$before"
  within 30 "a stopped process is ended and started anew" bash -c "[ \"\$(systemctl show -p MainPID --value edge-agent)\" != $before ] && [ \"\$(systemctl show -p ActiveState --value edge-agent)\" = active ]"
  rm /etc/systemd/system/edge-agent.service.d/99-lab.conf
  systemctl daemon-reload
fi
if phase abort; then
  within 20 "running" status_has '1 of 2 cameras online'
  kill -ABRT "$(pid)"
  within 10 "the watchdog's signal leaves the stacks of all threads in the journal" entry 'Thread 0x.*most recent call first'
  within 20 "and the service comes back" status_has '1 of 2 cameras online'
  find / -xdev \( -name 'core' -o -name 'core.[0-9]*' \) -size +1M 2>/dev/null | grep -q . && bad "a core dump" || ok "and no core dump"
fi
if phase boot; then
  mkdir -p /etc/systemd/system/edge-agent.service.d
  printf '[Service]\nEnvironment=EDGE_AGENT_LAST_GOOD=1\n' >/etc/systemd/system/edge-agent.service.d/99-lab.conf
  systemctl daemon-reload && systemctl restart edge-agent
  within 20 "running, and kept" test -s /var/lib/edge-agent/last_good.toml
  echo 'nonsense = 1' >>/etc/edge-agent/agent.toml
  systemctl restart edge-agent && ok "a wrong file at boot: what ran last starts" || bad "start with what ran last"
  within 20 "and Status: says what is wrong" status_has 'configuration refused, that of 20.* runs: .*agent.toml:'
  rm /etc/systemd/system/edge-agent.service.d/99-lab.conf
  systemctl daemon-reload
  systemctl restart edge-agent && bad "started with a wrong file" || ok "without being asked for it: no start"
  sleep 3
  [ "$(show ExecMainStatus)/$(show ActiveState)" = 78/failed ] && ok "78, and not tried again" || bad "$(show ExecMainStatus) $(show ActiveState)"
  sed -i '/^nonsense/d' /etc/edge-agent/agent.toml
  systemctl reset-failed edge-agent && systemctl restart edge-agent
fi
if phase memory; then
  cat >/etc/edge-agent/leaking.py <<'PYTHON'
import time, numpy
kept = []
def frames():
    while True:
        time.sleep(0.2)
        if len(kept) < 5 or time.monotonic() - began > 20:
            kept.append(numpy.ones(2_000_000, numpy.uint8))
        yield numpy.zeros((240, 320, 3), numpy.uint8)
began = time.monotonic()
PYTHON
  chmod 644 /etc/edge-agent/leaking.py
  cp /etc/edge-agent/agent.toml /etc/edge-agent/agent.toml.before
  printf '[mqtt]\nhost = "127.0.0.1"\n[health]\ninterval_s = 2\n[[cameras]]\nid = "leak"\nsource = "leaking:frames"\nfolder = "/etc/edge-agent"\nisolation = "thread"\n' >/etc/edge-agent/agent.toml
  mkdir -p /etc/systemd/system/edge-agent.service.d
  printf '[Service]\nMemoryHigh=infinity\nMemoryMax=300M\n' >/etc/systemd/system/edge-agent.service.d/99-lab.conf
  systemctl daemon-reload
  since=$(date '+%F %T')
  systemctl restart edge-agent
  within 90 "over the cgroup's limit it leaves by itself, with the reason" entry 'stopped by a failure reason=memory: .*of the cgroup.s max'
  within 20 "systemd saw 71" bash -c "journalctl -q -u edge-agent --since '$since' | grep -q 'status=71'"
  within 60 "and started it again" bash -c "[ \"\$(systemctl show -p NRestarts --value edge-agent)\" -ge 1 ]"
  journalctl -q -k --since "$since" | grep -qi 'killed process' && bad "the kernel's killer came" || ok "the kernel's killer did not come"
  journalctl -q -u edge-agent -o cat --since "$since" | grep 'reason=memory' | cut -c1-200
  rm /etc/systemd/system/edge-agent.service.d/99-lab.conf
  mv /etc/edge-agent/agent.toml.before /etc/edge-agent/agent.toml
  systemctl daemon-reload
fi
systemctl stop edge-agent
[ "$failures" = 0 ] && echo "all well" || { echo "$failures failed"; journalctl -q -u edge-agent -o cat | tail -n 15 | cut -c1-300; }
exit "$failures"
