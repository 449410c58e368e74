"""What the heartbeat tells of process and machine, on folders that imitate /proc and /sys of real boards."""

from __future__ import annotations

import os
import resource
import shutil
from dataclasses import asdict
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_agent import host, plugins
from edge_agent.health_event import HostHealth, ProcessHealth
from edge_agent.host_event import ClockHealth, CpuHealth, DiskHealth, GpuHealth, InterfaceHealth, MemoryHealth, SystemHealth
from edge_agent.readers import clock, disk, gpu, network, process, rails, system
from edge_agent.readers._slope import EVERY_S, SETTLING_S, SPAN_S, Slope
from edge_agent.readers.base import Reader, ReaderContext, Readings
from edge_agent.sysfs import Tree
from edge_agent.vitals import Vitals

MACHINES = Path(__file__).parent / "data" / "machines"
PAGE = resource.getpagesize()


def context(machine: str | Path, **more: object) -> ReaderContext:
    return ReaderContext(Tree(MACHINES / machine), **more)  # type: ignore[arg-type]


def read(reader: Reader, now: float = 0.0) -> HostHealth:
    return reader.read(now, Readings()).host


@pytest.mark.parametrize(
    ("machine", "expected"),
    [
        (
            "pi4",
            SystemHealth(
                "Raspberry Pi 4 Model B Rev 1.5", "Debian GNU/Linux 12 (bookworm)", "6.6.51+rpt-rpi-v8",
                "0f3c1d9e-7a0b-4c57-9e6f-2f1f0c4d5a61", 3602.51,
            ),
        ),
        (
            "pi5",
            SystemHealth(
                "Raspberry Pi 5 Model B Rev 1.0", "Debian GNU/Linux 13 (trixie)", "6.12.47+rpt-rpi-2712",
                "9b0e6d3a-55f2-4f0e-8d2b-0a8f6f7f1c02", 86400.0,
            ),
        ),
        (
            "laptop",
            SystemHealth("LENOVO 20XW00ABCD", "Ubuntu 24.04.3 LTS", "6.8.0-88-generic", "d2b0a6d0-1b32-4f4f-8ccd-b0b6a7a3d3f9", 5000.25),
        ),
    ],
)  # fmt: skip
def test_board_kernel_and_boot(machine: str, expected: SystemHealth) -> None:
    reader = system.build(context(machine))
    assert read(reader).system == expected


@pytest.mark.parametrize(
    ("machine", "cpu", "memory", "load1", "available"),
    [
        ("pi4", CpuHealth(4, None, 1500, 1800), MemoryHealth(3884360 << 10, 102396 << 10, 102396 << 10), 1.93, 3011200 << 10),
        ("pi5", CpuHealth(4, None, 2400, 2400), MemoryHealth(8259920 << 10, 204796 << 10, 204796 << 10), 0.8, 7011200 << 10),
        ("orin_nano", CpuHealth(6, None, 1510, 1510), MemoryHealth(7802316 << 10, 3901152 << 10, 3901152 << 10), 2.51, 4611200 << 10),
        ("laptop", CpuHealth(2, None, 2100, 4200), MemoryHealth(16250000 << 10, 2097148 << 10, 2097148 << 10), 0.1, 12000000 << 10),
    ],
)
def test_processors_memory_and_load(machine: str, cpu: CpuHealth, memory: MemoryHealth, load1: float, available: int) -> None:
    found = read(system.build(context(machine)))
    assert (found.cpu, found.memory, found.load1, found.memory_available_bytes) == (cpu, memory, load1, available)
    assert found.temperature_c


def test_how_busy_the_processors_are_is_told_between_two_looks(tmp_path: Path) -> None:
    root = shutil.copytree(MACHINES / "pi5", tmp_path / "root")
    reader = system.build(context(root))
    assert read(reader).cpu == CpuHealth(4, None, 2400, 2400)
    text = (root / "proc/stat").read_text()
    first = text.splitlines()[0].split()
    busier = " ".join(["cpu", str(int(first[1]) + 300), *first[2:4], str(int(first[4]) + 90), str(int(first[5]) + 10), *first[6:]])
    (root / "proc/stat").write_text(text.replace(text.splitlines()[0], busier))
    found = read(reader, 10.0).cpu
    assert found is not None
    assert found.percent == 75.0, "300 of 400 jiffies were busy: waiting for a disk is idle"
    assert read(reader, 20.0).cpu == CpuHealth(4, None, 2400, 2400), "a counter that stands still tells nothing"


def test_interfaces_that_are_hardware_and_the_way_out() -> None:
    pi4, pi5, jetson, laptop = (read(network.build(context(name))).network for name in ("pi4", "pi5", "orin_nano", "laptop"))
    assert pi4 is not None
    assert pi5 is not None
    assert jetson is not None
    assert laptop is not None
    assert pi4.default_route == "wlan0"
    assert pi4.interfaces == {
        "eth0": InterfaceHealth("down", False, None, None, 0, 0, 0),
        "wlan0": InterfaceHealth("up", True, None, -52.0, 812345678, 99887766, 3),
    }
    assert (pi5.default_route, sorted(pi5.interfaces)) == ("eth0", ["eth0", "wlan0"])
    assert pi5.interfaces["eth0"] == InterfaceHealth("up", False, 1000, None, 5123456789, 312345678, 0)
    assert (jetson.default_route, sorted(jetson.interfaces)) == ("enP8p1s0", ["enP8p1s0", "usb0"])
    assert (laptop.default_route, laptop.interfaces["wlp2s0"].signal_dbm) == ("wlp2s0", -40.0), "by IPv6, which is the only one"


def test_a_way_out_that_is_no_hardware_is_shown(tmp_path: Path) -> None:
    root = shutil.copytree(MACHINES / "laptop", tmp_path / "root")
    line = "tun0\t00000000\t00000000\t0001\t0\t0\t50\t00000000\t0\t0\t0\n"
    with (root / "proc/net/route").open("a") as file:
        file.write(line)
    found = read(network.build(context(root))).network
    assert found is not None
    assert (found.default_route, found.interfaces["tun0"].state) == ("tun0", "unknown")


def test_a_jetsons_gpu_and_rails() -> None:
    where = context("orin_nano")
    assert read(gpu.build(where)).gpu == GpuHealth("17000000.gpu", 43.7, 612, 625)
    assert read(rails.build(where)).power_mw == {"VDD_IN": 4894, "VDD_CPU_GPU_CV": 809}
    assert where.tree.refused == 0
    for machine in ("pi4", "pi5", "laptop"):
        assert read(gpu.build(context(machine))).gpu is None
        assert read(rails.build(context(machine))).power_mw is None


@pytest.mark.parametrize(
    ("name", "load", "expected"),
    [
        ("fb000000.gpu", "37@400000000Hz", 37.0), ("17000000.ga10b", "1000", 100.0), ("17000000.ga10b", "1001", None),
        ("fb000000.mali", "12", None), ("17000000.gpu", "much", None), ("17000000.gpu", "٣", None), ("17000000.gpu", "9" * 4400, None),
    ],
)  # fmt: skip
def test_the_load_of_a_gpu_in_the_words_of_its_driver(tmp_path: Path, name: str, load: str, expected: float | None) -> None:
    folder = tmp_path / "sys/class/devfreq" / name
    folder.mkdir(parents=True)
    (folder / "load").write_text(load + "\n")
    where = context(tmp_path)
    found = read(gpu.build(where)).gpu
    assert found is not None
    assert found.load_percent == expected
    assert where.tree.refused == (expected is None)


def test_a_gpu_that_appears_after_boot_is_found_and_rails_are_looked_for_now_and_then(tmp_path: Path) -> None:
    where = context(tmp_path)
    one, other = gpu.build(where), rails.build(where)
    assert (read(one).gpu, read(other).power_mw) == (None, None)
    shutil.copytree(MACHINES / "orin_nano", tmp_path, dirs_exist_ok=True)
    assert read(one, 10.0).gpu is not None
    assert read(other, rails.SELDOM_S - 1).power_mw is None
    assert read(other, rails.SELDOM_S).power_mw is not None


def test_this_process_and_its_children(tmp_path: Path) -> None:
    reader = process.build(context("pi5"))
    found = reader.read(0.0, Readings()).process
    assert (found.rss_bytes, found.children, found.children_rss_bytes) == (52000 * PAGE, 2, 13000 * PAGE)
    assert found.descriptors == 6
    assert found.descriptors_limit == resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    assert found.rss_slope_bytes_per_hour is None
    assert reader.reasons() == ()
    root = shutil.copytree(MACHINES / "pi5", tmp_path / "root")
    for number in range(6, int(process.MOST_DESCRIPTORS * (found.descriptors_limit or 0)) + 1):
        (root / "proc/self/fd" / str(number)).touch()
    crowded = process.build(context(root))
    if (found.descriptors_limit or 0) < 10_000:
        crowded.read(0.0, Readings())
        assert "file descriptors are open" in crowded.reasons()[0]


def test_growth_of_the_memory_is_told_per_hour_with_the_children(tmp_path: Path) -> None:
    root = shutil.copytree(MACHINES / "pi5", tmp_path / "root")
    reader = process.build(context(root))
    slopes = []
    for minute in range(30):
        (root / "proc/1207/statm").write_text(f"60000 {21000 + 100 * minute} 15000 700 0 30000 0\n")
        slopes.append(reader.read(60.0 * minute, Readings()).process.rss_slope_bytes_per_hour)
    assert slopes[10] is None, "the first minute does not count, and ten are needed"
    assert slopes[-1] == pytest.approx(100 * 60 * PAGE, rel=1e-6)


def test_a_slope_is_flat_where_nothing_grows_and_forgets_what_is_older_than_an_hour() -> None:
    slope = Slope()
    for second in range(0, 3 * 3600, 10):
        slope.note(float(second), 1e8 + (second < 5000) * second * 1e4 + (second % 300) * 100)
    assert slope.per_hour is not None
    assert abs(slope.per_hour) < 50_000
    assert slope.span_s <= SPAN_S


@given(rate=st.floats(-1e6, 1e6), start=st.floats(0, 1e9), every=st.floats(EVERY_S, 300))
def test_a_slope_is_the_rate_of_whatever_grows_evenly(rate: float, start: float, every: float) -> None:
    slope = Slope()
    now = 1e5
    while now < 1e5 + 5000:
        slope.note(now, start + rate * (now - 1e5))
        now += every
    assert slope.per_hour == pytest.approx(rate * 3600, rel=1e-3, abs=60)
    assert SETTLING_S < 1e3


def test_room_on_the_disk_that_the_state_is_on(tmp_path: Path) -> None:
    found = read(disk.build(context("pi4", state_dir=tmp_path / "not" / "yet"))).disk
    real = os.statvfs(tmp_path)
    assert found is not None
    assert found.total_bytes == real.f_blocks * real.f_frsize
    assert not found.read_only


@pytest.mark.parametrize(
    ("blocks", "free", "files", "files_free", "flags", "reason"),
    [
        (1_000_000, 500_000, 1000, 500, 0, None),
        (30_000, 1_000, 1000, 500, 0, None),  # a small card
        (30_000, 500, 1000, 500, 0, "only 2 MB are free"),
        (8_000_000, 15_000, 1000, 500, 0, "only 61 MB are free"),
        (1_000_000, 500_000, 1000, 3, 0, "no more than 3 files"),
        (1_000_000, 500_000, 0, 0, 0, None),  # btrfs counts none
        (1_000_000, 500_000, 1000, 500, os.ST_RDONLY, "read-only"),
    ],
)
def test_a_disk_that_is_full_or_read_only_is_told_of(
    blocks: int, free: int, files: int, files_free: int, flags: int, reason: str | None
) -> None:
    def statvfs(_: Path) -> os.statvfs_result:
        return os.statvfs_result((4096, 4096, blocks, free, free, files, files_free, files_free, flags, 255))

    reader = disk.build(context("pi4", state_dir=Path("/var/lib/edge-agent"), statvfs=statvfs))
    assert read(reader).disk == DiskHealth(blocks * 4096, free * 4096, files_free if files else None, bool(flags))
    assert [str(reason) in told for told in reader.reasons()] == ([] if reason is None else [True])


def test_a_disk_that_cannot_be_asked_is_null() -> None:
    def statvfs(_: Path) -> os.statvfs_result:
        raise OSError(5, "Input/output error")

    reader = disk.build(context("pi4", statvfs=statvfs))
    assert read(reader).disk is None
    assert reader.reasons() == ()


def test_jumps_of_the_clock_are_counted_and_slewing_and_suspend_are_not() -> None:
    wall, boot = [1000.0], [10.0]
    where = context("pi4", wall=lambda: wall[0], boottime=lambda: boot[0])
    reader = clock.Clock(where, lambda: host.ClockState(True, "adjtimex", 0.002))
    for wall[0], boot[0] in [(1000.0, 10.0), (1010.1, 20.0), (9999.0, 9008.9)]:
        found = read(reader).clock
    assert found == ClockHealth(True, "adjtimex", 0.002, 0, None)
    wall[0] += 3600.0
    boot[0] += 10.0
    assert read(reader).clock == ClockHealth(True, "adjtimex", 0.002, 1, 3590.0)
    wall[0] -= 100.0
    assert read(reader).clock == ClockHealth(True, "adjtimex", 0.002, 2, -100.0)


def test_where_the_kernel_may_not_be_asked_timesyncds_mark_is_looked_for(tmp_path: Path) -> None:
    reader = clock.Clock(context(tmp_path), lambda: None)
    assert read(reader).clock == ClockHealth(None, None, None, 0, None)
    (tmp_path / "run/systemd/timesync").mkdir(parents=True)
    (tmp_path / "run/systemd/timesync/synchronized").touch()
    assert read(reader).clock == ClockHealth(True, "timesyncd", None, 0, None)


def test_the_kernel_of_this_machine_answers() -> None:
    found = host.kernel_clock()
    assert found is not None
    assert found.told_by == "adjtimex"


def test_every_reader_has_a_place_in_the_heartbeat() -> None:
    assert plugins.names("readers") == ("clock", "disk", "gpu", "network", "process", "rails", "system")


@pytest.mark.parametrize("machine", ["pi4", "pi5", "orin_nano", "laptop", "container", "/nowhere"])
def test_all_readers_together_on_each_machine(machine: str) -> None:
    where = context(machine)
    vitals = Vitals(where)
    first, found = vitals.read(0.0), vitals.read(10.0)
    assert found.host.readers_failed_total == 0
    assert where.tree.refused == 0
    told = {name for name, value in asdict(found.host).items() if value not in (None, {}, 0, 0.0)}
    if machine == "/nowhere":
        assert told <= {"disk", "clock"}
    elif machine != "container":
        assert told >= {"system", "cpu", "memory", "network", "load1", "temperature_c"}
    assert first.process.threads >= 1


@pytest.mark.parametrize("content", [b"", b"\0\0\0", b"\xff\xfe\xff", b"cpu\ncpu0\n", b"9" * 70_000, b"MemTotal: x kB", b": : :"])
def test_whatever_is_in_the_files_no_reader_raises(tmp_path: Path, content: bytes) -> None:
    root = shutil.copytree(MACHINES / "orin_nano", tmp_path / "root")
    for path in root.rglob("*"):
        if path.is_file():
            path.write_bytes(content)
    vitals = Vitals(context(root))
    vitals.read(0.0)
    assert vitals.read(10.0).host.readers_failed_total == 0
    assert vitals.check(0.0) is None


def test_a_reader_that_fails_costs_its_part_and_nothing_else(caplog: pytest.LogCaptureFixture) -> None:
    class Broken:
        def read(self, now: float, readings: Readings) -> Readings:
            raise ZeroDivisionError

        def reasons(self) -> tuple[str, ...]:
            return ()

    where = context("pi5")
    vitals = Vitals(where, [Broken(), system.build(where)])
    found = vitals.read(0.0)
    assert found.host.system is not None
    assert found.host.readers_failed_total == 1
    assert "reader failed reader=Broken" in caplog.text
    assert isinstance(found.process, ProcessHealth)


def test_this_machine_can_be_read() -> None:
    found = Vitals(ReaderContext(state_dir=Path.cwd())).read(0.0)
    assert found.process.rss_bytes > 1 << 20
    assert found.host.cpu is not None
    assert found.host.disk is not None
    assert found.host.readers_failed_total == 0
