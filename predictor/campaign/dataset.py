"""The dataset as Parquet: one row for each measurement or refusal of a campaign.

Columns (`docs/dataset.md` describes them for those who add rows of their own):

    family, name, precision, is_sweep   which model; `name` is unique and rebuilds it (`predictor.families`)
    graph_digest, model_sha256          the graph without weights, and the bytes that ran
    input_shapes                        JSON: name -> sizes
    target_key, device_key              whose latency it is
    runtime, hardware                   JSON of `devices.target.Runtime` and `Hardware`
    passed                              number of the pass: equal numbers ran in the same minutes
    median_ms, standard_error_ms        at the machine's usual speed
    observed_median_ms, speed           as it passed, and the machine's speed relative to its usual one
    cpu_median_ms, mad_ms               processor time of the median run; median absolute deviation
    samples_ns                          raw samples that count: 48 of them, evenly over time, where there are
                                        more; to a thousandth of their median
    is_valid, reasons                   the verdict; rows that are not valid train nothing
    refusal                             why there is no measurement; null where there is one
    at_unix_s, load_1m, agent_version, protocol_version, family_version
    layer_names, layer_ns, layer_coverage   executed nodes and their times, where they were profiled

Several rows of one model on one target are several measurements. Rows are sorted by model: what its targets
say of it is alike, and half as large beside each other.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from devices.measurement import LayerProfile, LayerTime, Measurement
from devices.statistics import median
from devices.target import Hardware, Runtime
from predictor.campaign.store import Campaigner, Record
from predictor.errors import PredictorError

_TEXT, _REAL, _FLAG, _WHOLE = pa.string(), pa.float64(), pa.bool_(), pa.int64()
SCHEMA = pa.schema(
    [
        *((name, _TEXT) for name in ("family", "name", "precision")),
        ("is_sweep", _FLAG),
        *((name, _TEXT) for name in ("graph_digest", "model_sha256", "input_shapes", "target_key")),
        *((name, _TEXT) for name in ("device_key", "runtime", "hardware")),
        ("passed", _WHOLE),
        *((name, _REAL) for name in ("median_ms", "standard_error_ms", "observed_median_ms", "speed")),
        *((name, _REAL) for name in ("cpu_median_ms", "mad_ms")),
        ("samples_ns", pa.list_(_WHOLE)),
        ("is_valid", _FLAG),
        ("reasons", pa.list_(_TEXT)),
        ("refusal", _TEXT),
        ("at_unix_s", _REAL),
        ("load_1m", _REAL),
        ("agent_version", _TEXT),
        ("protocol_version", _WHOLE),
        ("family_version", _WHOLE),
        ("layer_names", pa.list_(_TEXT)),
        ("layer_ns", pa.list_(_WHOLE)),
        ("layer_coverage", _REAL),
    ]
)
_SAMPLES = "samples_ns.list.element"  # high bytes are alike, low ones are noise
_SAMPLE_RESOLUTION = 1000.0
_MOST_SAMPLES = 48  # of a row: what a median and a spread need
_REPEATING = [
    "family", "name", "precision", "graph_digest", "model_sha256", "input_shapes", "target_key", "device_key",
    "runtime", "hardware", "refusal", "reasons.list.element", "layer_names.list.element", "agent_version",
]  # fmt: skip
_NEEDED = (
    "family", "name", "precision", "is_sweep", "graph_digest", "target_key", "runtime", "hardware", "passed",
    "median_ms", "standard_error_ms", "speed", "is_valid", "agent_version", "layer_names", "layer_ns",
    "layer_coverage",
)  # fmt: skip
# Agents whose layer times of OpenVINO hold a part of the first run, which prepares weights and code: up to
# ten times what small layers take.
_COUNT_THE_FIRST_RUN = ("0+source", "0.1.0")


@dataclass(frozen=True, slots=True)
class Row:
    """A valid measurement of the dataset, as training takes it; the layers too are at the usual speed."""

    family: str
    name: str
    precision: str
    is_sweep: bool
    graph_digest: str
    target_key: str
    runtime: Runtime
    hardware: Hardware
    passed: int
    median_ms: float
    standard_error_ms: float
    layers: LayerProfile | None


def write_dataset(
    path: Path,
    records: Iterable[Record],
    campaigner: Campaigner,
    *,
    family_version: int,
    others: Iterable[Path] = (),
) -> int:
    """Write Parquet; how many rows. `others` are datasets, of other machines say, whose rows are taken over;
    where a campaign has measured the same again, its row stands. Raises `PredictorError` for a file of
    another form.
    """
    rows = [_row(record, campaigner, family_version) for record in records]
    known = {_place_in(row) for row in rows}
    for other in others:
        more = [row for row in _table(other, SCHEMA.names).to_pylist() if _place_in(row) not in known]
        known |= {_place_in(row) for row in more}
        rows += more
    rows.sort(key=_place_in)
    for row in rows:
        row["samples_ns"] = _in_steps(row["samples_ns"])  # type: ignore[arg-type]
    table = pa.Table.from_pylist(rows, schema=SCHEMA)
    pq.write_table(
        table, path, compression="zstd", compression_level=19, use_dictionary=_REPEATING,
        column_encoding={_SAMPLES: "BYTE_STREAM_SPLIT"},
    )  # fmt: skip
    return len(rows)


def _in_steps(samples_ns: Sequence[int] | None) -> list[int] | None:
    """As many as are kept, as whole multiples of the power of two that is a thousandth of their median or
    less: what is below is the clock's noise, and cannot be compressed.
    """
    if not samples_ns:
        return None
    if (count := len(samples_ns)) > _MOST_SAMPLES:
        samples_ns = [samples_ns[(2 * i + 1) * count // (2 * _MOST_SAMPLES)] for i in range(_MOST_SAMPLES)]
    step = 2 ** max(math.floor(math.log2(max(median(samples_ns), 1.0) / _SAMPLE_RESOLUTION)), 0)
    return [step * round(sample / step) for sample in samples_ns]


def _place_in(row: Mapping[str, object]) -> tuple[str, str, str]:
    return str(row["name"]), str(row["target_key"]), str(row["passed"])


def _table(path: Path, columns: Sequence[str]) -> pa.Table:
    """These columns of a dataset. Raises `PredictorError` for a file without them."""
    try:
        table = pq.read_table(path, columns=list(columns))
    except (pa.ArrowInvalid, KeyError, OSError) as error:
        raise PredictorError(f"{path} is not a dataset: {error}") from error
    missing = [name for name in columns if name not in table.column_names]
    if missing:
        raise PredictorError(f"{path} lacks the columns {', '.join(missing)}; docs/dataset.md describes them")
    return table


def read_dataset(path: Path) -> list[Row]:
    """The valid measurements. Raises `PredictorError` for a file without the columns that training needs."""
    table = _table(path, _NEEDED)
    runtimes: dict[str, Runtime] = {}
    machines: dict[str, Hardware] = {}
    rows = []
    for entry in table.to_pylist():
        if not entry["is_valid"]:
            continue
        runtime, hardware = entry["runtime"], entry["hardware"]
        entry["runtime"] = runtimes.setdefault(runtime, Runtime.model_validate_json(runtime))
        entry["hardware"] = machines.setdefault(hardware, Hardware.model_validate_json(hardware))
        entry["layers"] = _layers(entry)
        for column in set(_NEEDED) - set(Row.__slots__):
            del entry[column]
        rows.append(Row(**entry))
    return rows


def _layers(entry: Mapping[str, Any]) -> LayerProfile | None:
    if not entry["layer_names"]:
        return None
    if entry["runtime"].engine == "openvino" and entry["agent_version"] in _COUNT_THE_FIRST_RUN:
        return None
    speed = entry["speed"] or 1.0
    layers = tuple(
        LayerTime(name=name, kind="", provider="cpu", median_ns=round(speed * time_ns))
        for name, time_ns in zip(entry["layer_names"], entry["layer_ns"], strict=True)
    )
    return LayerProfile(layers=layers, coverage=entry["layer_coverage"])


def _row(record: Record, campaigner: Campaigner, family_version: int) -> dict[str, object]:
    row: dict[str, object] = dict.fromkeys(SCHEMA.names)
    row |= {
        "family": record.family,
        "name": record.place.name,
        "precision": record.precision,
        "is_sweep": record.is_sweep,
        "graph_digest": record.graph_digest,
        "target_key": record.place.target_key,
        "device_key": campaigner.device.key,
        "hardware": campaigner.device.hardware.model_dump_json(),
        "runtime": record.runtime.model_dump_json(),
        "passed": record.place.passed,
        "is_valid": False,
        "refusal": record.refusal,
        "family_version": family_version,
    }
    return row if record.measurement is None else row | _measured(record.measurement)


def _measured(measurement: Measurement) -> dict[str, object]:
    estimate, profile = measurement.estimate, measurement.layer_profile
    layers = profile.layers if profile is not None else ()
    return {
        "layer_names": [layer.name for layer in layers],
        "layer_ns": [layer.median_ns for layer in layers],
        "layer_coverage": profile.coverage if profile is not None else None,
        "model_sha256": measurement.model.sha256,
        "input_shapes": json.dumps(
            {name: list(sizes) for name, sizes in measurement.model.input_shapes.items()}
        ),
        "median_ms": estimate.median_ms,
        "standard_error_ms": estimate.standard_error_ms,
        "observed_median_ms": estimate.observed_median_ms,
        "speed": estimate.speed,
        "cpu_median_ms": estimate.cpu_median_ms,
        "mad_ms": estimate.mad_ms,
        "samples_ns": list(measurement.samples_ns),
        "is_valid": measurement.verdict.is_valid,
        "reasons": list(measurement.verdict.reasons),
        "at_unix_s": measurement.before.at_unix_s,
        "load_1m": measurement.before.load_1m,
        "agent_version": measurement.agent_version,
        "protocol_version": measurement.protocol_version,
    }
