"""Campaigns' Parquet files, made up."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from predictor.campaign.dataset import SCHEMA
from predictor.checkpoint import TargetFacts
from predictor.graph import ModelGraph


def row_of(
    name: str,
    graph: ModelGraph,
    target: TargetFacts,
    median_ms: float,
    *,
    family: str,
    precision: str = "fp32",
    is_sweep: bool = False,
    passed: int = 0,
) -> dict[str, object]:
    """A valid measurement."""
    return {
        "family": family,
        "name": name,
        "precision": precision,
        "is_sweep": is_sweep,
        "graph_digest": graph.digest,
        "target_key": target.key,
        "runtime": target.runtime.model_dump_json(),
        "hardware": target.hardware.model_dump_json(),
        "passed": passed,
        "median_ms": median_ms,
        "standard_error_ms": 0.01,
        "is_valid": True,
    }


def write_rows(path: Path, rows: Sequence[dict[str, object]]) -> Path:
    """A dataset of these rows; columns that they lack are empty."""
    pq.write_table(pa.Table.from_pylist(list(rows), schema=SCHEMA), path)
    return path
