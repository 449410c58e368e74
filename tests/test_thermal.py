"""What is read of heat and power, on trees with what machines really have there."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from edge_agent.machine import MachineWatch
from edge_agent.power import PiThrottled, PowerReadings, read_power, read_rails
from edge_agent.sysfs import Tree
from edge_agent.thermal import ThermalReadings, Zone, board_model, read_thermal

MACHINES = Path(__file__).parent / "data" / "machines"
ZONE = "sys/class/thermal/thermal_zone0"


@pytest.fixture
def machine(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    """A copy of one machine's tree, to change."""
    return shutil.copytree(MACHINES / request.param, tmp_path / "root")


def write(root: Path, path: str, content: object) -> None:
    (root / path).parent.mkdir(parents=True, exist_ok=True)
    (root / path).write_text(f"{content}\n")


def test_a_raspberry_pi_is_slowed_at_80_though_its_zone_knows_only_the_shutdown() -> None:
    tree = Tree(MACHINES / "pi4")
    assert read_thermal(tree) == ThermalReadings((Zone("cpu-thermal", 61.8, 80.0),), frequency_cap=1.0)
    occurred = PiThrottled.UNDER_VOLTAGE_OCCURRED | PiThrottled.THROTTLED_OCCURRED
    assert read_power(tree) == PowerReadings(occurred, under_voltage=False)
    assert board_model(tree) == "Raspberry Pi 4 Model B Rev 1.5"
    assert tree.refused == 0


def test_a_pi_5_has_its_firmware_elsewhere_and_its_fan_slows_nothing() -> None:
    tree = Tree(MACHINES / "pi5")
    assert read_thermal(tree) == ThermalReadings((Zone("cpu-thermal", 64.2, 80.0),), frequency_cap=1.0)
    assert read_power(tree) == PowerReadings(PiThrottled(0), under_voltage=False)
    assert tree.refused == 0


def test_a_jetson_is_slowed_at_99_and_not_at_its_notice_of_a_hot_surface() -> None:
    tree = Tree(MACHINES / "orin_nano")
    found = read_thermal(tree)
    assert found.zones == (
        Zone("cpu-thermal", 51.6, 99.0), Zone("gpu-thermal", 52.0, 99.0), Zone("soc0-thermal", 50.2, 99.0), Zone("tj-thermal", 52.3),
    )  # fmt: skip
    assert found.slowed_by == ()
    assert (found.frequency_cap, found.gpu_frequency_cap) == (1.0, 1.0)
    assert read_power(tree) == PowerReadings(over_current_counts={"oc1": 0, "oc2": 0, "oc3": 37}, mode="15W")
    assert read_rails(tree) == {"VDD_IN": 4894, "VDD_CPU_GPU_CV": 809}
    assert tree.refused == 0


def test_a_laptop_tells_its_limit_by_its_cores_and_other_zones_are_not_the_chip() -> None:
    tree = Tree(MACHINES / "laptop")
    found = read_thermal(tree)
    assert found.zones == (Zone("acpitz", 27.8), Zone("x86_pkg_temp", 67.0), Zone("Package id 0", 67.0, 100.0))
    assert found.slowed_by == ()  # neither an idle Processor nor a TCC offset is
    assert found.throttle_counts == {"package0": 12}
    assert tree.refused == 0


@pytest.mark.parametrize("root", [MACHINES / "container", Path("/nowhere")])
def test_a_machine_that_tells_nothing(root: Path) -> None:
    tree = Tree(root)
    assert read_thermal(tree) == ThermalReadings()
    assert read_power(tree) == PowerReadings()
    assert read_rails(tree) == {}
    assert tree.refused == 0
    seen = MachineWatch(root).look()
    assert (seen.under_voltage_seen, seen.over_current_seen, seen.pi_throttled_latched, seen.refused) == (None, None, None, 0)


def test_this_machine_can_be_looked_at() -> None:
    first, second = (watch := MachineWatch()).look(), watch.look()
    assert (first.zone is None) == (second.zone is None)


@pytest.mark.parametrize("machine", ["pi4"], indirect=True)
@pytest.mark.parametrize("content", ["-273000", "-274000", "0", "200000", "", "\0\0\0\0", "hot", "1e5", "٣", "9" * 4400, "85.0"])
def test_absurd_temperatures_are_ignored_and_counted(machine: Path, content: str) -> None:
    write(machine, f"{ZONE}/temp", content)
    tree = Tree(machine)
    assert read_thermal(tree).zones == ()
    assert tree.refused == 1


@pytest.mark.parametrize("machine", ["pi4"], indirect=True)
def test_files_that_vanish_or_cannot_be_read_are_counted_and_sensors_that_are_off_are_not(machine: Path) -> None:
    (machine / ZONE / "temp").unlink()
    tree = Tree(machine)
    assert read_thermal(tree).zones == ()
    assert tree.refused == 1
    (machine / ZONE / "temp").symlink_to("/proc/self/mem")  # reads with EIO
    assert read_thermal(tree).zones == ()
    assert tree.refused == 2
    (machine / ZONE / "temp").unlink()
    (machine / ZONE / "temp").mkdir()
    assert read_thermal(tree).zones == ()
    assert tree.refused == 3
    (machine / ZONE / "temp").rmdir()
    event = os.eventfd(0) if hasattr(os, "eventfd") else os.memfd_create("off")
    try:
        if hasattr(os, "eventfd"):
            (machine / ZONE / "temp").symlink_to(f"/proc/self/fd/{event}")  # opens with ENXIO
            assert read_thermal(tree).zones == ()
            assert tree.refused == 3
    finally:
        os.close(event)


@pytest.mark.parametrize("machine", ["orin_nano"], indirect=True)
def test_cooling_devices_tell_that_clocks_are_lowered_now(machine: Path) -> None:
    write(machine, "sys/class/thermal/cooling_device4/cur_state", 3)
    write(machine, "sys/class/thermal/cooling_device2/cur_state", 1)
    assert read_thermal(Tree(machine)).slowed_by == ("gpu-throttle-alert", "cpufreq-cpu0")
    assert MachineWatch(machine).look().signs.throttled


@pytest.mark.parametrize("machine", ["orin_nano"], indirect=True)
def test_the_zone_nearest_to_its_own_trip_point_governs(machine: Path) -> None:
    write(machine, "sys/class/thermal/thermal_zone1/temp", 96_000)
    zone = MachineWatch(machine).look().zone
    assert zone == Zone("gpu-thermal", 96.0, 99.0)


def test_passive_points_that_nothing_is_bound_to_count_only_where_nothing_is_bound_at_all(tmp_path: Path) -> None:
    for index, (kind, value) in enumerate([("passive", 75_000), ("passive", 85_000), ("critical", 115_000)]):
        write(tmp_path, f"{ZONE}/trip_point_{index}_type", kind)
        write(tmp_path, f"{ZONE}/trip_point_{index}_temp", value)
    write(tmp_path, f"{ZONE}/type", "soc-thermal")
    write(tmp_path, f"{ZONE}/temp", 50_000)
    assert read_thermal(Tree(tmp_path)).zones[0].trip_c == 85.0
    write(tmp_path, f"{ZONE}/cdev0/type", "pwm-fan")
    write(tmp_path, f"{ZONE}/cdev0_trip_point", 0)
    assert read_thermal(Tree(tmp_path)).zones[0].trip_c == 100.0
    write(tmp_path, f"{ZONE}/cdev1/type", "thermal-cpufreq-0")
    write(tmp_path, f"{ZONE}/cdev1_trip_point", 0)
    assert read_thermal(Tree(tmp_path)).zones[0].trip_c == 75.0


@pytest.mark.parametrize("machine", ["pi4"], indirect=True)
@pytest.mark.parametrize(
    ("word", "throttled", "under_voltage"),
    [
        ("4", True, False),
        ("2", True, False),
        ("8", False, False),
        ("5", False, True),
        ("50005", False, True),
        ("50000", False, False),
    ],
)
def test_throttle_bits_of_now_are_signs_and_latched_ones_are_not(machine: Path, word: str, throttled: bool, under_voltage: bool) -> None:
    write(machine, "sys/devices/platform/soc/soc:firmware/get_throttled", word)
    seen = MachineWatch(machine).look()
    assert (seen.signs.throttled, seen.signs.under_voltage) == (throttled, under_voltage)


@pytest.mark.parametrize("machine", ["pi4"], indirect=True)
def test_bits_that_the_kernel_clears_stay_seen(machine: Path) -> None:
    path = "sys/devices/platform/soc/soc:firmware/get_throttled"
    watch = MachineWatch(machine)
    write(machine, path, "0")
    assert watch.look().under_voltage_seen is False
    write(machine, path, "1")
    assert watch.look().under_voltage_seen is True
    write(machine, path, "0")
    seen = watch.look()
    assert seen.under_voltage_seen is True
    assert not seen.signs.under_voltage
    assert seen.pi_throttled_latched == PiThrottled.UNDER_VOLTAGE | PiThrottled.UNDER_VOLTAGE_OCCURRED
    write(machine, path, "fffffff")
    assert watch.look().refused == 1


@pytest.mark.parametrize("machine", ["pi5"], indirect=True)
def test_a_pi_without_throttle_bits_still_tells_of_its_supply(machine: Path) -> None:
    shutil.rmtree(machine / "sys/devices/platform")
    watch = MachineWatch(machine)
    assert watch.look().under_voltage_seen is False
    write(machine, "sys/class/hwmon/hwmon2/in0_lcrit_alarm", 1)
    seen = watch.look()
    assert seen.signs.under_voltage
    assert seen.under_voltage_seen is True


@pytest.mark.parametrize("machine", ["orin_nano"], indirect=True)
def test_counters_count_when_they_grow_and_instantaneous_current_never(machine: Path) -> None:
    hwmon = "sys/class/hwmon/hwmon3"
    write(machine, f"{hwmon}/oc2_event_cnt", 4)
    watch = MachineWatch(machine)
    seen = watch.look()
    assert (seen.signs.over_current, seen.over_current_seen) == (False, True)
    write(machine, f"{hwmon}/oc3_event_cnt", 999)
    seen = watch.look()
    assert not seen.signs.over_current
    assert not seen.signs.under_voltage
    write(machine, f"{hwmon}/oc2_event_cnt", 5)
    write(machine, f"{hwmon}/oc1_event_cnt", 1)
    seen = watch.look()
    assert seen.signs.over_current
    assert seen.signs.under_voltage
    assert seen.under_voltage_seen
    assert not watch.look().signs.over_current


@pytest.mark.parametrize("machine", ["laptop"], indirect=True)
def test_an_x86_package_that_throttles_now(machine: Path) -> None:
    watch = MachineWatch(machine)
    assert not watch.look().signs.throttled
    write(machine, "sys/devices/system/cpu/cpu0/thermal_throttle/package_throttle_count", 13)
    assert watch.look().slowed_by == ("package0",)
    assert not watch.look().signs.throttled


@pytest.mark.parametrize("machine", ["orin_nano"], indirect=True)
def test_a_frequency_cap_is_one_that_came_after_the_start(machine: Path) -> None:
    path = "sys/devices/system/cpu/cpufreq/policy4/scaling_max_freq"
    write(machine, path, 1_113_600)
    watch = MachineWatch(machine)
    seen = watch.look()
    assert seen.thermal.frequency_cap == 0.737
    assert not seen.signs.capped
    write(machine, path, 1_510_400)
    assert not watch.look().signs.capped
    write(machine, path, 729_600)
    assert watch.look().signs.capped


@pytest.mark.parametrize(("status", "mode"), [("pmode:0001", "7W"), ("pmode:0009 fmode:fanNull", "9"), ("fmode", None), ("", None)])
@pytest.mark.parametrize("machine", ["orin_nano"], indirect=True)
def test_power_modes_by_name_or_by_number(machine: Path, status: str, mode: str | None) -> None:
    write(machine, "var/lib/nvpmodel/status", status)
    assert read_power(Tree(machine)).mode == mode
