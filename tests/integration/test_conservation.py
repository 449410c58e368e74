"""Every event that was accepted reaches the broker, unchanged, in order, whatever happens on the way."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import CommandLine, wait_until
from tests.conservation import World


@contextlib.contextmanager
def world(folder: Path, durability: str, seed: int) -> Iterator[World]:
    made = World(CommandLine(folder), durability, seed)
    try:
        made.begin()
        wait_until(lambda: len(made.owed()) > 10, what="events")
        yield made
    finally:
        made.close()


def assert_conserved(made: World) -> None:
    """All is well again: what is owed comes, and the books are in order."""
    wait_until(lambda: len(made.owed()) > 0)
    with contextlib.suppress(AssertionError):
        wait_until(lambda: not made.missing(), 60)
    assert made.end() == 0, made.log()[-2000:]
    story = f"{made.happened} owed={len(made.owed())} duplicates={made.books.duplicates} excused={len(made.excused)}"
    assert not made.missing(), f"{sorted(made.missing())[:20]} of {len(made.missing())} after {story}"
    assert not made.changed(), story
    assert not made.invented(), story
    assert not made.books.violations, f"{made.books.violations[:10]} {story}"
    assert "Traceback" not in made.log()
    print(story)


@pytest.mark.parametrize("durability", ["always", "interval"])
def test_nothing_is_lost_when_each_thing_happens_once(tmp_path: Path, durability: str) -> None:
    with world(tmp_path, durability, seed=1) as made:
        names = list(made.faults())
        made.random.shuffle(names)
        for name in names[:: 1 if durability == "always" else 2]:
            made.happen(name)
        assert_conserved(made)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize(("durability", "faults"), [("always", 200), ("interval", 120)])
def test_nothing_is_lost_in_a_long_run_of_faults(tmp_path: Path, durability: str, faults: int) -> None:
    with world(tmp_path, durability, seed=2) as made:
        names = list(made.faults())
        for _ in range(faults):
            made.happen(made.random.choice(names))
            if made.random.random() < 0.3:
                made._while()
        assert_conserved(made)
