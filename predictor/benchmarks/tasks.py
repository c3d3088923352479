"""The published tasks: who teaches, who is tested, what may be read and what is scored.

Two protocols (`Query`):

* `help` (HELP, arXiv 2106.08630): every source device has measured the first 900 architectures (4000 on
  FBNet and OFA) and the ten references; targets measure among the same; scored are the next 1000 without
  the slowest and the fastest tenth on the target.
* `all` (NASFLAT, arXiv 2403.02446): every source device has measured 512 architectures (NAS-Bench-201) or
  800, here the ten references and others drawn once; targets measure any; scored are all.

What a method measured on the target itself is not scored: it is known.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Literal

import numpy as np

from predictor.benchmarks.architectures import Architectures
from predictor.benchmarks.errors import TableRejected, TaskRejected
from predictor.benchmarks.method import Floats, Indices, Meter, Selection, Source
from predictor.benchmarks.tables import LatencyTable

Query = Literal["help", "all"]

SPLITS_FILE = "splits.json"
_HELP_SOURCE: Mapping[str, int] = MappingProxyType({"nb201": 900, "fbnet": 4000, "ofa": 4000})
_HELP_QUERY = 1000
_HELP_TRIM = 0.1
_NASFLAT_SOURCE: Mapping[str, int] = MappingProxyType({"nb201": 512, "fbnet": 800, "ofa": 800})
_SOURCE_SEED = 2403  # of the one draw of NASFLAT's source architectures


@dataclass(frozen=True, slots=True)
class Split:
    """Devices of a task, by name, and its protocol."""

    name: str
    space: str
    train: tuple[str, ...]
    validation: tuple[str, ...]
    test: tuple[str, ...]
    query: Query


@dataclass(frozen=True, slots=True, eq=False)
class Task:
    """A split on a table. Rows of the table: `source_rows` the source devices have measured, `pool` targets
    may measure, `query` is scored but for the share `trim` at either end of the target's latencies.
    """

    name: str
    space: str
    train: tuple[str, ...]
    validation: tuple[str, ...]
    test: tuple[str, ...]
    source_rows: Indices
    pool: Indices
    query: Indices
    trim: float
    note: str = ""


def read_splits(folder: Path) -> dict[str, Split]:
    """The published splits by name: `help-nb201`, `help-fbnet`, `help-ofa`, and NASFLAT's `ND`, `F1`, ...

    Raises `TableRejected` for a missing file or one of another form.
    """
    file = folder / SPLITS_FILE
    try:
        document = json.loads(file.read_text())
        splits = [
            Split(
                f"help-{space}", space, tuple(one["train"]), tuple(one["valid"]), tuple(one["test"]), "help"
            )
            for space, one in document["help"].items()
        ]
        splits += [
            Split(name, one["space"], tuple(one["train"]), (), tuple(one["test"]), "all")
            for name, one in document["nasflat"].items()
        ]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise TableRejected(f"{file} is no list of splits: {error!r}") from error
    return {split.name: split for split in splits}


def published_split(folder: Path, name: str) -> Split:
    """One published split. Raises `TaskRejected` for a name that none has, and as `read_splits`."""
    splits = read_splits(folder)
    if name not in splits:
        raise TaskRejected(f"task {name!r} is unknown; there are {', '.join(splits)}")
    return splits[name]


def task_of(split: Split, table: LatencyTable, *, source_samples: int | None = None) -> Task:
    """The split on its table; `source_samples`: architectures that each source device has measured, if not
    the protocol's own number.

    Raises `TaskRejected` if a source device or all test devices are not in the table. Some missing test
    devices make a note.
    """
    missing = [device for device in (*split.train, *split.validation) if device not in table.devices]
    there = tuple(device for device in split.test if device in table.devices)
    absent = [device for device in split.test if device not in table.devices]
    if missing or not there:
        raise TaskRejected(
            f"task {split.name}: the {table.space} table has no {', '.join(missing or absent)}; "
            f"it holds {', '.join(table.devices)}"
        )
    shared = sorted({*split.train, *split.validation} & set(split.test))
    if shared or not split.train:
        raise TaskRejected(
            f"task {split.name}: {', '.join(shared) or 'nobody'} teaches"
            + (" and is tested as well" if shared else "; name source devices")
        )
    source, pool, query = _rows(split, table, source_samples)
    return Task(
        name=split.name, space=split.space, train=split.train, validation=split.validation, test=there,
        source_rows=source, pool=pool, query=query, trim=_HELP_TRIM if split.query == "help" else 0.0,
        note=f"without {', '.join(absent)}, which the table does not hold" if absent else "",
    )  # fmt: skip


def _rows(split: Split, table: LatencyTable, samples: int | None) -> tuple[Indices, Indices, Indices]:
    """Source rows, pool and query."""
    everything = np.arange(len(table.genomes))
    fewest = len(table.reference)
    if split.query == "help":
        pool = everything[: _HELP_SOURCE[split.space]]
        count = len(pool) if samples is None else samples
        _check_samples(split, count, fewest=fewest, most=len(pool))
        query = everything[len(pool) : len(pool) + _HELP_QUERY]
        if len(query) < _HELP_QUERY:
            raise TaskRejected(
                f"task {split.name} scores rows {len(pool)} to {len(pool) + _HELP_QUERY - 1}; "
                f"the table has {len(everything)}"
            )
        return np.union1d(pool[:count], table.reference), pool, query
    count = _NASFLAT_SOURCE[split.space] if samples is None else samples
    _check_samples(split, count, fewest=fewest, most=len(everything))
    order = np.random.default_rng(_SOURCE_SEED).permutation(everything)
    others = order[~np.isin(order, table.reference)]
    return np.union1d(table.reference, others[: count - fewest]), everything, everything


def _check_samples(split: Split, count: int, *, fewest: int, most: int) -> None:
    if not fewest <= count <= most:
        raise TaskRejected(
            f"task {split.name}: {count} source architectures; between {fewest} (the references) and {most}"
        )


def source_of(task: Task, table: LatencyTable, architectures: Architectures) -> Source:
    """What a method may learn from: everything else is NaN.

    Validation devices have measured the query too: HELP's choose a checkpoint by it. Test devices are absent.
    """
    chosen = np.union1d(task.source_rows, task.query)
    return Source(
        architectures=architectures,
        devices=task.train,
        latency_ms=_granted(table.columns(task.train), task.source_rows),
        validation_devices=task.validation,
        validation_ms=_granted(table.columns(task.validation), chosen),
        reference=table.reference,
        query=task.query,
    )


def _granted(latency_ms: Floats, rows: Indices) -> Floats:
    granted = np.full(latency_ms.shape, np.nan)
    granted[rows] = latency_ms[rows]
    return granted


def meter_of(
    task: Task, table: LatencyTable, device: str, *, budget: int, selection: Selection, seed: int
) -> Meter:
    """A target to measure. Random numbers depend on the seed and the device only, so that every method draws
    the same architectures.
    """
    column = table.column(device)
    return Meter(
        lambda row: float(column[row]),
        pool=task.pool,
        budget=budget,
        selection=selection,
        rng=np.random.default_rng([seed, zlib.crc32(device.encode())]),
        reference=table.reference,
    )


def scored_rows(task: Task, latency_ms: Floats, measured: Indices) -> Indices:
    """Rows of the query that are scored for a target with latencies (N,): trimmed, and without what was
    measured on it.
    """
    order = task.query[np.argsort(latency_ms[task.query], kind="stable")]
    cut = int(task.trim * len(order))
    kept = np.sort(order[cut : len(order) - cut])
    return kept[~np.isin(kept, measured)]
