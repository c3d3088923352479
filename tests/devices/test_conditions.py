"""The state of the machine, read from a made-up `/proc` and `/sys`, and from this machine."""

from __future__ import annotations

from pathlib import Path

import pytest

from devices.conditions import read_conditions, read_throttle_count

CPU = "sys/devices/system/cpu"


def machine(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + "\n")
    return root


def test_everything_that_a_machine_can_tell(tmp_path: Path) -> None:
    root = machine(
        tmp_path,
        {
            f"{CPU}/cpu0/cpufreq/scaling_governor": "performance",
            f"{CPU}/cpu0/cpufreq/scaling_cur_freq": "2000000",
            f"{CPU}/cpu1/cpufreq/scaling_cur_freq": "3000000",
            "sys/class/thermal/thermal_zone0/type": "acpitz",
            "sys/class/thermal/thermal_zone0/temp": "99000",
            "sys/class/thermal/thermal_zone1/type": "x86_pkg_temp",
            "sys/class/thermal/thermal_zone1/temp": "61500",
            "sys/class/thermal/cooling_device0/type": "Processor",
            "sys/class/thermal/cooling_device0/cur_state": "0",
            "proc/stat": "cpu  50 0 20 100 10 0 0 20 0 0\ncpu0 1 1 1 1 1 1 1 1 1 1",
        },
    )
    found = read_conditions(root)
    assert (found.governor, found.frequency_mhz, found.temperature_c) == ("performance", 2500.0, 61.5)
    assert found.steal_fraction == pytest.approx(20 / 200)
    assert found.is_throttled is False
    assert found.at_unix_s > 1.7e9


def test_a_machine_that_tells_nothing(tmp_path: Path) -> None:
    found = read_conditions(tmp_path)
    assert (found.governor, found.frequency_mhz, found.temperature_c) == (None, None, None)
    assert (found.steal_fraction, found.is_throttled) == (None, None)
    assert read_throttle_count(tmp_path) is None


def test_without_a_governor_the_frequency_comes_from_cpuinfo(tmp_path: Path) -> None:
    root = machine(tmp_path, {"proc/cpuinfo": "cpu MHz\t\t: 2600.0\ncpu MHz\t\t: 2800.0"})
    assert read_conditions(root).frequency_mhz == 2700.0


@pytest.mark.parametrize(
    ("bits", "throttled"), [("0", False), ("50000", False), ("50005", True), ("4", True)]
)
def test_a_raspberry_throttles_now_not_earlier(tmp_path: Path, bits: str, throttled: bool) -> None:
    root = machine(tmp_path, {"sys/devices/platform/soc/soc:firmware/get_throttled": bits})
    assert read_conditions(root).is_throttled is throttled


def test_an_active_cooling_device_is_throttling(tmp_path: Path) -> None:
    name = "sys/class/thermal/cooling_device3"
    root = machine(tmp_path, {f"{name}/type": "cpufreq-cpu0", f"{name}/cur_state": "2"})
    assert read_conditions(root).is_throttled is True


def test_throttle_events_are_counted_over_all_cores(tmp_path: Path) -> None:
    root = machine(
        tmp_path,
        {
            f"{CPU}/cpu0/thermal_throttle/core_throttle_count": "3",
            f"{CPU}/cpu0/thermal_throttle/package_throttle_count": "4",
            f"{CPU}/cpu1/thermal_throttle/core_throttle_count": "5",
        },
    )
    assert read_throttle_count(root) == 12


def test_this_machine_tells_its_load_and_memory() -> None:
    found = read_conditions()
    assert found.load_1m is not None
    assert found.memory_available_bytes
    assert found.affinity


def test_what_is_no_number_costs_one_fact_only(tmp_path: Path) -> None:
    root = machine(
        tmp_path,
        {
            "sys/devices/platform/soc/soc:firmware/get_throttled": "throttled=?",
            "proc/cpuinfo": "cpu MHz : unknown\ncpu MHz : 2600.0",
            f"{CPU}/cpu0/cpufreq/scaling_governor": "ondemand",
            f"{CPU}/cpu0/cpufreq/scaling_cur_freq": "<unknown>",
        },
    )
    found = read_conditions(root)
    assert (found.is_throttled, found.frequency_mhz, found.governor) == (None, 2600.0, "ondemand")
