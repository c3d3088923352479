"""What several commands of `laptime-predictor` take and print."""

from __future__ import annotations

import argparse
import sys

from predictor.evaluate import AccuracyCard


def shape_argument(text: str) -> tuple[str, tuple[int, ...]]:
    """Input and sizes from `NAME=1x3x224x224`; `NAME=` is a scalar. Raises what argparse shows."""
    name, equals, sizes = text.rpartition("=")
    try:
        if not equals or not name:
            raise ValueError
        return name, tuple(int(size) for size in sizes.split("x") if sizes)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} does not look like NAME=1x3x224x224") from None


def print_card(title: str, card: AccuracyCard) -> None:
    """An accuracy card on one line, and a line for each family of models."""
    if card.mape is None or card.median_ape is None:
        print(f"{title}: {card.sample_count} measurements are too few to tell an error")
        return
    print(
        f"{title}: {card.sample_count} models, mean error {card.mape:.1%}, median {card.median_ape:.1%}, "
        f"within 10 % {card.within_10_percent:.0%}, within 25 % {card.within_25_percent:.0%}, "
        f"90 % intervals hold {card.coverage_90:.0%}, upper/lower {card.mean_interval_width:.2f}"
    )
    for family, accuracy in card.by_family.items():
        print(f"    {family:12} {accuracy.sample_count:3} models, mean error {accuracy.mape:.1%}")


def say(line: str) -> None:
    """Progress, beside the results."""
    print(line, file=sys.stderr, flush=True)
