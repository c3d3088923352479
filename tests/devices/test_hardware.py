"""Facts about the machine, read from a made-up `/proc` and `/etc`, and from this machine."""

from __future__ import annotations

import secrets
import uuid
from pathlib import Path

import pytest
from pydantic import ValidationError

from devices.hardware import (
    isa_flags,
    parse_cpuinfo,
    parse_nvidia_smi,
    read_device,
    read_fingerprint,
    read_hardware,
    read_machine_id,
    slug_of,
)

X86 = """processor	: 0
model name	: Fast Processor 9000
flags		: fpu sse4_2 avx avx2 fma hypervisor avx512_vnni nonsense

processor	: 1
model name	: Slow Processor 1
"""
ARM = "processor : 0\nFeatures : fp asimd asimddp sha1\n"


def machine(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def test_an_x86_virtual_machine(tmp_path: Path) -> None:
    root = machine(tmp_path, {"proc/cpuinfo": X86, "etc/os-release": 'ID=x\nPRETTY_NAME="Some Linux 12"\n'})
    hardware = read_hardware(root)
    assert hardware.cpu_model == "Fast Processor 9000"
    assert hardware.isa_flags == ("sse4_2", "avx", "fma", "avx2", "avx512_vnni")
    assert hardware.is_virtual_machine
    assert hardware.operating_system.startswith("Some Linux 12, ")
    assert hardware.physical_cores <= hardware.logical_cores


def test_an_arm_board_is_named_by_its_device_tree(tmp_path: Path) -> None:
    root = machine(tmp_path, {"proc/cpuinfo": ARM, "proc/device-tree/model": "Raspberry Pi 5 Model B\0"})
    hardware = read_hardware(root)
    assert (hardware.cpu_model, hardware.is_virtual_machine) == ("Raspberry Pi 5 Model B", False)
    assert hardware.isa_flags == ("asimd", "asimddp")


def test_a_machine_that_tells_nothing_still_has_hardware(tmp_path: Path) -> None:
    assert read_hardware(tmp_path).isa_flags == ()
    assert isa_flags(parse_cpuinfo("")) == ()


def test_without_machine_id_and_network_the_fingerprint_is_stable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Python makes an address up in each process where there is none, with a bit of its own."""
    monkeypatch.setattr(uuid, "getnode", lambda: (1 << 40) | secrets.randbits(40))
    assert read_fingerprint(tmp_path) == read_fingerprint(tmp_path)
    monkeypatch.setattr(uuid, "getnode", lambda: 0x0242AC110002)
    assert read_fingerprint(tmp_path) == read_fingerprint(tmp_path)


def test_the_fingerprint_is_stable_and_does_not_show_the_machine_id(tmp_path: Path) -> None:
    identity = "0123456789abcdef0123456789abcdef"
    root = machine(tmp_path, {"etc/machine-id": identity + "\n"})
    assert read_fingerprint(root) == read_fingerprint(root)
    assert identity not in read_fingerprint(root)
    assert read_fingerprint(root) != read_fingerprint(tmp_path / "container")
    assert len(read_fingerprint(tmp_path / "container")) == 64
    assert (read_machine_id(root), read_machine_id(tmp_path / "container")) == (identity, None)


def test_this_machine_is_a_device_under_its_own_or_a_given_key() -> None:
    assert read_device("bench-1").key == "bench-1"
    assert read_device().fingerprint == read_device("bench-1").fingerprint
    with pytest.raises(ValidationError, match="key"):
        read_device("Not A Slug")


@pytest.mark.parametrize(
    ("name", "slug"),
    [("Anna's MacBook", "anna-s-macbook"), ("rpi5.local", "rpi5.local"), ("--", ""), ("x" * 80, "x" * 63)],
)
def test_host_names_become_keys(name: str, slug: str) -> None:
    assert slug_of(name) == slug


def test_nvidia_lines_are_accelerators_and_others_are_left_out() -> None:
    text = "NVIDIA T4, 15360, 550.54.15\nNo devices were found\n"
    (card,) = parse_nvidia_smi(text)
    assert (card.name, card.memory_bytes, card.driver) == ("NVIDIA T4", 15360 << 20, "550.54.15")
