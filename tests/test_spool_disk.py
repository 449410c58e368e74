"""The spool on a disk that is really full, really read-only, or really limited: a small tmpfs, and RLIMIT_FSIZE."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from edge_agent.spool import SpoolLimits
from tests.test_spool import Clock, balanced, drained, event, opened

LIMITS = SpoolLimits(2000, 1 << 24, drain_per_s=1e9)


def mounted(*arguments: str) -> bool:
    return subprocess.run(["mount", *arguments], capture_output=True, check=False).returncode == 0


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Path]:
    """A file system of half a megabyte."""
    folder = tmp_path / "small"
    folder.mkdir()
    if not mounted("-t", "tmpfs", "-o", "size=512k", "tmpfs", str(folder)):
        pytest.skip("needs the right to mount (root)")
    yield folder
    while folder.is_mount():  # and what a test laid over it
        subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_full_disk(small: Path) -> None:
    clock = Clock()
    spool = opened(small, limits=LIMITS, clock=clock)
    for number in range(300):
        spool.put(event(number, 1000))
    spool.maintain(everything=True)
    for number in range(300, 900):
        spool.put(event(number, 1000))
        if number % 50 == 0:
            clock.now += 6
            spool.maintain(everything=True)
    health = spool.health()
    assert health.mode == "memory"
    assert health.error
    assert not list(small.glob("*.quarantine-*")), "a full disk is no damage"
    assert drained(spool) == list(range(900))
    clock.now += 6
    spool.put(event(900, 1000))
    spool.maintain(everything=True)
    assert spool.health().mode == "interval", "there is room again"
    assert balanced(spool, 900)
    spool.close()
    assert drained(opened(small, limits=LIMITS))[-1] == 900


def test_a_disk_that_turns_read_only_and_back(small: Path) -> None:
    clock = Clock()
    spool = opened(small, limits=LIMITS, clock=clock)
    for number in range(50):
        spool.put(event(number))
    spool.maintain(everything=True)
    spool.close()  # a file that is open for writing keeps a remount from being granted
    assert mounted("-o", "remount,ro", str(small))
    again = opened(small, limits=LIMITS, clock=clock)
    again.put(event(50))
    again.maintain(everything=True)
    assert again.health().mode == "memory"
    assert drained(again) == [50]
    again.put(event(51))
    assert mounted("-o", "remount,rw", str(small))
    clock.now += 6
    again.maintain(everything=True)
    assert again.health().mode == "interval"
    clock.now += 1  # a backlog goes at its pace
    assert drained(again) == [*range(50), 51]
    again.close()


LIMITED = """
import resource, signal, sys
from pathlib import Path
from tests.test_spool_disk import LIMITS
from tests.test_spool import Clock, balanced, drained, event, opened
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, resource.RLIM_INFINITY))
clock = Clock()
spool = opened(Path(sys.argv[1]), limits=LIMITS, clock=clock)
for number in range(600):
    spool.put(event(number, 1000))
    if number % 50 == 0:
        clock.now += 6
        spool.maintain(everything=True)
assert spool.health().mode == "memory", spool.health()
found = drained(spool)
assert found == sorted(set(found)), found
assert balanced(spool, len(found)), spool.counts
print(len(found), dict(spool.counts.dropped), spool.health().files_quarantined_total)
"""


def test_a_limit_to_one_files_size(tmp_path: Path) -> None:
    result = subprocess.run([sys.executable, "-c", LIMITED, str(tmp_path)], capture_output=True, text=True, check=False, timeout=60)
    assert result.returncode == 0, result.stderr
    assert result.stdout.split(maxsplit=1)[0] == "600", result.stdout


def test_a_medium_that_goes_away_and_returns(small: Path) -> None:
    """Another file system lies over it for a while: what is on it only is neither lost nor in the way, and comes late."""
    clock = Clock()
    few = SpoolLimits(20, 1 << 20, drain_per_s=1e9)
    spool = opened(small, limits=few, clock=clock)
    for number in range(60):
        spool.put(event(number))
        spool.maintain(everything=True)
    assert spool.disk is not None
    assert mounted("-t", "tmpfs", "-o", "size=64k", "tmpfs", str(small))
    spool.disk.store.disconnect()  # as a disk that was pulled out: nothing can be read any more
    spool.maintain()
    assert "still mounted" in str(spool.health().error)
    late = drained(spool)
    assert late == list(range(40, 60)), "what is in memory goes on"
    assert spool.queued[0] == 40
    assert spool.waiting[0] == 0, "nobody waits for what cannot be had"
    assert not list(small.iterdir()), "the other file system is left alone"
    spool.put(event(60))
    assert subprocess.run(["umount", str(small)], check=False).returncode == 0
    clock.now += 6
    spool.maintain()
    assert spool.health().mode == "interval"
    clock.now += 1
    assert drained(spool) == [*range(40), 60]
    assert spool.counts.dropped == {}
    assert balanced(spool, 61)
    spool.close()


def test_a_damaged_file_that_there_is_no_room_to_save(small: Path) -> None:
    """It stays as it is until there is, and is not forgotten by a restart either."""
    spool = opened(small, limits=LIMITS)
    for number in range(150):
        spool.put(event(number, 1000))
    assert spool.close() == 0
    (small / "ballast").write_bytes(bytes(180_000))
    file = small / "mqtt.db"
    data = bytearray(file.read_bytes())
    data[len(data) // 2 : len(data) // 2 + 4096] = bytes(4096)
    file.write_bytes(data)
    clock = Clock()
    for _ in range(2):
        again = opened(small, limits=LIMITS, clock=clock)
        assert "free space" in str(again.health().error)
        again.put(event(999))
        assert drained(again) == [999]
        again.close()
    assert mounted("-o", "remount,size=4m", str(small))
    again = opened(small, limits=LIMITS, clock=clock)
    clock.now += 1
    found = drained(again)
    assert found == sorted(found)
    assert 130 < len(found) == 150 - again.counts.dropped["damaged"]
    again.close()
