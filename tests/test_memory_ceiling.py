"""The agent's own end before the kernel's: where the limit comes from, what is held against it, and when it is time."""

from __future__ import annotations

import resource
import shutil
from pathlib import Path

import pytest

from edge_agent.errors import ExitCode
from edge_agent.memory_ceiling import ANEW_EVERY_S, LOOK_EVERY_S, MemoryCeiling, find_limit
from edge_agent.memory_use import own_cgroup
from edge_agent.sysfs import Tree

MACHINES = Path(__file__).parent / "data" / "machines"
PAGE = resource.getpagesize()
UNIT = "sys/fs/cgroup/system.slice/edge-agent.service"


@pytest.fixture
def jetson(tmp_path: Path) -> Path:
    return shutil.copytree(MACHINES / "orin_nano", tmp_path / "root")


@pytest.mark.parametrize(
    ("machine", "size", "origin"),
    [
        ("orin_nano", round(0.97 * 1932735283), "97% of the cgroup's high"),
        ("laptop", round(0.92 * 536870912), "92% of the cgroup's max"),  # version 1
        ("pi5", round(0.8 * (8259920 << 10)), "80% of this machine's memory"),  # accounted and not limited
        ("pi4", round(0.8 * (3884360 << 10)), "80% of this machine's memory"),  # not even accounted
    ],
)
def test_where_the_limit_comes_from(machine: str, size: int, origin: str) -> None:
    tree = Tree(MACHINES / machine)
    found = find_limit(tree, None)
    assert found is not None
    assert (found.size_bytes, found.origin) == (size, origin)
    assert tree.refused == 0
    asked = find_limit(tree, 300.0)
    assert asked is not None
    assert (asked.size_bytes, asked.origin, asked.cgroup) == (300_000_000, "[health] max_rss_mb", None)


def test_a_slice_above_may_be_the_tighter_limit(jetson: Path) -> None:
    (jetson / "sys/fs/cgroup/system.slice/memory.max").write_text("1000000000\n")
    found = find_limit(Tree(jetson), None)
    assert found is not None
    assert found.size_bytes == 920_000_000


def test_a_machine_that_tells_nothing_has_no_limit() -> None:
    ceiling = MemoryCeiling(tree=Tree(MACHINES / "container"))
    assert find_limit(Tree(Path("/nowhere")), None) is None
    assert ceiling.check(0.0) is None
    assert ceiling.last is None
    assert ceiling.reasons() == []


def test_what_the_kernel_can_take_back_is_not_held_against_the_limit(jetson: Path) -> None:
    tree = Tree(jetson)
    group = own_cgroup(tree)
    assert group is not None
    assert group.used(tree) == 1610612736 - (20480000 + 36864000 - 24576000) - 2048000
    old = own_cgroup(Tree(MACHINES / "laptop"))
    assert old is not None
    assert old.used(Tree(MACHINES / "laptop")) == 262144000 - (20480000 + 36864000 - 24576000)


def test_without_a_cgroup_the_processes_are_counted() -> None:
    ceiling = MemoryCeiling(300.0, Tree(MACHINES / "pi4"))
    assert ceiling.check(0.0) is None
    assert ceiling.last is not None
    assert ceiling.last.used_bytes == (52000 + 13000) * PAGE, "children without what they share"


def use(root: Path, size: int) -> None:
    (root / UNIT / "memory.current").write_text(f"{size + 34816000}\n")


def test_a_peak_is_relieved_and_what_stays_ends_the_agent_with_a_reason(jetson: Path) -> None:
    relieved: list[float] = []
    limit = round(0.97 * 1932735283)
    ceiling = MemoryCeiling(tree=Tree(jetson), relieve=lambda: relieved.append(1))
    use(jetson, limit - 1000)
    assert ceiling.check(0.0) is None
    assert ceiling.reasons() == ["memory: 1875 MB of 1875 MB are used (97% of the cgroup's high)"]
    use(jetson, limit + 1000)
    assert ceiling.check(LOOK_EVERY_S * 0.9) is None, "no sooner than half a second later"
    assert not relieved
    assert ceiling.check(1.0) is None
    assert relieved == [1]
    use(jetson, limit - 1000)
    assert ceiling.check(2.0) is None
    use(jetson, limit + 1000)
    assert ceiling.check(3.0) is None, "it had been well in between"
    end = ceiling.check(4.0)
    assert end is not None
    assert str(end) == "memory: 1875 MB are used, and 1875 MB is the limit (97% of the cgroup's high)"
    assert end.exit_code is ExitCode.OSERR


def test_far_above_there_is_no_time_to_wait(jetson: Path) -> None:
    ceiling = MemoryCeiling(tree=Tree(jetson), relieve=lambda: None)
    use(jetson, round(1.06 * 0.97 * 1932735283))
    assert ceiling.check(0.0) is not None


def test_growth_that_rushes_towards_the_limit_is_not_waited_for(jetson: Path) -> None:
    limit = 0.97 * 1932735283
    ceiling = MemoryCeiling(tree=Tree(jetson), relieve=lambda: None)
    for second, share in enumerate([0.3, 0.6, 0.89, 0.93, 0.96, 0.99]):
        use(jetson, round(limit * share))
        assert ceiling.check(float(second)) is None, "a model that is loaded is no leak, nor does that grow fast enough"
    use(jetson, round(limit * 0.91))
    assert ceiling.check(6.0) is None
    use(jetson, round(limit * 0.999))
    assert ceiling.check(7.0) is not None, "a tenth of it in a second"


def test_a_limit_that_is_changed_holds_within_a_minute(jetson: Path) -> None:
    ceiling = MemoryCeiling(tree=Tree(jetson), relieve=lambda: None)
    assert ceiling.check(0.0) is None
    (jetson / UNIT / "memory.high").write_text("max\n")
    (jetson / UNIT / "memory.max").write_text("500000000\n")
    assert ceiling.check(ANEW_EVERY_S - 1) is None
    assert ceiling.check(ANEW_EVERY_S) is not None


@pytest.mark.parametrize(
    ("slope", "told"), [(None, False), (-50_000_000, False), (7_000_000, False), (20_000_000, True), (500_000_000, True)]
)
def test_growth_that_gets_there_within_a_day_is_told(jetson: Path, slope: int | None, told: bool) -> None:
    ceiling = MemoryCeiling(tree=Tree(jetson))
    assert ceiling.check(0.0) is None
    assert [reason.startswith("memory: grows by") for reason in ceiling.reasons(slope)] == ([True] if told else [])


def test_damaged_limits_are_no_limits(jetson: Path) -> None:
    for content in ("", "-1", "lots", "9" * 40, "٣"):
        for name in ("memory.max", "memory.high"):
            (jetson / UNIT / name).write_text(content + "\n")
            (jetson / UNIT).parent.joinpath(name).write_text(content + "\n")
        found = find_limit(Tree(jetson), None)
        assert found is not None
        assert found.cgroup is None


def test_this_process_is_read() -> None:
    ceiling = MemoryCeiling(100_000.0)
    assert ceiling.check(0.0) is None
    assert ceiling.last is not None
    assert 10e6 < ceiling.last.used_bytes < 100e9
