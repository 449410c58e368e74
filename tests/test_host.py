"""What is read from /proc and /sys, on trees with what machines really have there."""

from __future__ import annotations

import os
import resource
from pathlib import Path

import pytest

from edge_agent import host

DATA = Path(__file__).parent / "data"
GOOD, BROKEN = DATA / "host", DATA / "host_broken"


def test_load_memory_and_temperatures() -> None:
    found = host.read_host(GOOD)
    assert found.load1 == 0.52
    assert found.memory_available_bytes == 4123456 * 1024


def test_zones_that_are_off_or_absurd_are_left_out_and_namesakes_are_told_apart() -> None:
    assert host.read_host(GOOD).temperature_c == {"cpu-thermal": 45.7, "GPU-therm": 51.0, "cpu-thermal thermal_zone2": 47.0}


@pytest.mark.parametrize("root", [BROKEN, Path("/nowhere")])
def test_what_cannot_be_read_is_none_or_empty(root: Path) -> None:
    assert host.read_host(root) == host.HostReadings(0.0, None, {})


def test_process_memory_and_descriptors() -> None:
    found = host.read_process(GOOD)
    assert found.rss_bytes == 2500 * resource.getpagesize()
    assert found.descriptors == 4
    assert found.threads >= 1
    assert found.cpu_s > 0


@pytest.mark.parametrize("root", [BROKEN, Path("/nowhere")])
def test_a_process_without_proc_still_knows_its_peak_memory(root: Path) -> None:
    found = host.read_process(root)
    assert found.rss_bytes > 1024 * 1024
    assert found.descriptors == 0


def test_this_machine_can_be_read() -> None:
    assert (host.read_host().memory_available_bytes or 0) > 0
    before = host.read_process().descriptors
    opened = [os.open("/dev/null", os.O_RDONLY) for _ in range(5)]
    try:
        assert host.read_process().descriptors == before + 5
    finally:
        for descriptor in opened:
            os.close(descriptor)
    assert host.clock_synced() in {True, False}


def test_the_device_id_is_stable_and_does_not_give_the_machine_id_away() -> None:
    name = host.machine_device_id(GOOD)
    # printf 'edge_agent device id' | openssl dgst -sha256 -hmac 0123456789abcdef0123456789abcdef
    assert name == "edge-42a78dff5000"
    assert name not in {None, host.machine_device_id(BROKEN)}


def test_a_damaged_machine_id_gives_way_to_that_of_dbus() -> None:
    assert (host.machine_device_id(BROKEN) or "").startswith("edge-")


@pytest.mark.parametrize("content", ["", "uninitialized\n", "0" * 32, "abc"])
def test_a_machine_without_an_id_has_none(tmp_path: Path, content: str) -> None:
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc" / "machine-id").write_text(content)
    assert host.machine_device_id(tmp_path) is None
    assert host.machine_device_id(tmp_path / "nowhere") is None
