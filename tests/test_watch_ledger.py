"""What the gaps, copies and clocks of events tell a subscriber."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_agent._watch_ledger import Ledger
from edge_agent.events import timestamp

UTC = 1_700_000_000.0


def event(seq: int, stream: str = "s", age_s: float = 0.1, synced: bool = True) -> dict[str, Any]:
    return {"seq": seq, "stream": stream, "captured_at": timestamp(UTC - age_s), "clock_synced": synced}


def heard(seqs: Sequence[int], stream: str = "s") -> Ledger:
    ledger = Ledger()
    for seq in seqs:
        ledger.note("dev", "c", event(seq, stream), UTC, 0.0)
    return ledger


@pytest.mark.parametrize(
    ("seqs", "lost", "duplicates"),
    [
        ([7, 8, 9], 0, 0),
        ([7, 9, 12], 3, 0),
        ([7, 8, 8, 9, 7], 0, 2),
        ([7, 9, 8], 0, 0),  # late is not lost
        ([7, 9, 8, 8], 0, 1),
        ([7, 6, 8], 0, 0),  # from before we listened: nobody knows whether it is a copy
        ([0, 10**9], 10**9 - 1, 0),
    ],
)
def test_gaps_and_copies(seqs: list[int], lost: int, duplicates: int) -> None:
    camera = heard(seqs).cameras["dev", "c"]
    assert (camera.received, camera.lost, camera.duplicates) == (len(seqs), lost, duplicates)


@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=200), st.randoms())
def test_what_was_dropped_and_copied_on_the_way_is_found(fate: list[tuple[bool, bool]], random: Any) -> None:
    """Of events 0.. each may be dropped, or copied, the copies and neighbours out of order; the first and last arrive."""
    arrived = [n for n, (dropped, _) in enumerate(fate) if not dropped or n in {0, len(fate) - 1}]
    copies = [n for n, (_, copied) in enumerate(fate) if copied and n in arrived]
    rest = arrived[1:] + copies
    random.shuffle(rest)
    camera = heard([0, *rest]).cameras["dev", "c"]
    assert camera.lost == len(fate) - len(arrived)
    assert camera.duplicates == len(copies)


def test_each_run_of_the_agent_counts_for_itself() -> None:
    ledger = Ledger()
    for number in range(9):
        for seq in (number * 1000, number * 1000 + 2):
            ledger.note("dev", "c", event(seq, f"s{number}"), UTC, 0.0)
    assert ledger.cameras["dev", "c"].lost == 9
    assert len(ledger.cameras["dev", "c"].streams) <= 4  # however often it restarts


def test_latency_is_from_capture_to_here_and_copies_do_not_count() -> None:
    ledger = Ledger()
    assert ledger.note("dev", "c", event(1, age_s=0.25), UTC, 0.0).latency_ms == 250
    assert ledger.note("dev", "c", event(1, age_s=0.25), UTC + 60, 0.0).duplicate
    assert ledger.totals()["dev/c"] == {"received": 2, "lost": 0, "duplicates": 1, "latency_ms": {"p50": 250.0, "p95": 250.0}}


@pytest.mark.parametrize(
    ("age_s", "synced", "said"),
    [
        (0.05, True, []),
        (12.0, True, ["the clock of dev is 12.0 s behind this machine's: its latencies are off by that"]),
        (-3.0, True, ["the clock of dev is 3.0 s ahead of this machine's: its latencies are off by that"]),
        (0.05, False, ["the clock of dev is not set by the network: its latencies may be off"]),
    ],
)
def test_clocks_that_differ_are_told_of(age_s: float, synced: bool, said: list[str]) -> None:
    ledger = Ledger()
    ledger.note_health("dev", {"at": timestamp(UTC - age_s), "clock_synced": synced}, UTC)
    assert ledger.warnings() == said


def test_an_old_backlog_is_no_wrong_clock() -> None:
    ledger = Ledger()
    for seq in range(50):
        ledger.note("dev", "c", event(seq, age_s=3600), UTC, 0.0)
    ledger.note_health("dev", {"at": timestamp(UTC)}, UTC)
    assert ledger.warnings() == []


def test_the_table_has_a_line_for_each_camera() -> None:
    ledger = heard([1, 2, 5])
    ledger.camera("dev", "c").state = "online"
    ledger.camera("dev", "b")
    head, b, c = ledger.table(0.0)
    assert head.split()[:3] == ["device", "camera", "state"]
    assert b.split() == ["dev", "b", "0.0", "0", "0", "0"]
    assert c.split() == ["dev", "c", "online", "3.0", "3", "2", "0", "100", "100"]
    ledger.devices["dev"] = "offline"
    assert "agent offline" in ledger.table(0.0)[1]


def test_whoever_invents_cameras_fills_no_memory() -> None:
    ledger = Ledger()
    for number in range(3000):
        ledger.note("dev", f"c{number}", event(1), UTC, 0.0)
    assert len(ledger.cameras) == 1000
