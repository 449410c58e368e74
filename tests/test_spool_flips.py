"""Every byte of a spool's files flipped, and each file cut at every length: it opens, counts, and goes on."""

from __future__ import annotations

import random
import shutil
from pathlib import Path

import pytest

from edge_agent.spool import Spool
from tests.test_spool import balanced, event, numbers, opened

EVENTS = 12


def spoiled(folder: Path) -> dict[str, bytes]:
    """A spool as a kill leaves it: a part in the file, the rest in its log."""
    spool = opened(folder)
    for number in range(EVENTS // 2):
        spool.put(event(number, 300))
    spool.maintain(everything=True)
    assert spool.disk is not None
    connection = spool.disk.store._connection
    assert connection is not None
    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    for number in range(EVENTS // 2, EVENTS):
        spool.put(event(number, 300))
        spool.maintain(everything=True)
    return {name: (folder / name).read_bytes() for name in ("mqtt.db", "mqtt.db-wal")}


def opens_and_goes_on(folder: Path, files: dict[str, bytes], *, unseen: bool = False) -> Spool:
    """In order, unchanged, none invented; what is missing is counted, or its file was set aside."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    for name, data in files.items():
        (folder / name).write_bytes(data)
    spool = opened(folder)
    assert spool.disk is not None
    assert spool.disk.error is None
    spool.put(event(99))
    spool.maintain(everything=True)
    found = []
    while taken := spool.take(5):
        assert all(m.payload == event(n, 300 if n < EVENTS else 0).payload for n, m in zip(numbers(taken), taken, strict=True))
        found += numbers(taken)
        spool.settle(len(taken))
    assert found == sorted(set(found))
    assert found[-1] == 99
    assert set(found) <= {*range(EVENTS), 99}
    assert balanced(spool, len(found))
    missing = EVENTS + 1 - len(found)
    assert missing == 0 or unseen or spool.counts.dropped["damaged"] or spool.disk.quarantined, f"{missing} are missing and nothing says so"
    spool.close()
    return spool


def flipped(files: dict[str, bytes], name: str, at: int, mask: int) -> dict[str, bytes]:
    data = bytearray(files[name])
    data[at] ^= mask
    return {**files, name: bytes(data)}


@pytest.fixture
def files(tmp_path: Path) -> dict[str, bytes]:
    return spoiled(tmp_path / "made")


def places(files: dict[str, bytes], most: int | None) -> list[tuple[str, int]]:
    """All of them, or some: the beginnings of both files, where the structure is, and others at random, the same each time."""
    every = [(name, at) for name, data in files.items() for at in range(len(data))]
    if most is None:
        return every
    headers = [(name, at) for name in files for at in range(0, 120, 3)]
    headers += [("mqtt.db-wal", len(files["mqtt.db-wal"]) - 4120 + at) for at in range(24)]  # of the log's last frame
    return headers + random.Random(6).sample(every, most)


def flip_all(tmp_path: Path, files: dict[str, bytes], most: int | None) -> None:
    for name, at in places(files, most):
        for mask in (0x01, 0xFF) if most is None else (0xFF,):
            try:
                opens_and_goes_on(tmp_path / "flipped", flipped(files, name, at, mask))
            except Exception as error:
                raise AssertionError(f"{name}, byte {at} ^ {mask:#x}: {error}") from error


def cut_all(tmp_path: Path, files: dict[str, bytes], step: int) -> None:
    for name, data in files.items():
        for length in range(0, len(data), step):
            # a log that ends too soon, at the end of a transaction, is a log that was written so far
            opens_and_goes_on(tmp_path / "cut", {**files, name: data[:length]}, unseen=name == "mqtt.db-wal" or length == 0)


def test_some_bytes_flipped(tmp_path: Path, files: dict[str, bytes]) -> None:
    flip_all(tmp_path, files, 150)


def test_cut_at_some_lengths(tmp_path: Path, files: dict[str, bytes]) -> None:
    cut_all(tmp_path, files, 701)


@pytest.mark.slow
@pytest.mark.timeout(7200)
def test_every_byte_flipped(tmp_path: Path, files: dict[str, bytes]) -> None:
    flip_all(tmp_path, files, None)


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_cut_at_every_length(tmp_path: Path, files: dict[str, bytes]) -> None:
    cut_all(tmp_path, files, 1)


def test_a_log_that_is_missing_altogether_was_perhaps_never_there(tmp_path: Path, files: dict[str, bytes]) -> None:
    spool = opens_and_goes_on(tmp_path / "no_log", {"mqtt.db": files["mqtt.db"]}, unseen=True)
    assert spool.counts.recovered == EVENTS // 2
