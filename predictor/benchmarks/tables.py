"""The published latency tables: architectures of a space times devices, in milliseconds.

Sources: NAS-Bench-201, FBNet and OFA-MobileNetV3 latencies of HELP (arXiv 2106.08630) and HW-NAS-Bench. The
files are `nb201.npz`, `fbnet.npz` and `ofa_mbv3.npz` in a folder `nas-latency`.
"""

from __future__ import annotations

import os
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from predictor.benchmarks.errors import TableRejected
from predictor.benchmarks.method import Floats, Indices

DATA_VARIABLE = "LAPTIME_DATA"
SPACES: Mapping[str, str] = {"nb201": "nb201.npz", "fbnet": "fbnet.npz", "ofa": "ofa_mbv3.npz"}
_GENOME_LENGTHS = {"nb201": 6, "fbnet": 22, "ofa": 46}
_PLACES = (Path(), Path("nas-latency"), Path("data") / "nas-latency")


@dataclass(frozen=True, slots=True, eq=False)
class LatencyTable:
    """`genomes` (N, G) in the space's own encoding, `latency_ms` (N, D) of `devices`, `reference` (10,): rows
    of the architectures that HELP measures first on every device.
    """

    space: str
    genomes: Indices
    devices: tuple[str, ...]
    latency_ms: Floats
    reference: Indices

    def column(self, device: str) -> Floats:
        """Latencies of one device, (N,). Raises `TableRejected` for one that is not in the table."""
        return self.columns((device,))[:, 0]

    def columns(self, devices: tuple[str, ...]) -> Floats:
        """Latencies of several devices, (N, len(devices))."""
        missing = [device for device in devices if device not in self.devices]
        if missing:
            raise TableRejected(
                f"{self.space} has no device {', '.join(missing)}; there are {', '.join(self.devices)}"
            )
        return self.latency_ms[:, [self.devices.index(device) for device in devices]]


@dataclass(frozen=True, slots=True, eq=False)
class Candidates:
    """The architectures among which HELP's end-to-end search chooses: rows (C,) of the NAS-Bench-201 table,
    and their CIFAR-100 accuracy in per cent (C,).
    """

    rows: Indices
    accuracy: Floats


def data_folder(given: Path | None) -> Path:
    """The folder of the tables: `given`, or what `LAPTIME_DATA` names, itself or below as `nas-latency` or
    `data/nas-latency`.
    """
    named = given or (Path(os.environ[DATA_VARIABLE]) if os.environ.get(DATA_VARIABLE) else None)
    if named is None:
        raise TableRejected(f"no folder of latency tables is named; use --data DIR or set {DATA_VARIABLE}")
    for place in _PLACES:
        if any((named / place / file).is_file() for file in SPACES.values()):
            return named / place
    raise TableRejected(
        f"{named} holds none of {', '.join(SPACES.values())}, neither directly nor in nas-latency/ "
        "or data/nas-latency/"
    )


def load_table(space: str, folder: Path) -> LatencyTable:
    """One space's table. Raises `TableRejected` for a missing or unreadable file, missing arrays, shapes that
    do not fit together, and latencies that are not positive.
    """
    if space not in SPACES:
        raise TableRejected(f"space {space!r} is unknown; there are {', '.join(SPACES)}")
    file = folder / SPACES[space]
    names = ("ks", "e", "d", "r") if space == "ofa" else ("ops",)
    arrays = _read(file, (*names, "devices", "latency_ms", "help_ref_idx"))
    latency = arrays["latency_ms"].astype(np.float64)
    parts = [arrays[name].reshape(len(arrays[name]), -1).astype(np.int64) for name in names]
    rows, devices = latency.shape if latency.ndim == 2 else (-1, -1)
    if any(len(part) != rows for part in parts):
        raise TableRejected(f"{file}: {[len(part) for part in parts]} genomes and {latency.shape} latencies")
    genomes = np.concatenate(parts, axis=1)
    if genomes.shape[1] != _GENOME_LENGTHS[space] or len(arrays["devices"]) != devices:
        raise TableRejected(
            f"{file}: genomes {genomes.shape} and latencies {latency.shape}; expected genomes of "
            f"{_GENOME_LENGTHS[space]} and {len(arrays['devices'])} devices"
        )
    if not (np.isfinite(latency).all() and (latency > 0).all()):
        raise TableRejected(f"{file}: latencies must be positive milliseconds")
    reference = _rows(file, arrays["help_ref_idx"], rows)
    return LatencyTable(space, genomes, tuple(map(str, arrays["devices"])), latency, reference)


def load_candidates(folder: Path) -> Candidates:
    """HELP's 500 candidates. Raises `TableRejected` as `load_table` does."""
    file = folder / SPACES["nb201"]
    arrays = _read(file, ("metad2a_idx", "metad2a_cifar100_acc", "latency_ms"))
    rows = _rows(file, arrays["metad2a_idx"], len(arrays["latency_ms"]))
    accuracy = arrays["metad2a_cifar100_acc"].astype(np.float64)
    if accuracy.shape != rows.shape:
        raise TableRejected(f"{file}: {rows.shape} candidates and {accuracy.shape} accuracies")
    return Candidates(rows, accuracy)


def _read(file: Path, names: tuple[str, ...]) -> dict[str, NDArray[np.generic]]:
    if not file.is_file():
        raise TableRejected(f"{file} does not exist")
    try:
        with file.open("rb") as stream, np.load(stream, allow_pickle=False) as archive:
            missing = [name for name in names if name not in archive]
            if missing:
                raise TableRejected(f"{file} has no {', '.join(missing)}; it holds {', '.join(archive)}")
            return {name: archive[name] for name in names}
    except (ValueError, TypeError, OSError, EOFError, zipfile.BadZipFile) as error:
        raise TableRejected(f"{file} is no readable table: {error}") from error


def _rows(file: Path, values: NDArray[np.generic], count: int) -> Indices:
    rows = values.astype(np.int64)
    if rows.ndim != 1 or rows.min(initial=0) < 0 or rows.max(initial=0) >= count:
        raise TableRejected(f"{file}: indices reach from {rows.min()} to {rows.max()}, the table has {count}")
    return rows
