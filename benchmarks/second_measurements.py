"""What measuring a whole network once more says of what was measured: a bound on what a prediction can be
expected to say, by the figures that predictions are judged by.

    python -m benchmarks.second_measurements --dataset predictor/data/measurements.parquet

Of each network that a processor has measured at least twice, on whatever days, the first measurement is taken
for the prediction of the last. Single operators, medleys and the reference set do not count.
"""

from __future__ import annotations

import argparse
import sys
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np

from predictor.benchmarks.graph_metrics import Said, graph_scores, ratios_within
from predictor.campaign.dataset import Row, read_dataset
from predictor.meta_training import REFERENCE_FAMILY

Measured = Mapping[tuple[str, str], Sequence[float]]  # of a network on a target, in milliseconds


def main(arguments: Sequence[str] | None = None) -> int:
    """Run from the command line."""
    parser = argparse.ArgumentParser(prog="benchmarks.second_measurements")
    parser.add_argument("--dataset", type=Path, required=True, metavar="FILE", help="Parquet")
    measured = measured_twice(read_dataset(parser.parse_args(arguments).dataset))
    devices = sorted({target.split("/")[0] for _, target in measured})
    for device in devices:
        print(_line(device, {place: own for place, own in measured.items() if _device(place) == device}))
    for device in devices:
        others = {place: own for place, own in measured.items() if _device(place) != device}
        if others:
            print(_line(f"all but {device}", others))
    print(_line("all", measured))
    return 0


def measured_twice(rows: Iterable[Row]) -> Measured:
    """Networks with more than one measurement on a processor, in the order of the passes."""
    found: dict[tuple[str, str], list[tuple[int, float]]] = defaultdict(list)
    for row in rows:
        if _is_network(row) and row.runtime.provider == "cpu":
            found[row.name, row.target_key].append((row.passed, row.median_ms))
    return {
        place: [median_ms for _, median_ms in sorted(own, key=lambda one: one[0])]
        for place, own in found.items()
        if len(own) > 1
    }


def _is_network(row: Row) -> bool:
    return not row.is_sweep and row.family != REFERENCE_FAMILY


def said_again(measured: Measured) -> Said:
    """The first measurements as predictions of the last."""
    names, targets = ({place[axis]: None for place in measured} for axis in (0, 1))
    rows, columns = ({name: index for index, name in enumerate(own)} for own in (names, targets))
    first, last = (np.full((len(rows), len(columns)), np.nan) for _ in range(2))
    for (name, target), own in measured.items():
        at = rows[name], columns[target]
        first[at], last[at] = own[0], own[-1]
    nothing = np.full_like(first, np.nan)
    return Said(first, nothing, nothing, np.zeros(first.shape, dtype=np.bool_), last)


def _device(place: tuple[str, str]) -> str:
    return place[1].split("/")[0]


def _line(what: str, measured: Measured) -> str:
    said = said_again(measured)
    scores = graph_scores(said)
    pairs, within = ratios_within(said)
    if scores is None:
        return f"{what}: nothing was measured twice"
    return (
        f"{what}: {scores.pairs} pairs of {said.median_ms.shape[1]} targets, median {scores.median_ape:.1%}, "
        f"mean {scores.mape:.1%}, within 10 % {scores.within10:.1%}, within 25 % {scores.within25:.1%}; "
        f"{pairs} ratios of two targets, within 15 % {within:.1%}"
    )


if __name__ == "__main__":
    sys.exit(main())
