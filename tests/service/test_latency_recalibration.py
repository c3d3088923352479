"""Online recalibration on synthetic streams of measurements."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.latency.recalibration import IDENTITY, LATEST, Recalibration, Residual, recalibrated

REACH = 1.6448536269514722  # of a 90 % interval, in standard deviations


def stream(seed: int, count: int, *, sd: float, bias: float, said_sd: float) -> list[Residual]:
    """Measurements that scatter by `sd` (of the logarithm) about `bias`, predicted at other scatter and no
    bias, each of another size.
    """
    random = np.random.default_rng(seed)
    sizes_ms = np.exp(random.uniform(-1.0, 4.0, count))
    logs = random.normal(bias, sd, count)
    factor = math.exp(REACH * said_sd)
    return [
        Residual(float(size * math.exp(log)), float(size), float(size / factor), float(size * factor))
        for size, log in zip(sizes_ms, logs, strict=True)
    ]


def coverage(recalibration: Recalibration, fresh: list[Residual]) -> float:
    """Share of fresh measurements that the recalibrated intervals hold."""
    held = 0
    for one in fresh:
        _, lower, upper = recalibration.applied(one.median_ms, one.lower_ms, one.upper_ms)
        held += lower <= one.measured_ms <= upper
    return held / len(fresh)


def test_nothing_measured_changes_nothing() -> None:
    assert recalibrated([]) is IDENTITY
    assert IDENTITY.applied(2.0, 1.0, 3.0) == (2.0, 1.0, 3.0)


@pytest.mark.parametrize(("sd", "bias"), [(0.3, 0.0), (0.1, 0.3), (0.05, 0.0), (0.2, -0.5), (0.1, 0.0)])
def test_coverage_goes_to_nominal(sd: float, bias: float) -> None:
    """Intervals that are too narrow, too wide or off to one side, at a said scatter of 0.1."""
    fresh = stream(999, 4000, sd=sd, bias=bias, said_sd=0.1)

    def mean_coverage(count: int) -> float:
        learned = [recalibrated(stream(seed, count, sd=sd, bias=bias, said_sd=0.1)) for seed in range(30)]
        return float(np.mean([coverage(one, fresh) for one in learned]))

    before, few, many = coverage(IDENTITY, fresh), mean_coverage(6), mean_coverage(LATEST)
    assert abs(many - 0.9) < 0.035
    assert abs(many - 0.9) <= abs(before - 0.9) + 0.02
    if abs(before - 0.9) > 0.1:
        assert abs(few - 0.9) < abs(before - 0.9)  # and a few measurements help already


def test_the_median_follows_a_bias_and_no_single_measurement() -> None:
    shifted = stream(1, LATEST, sd=0.05, bias=0.4, said_sd=0.1)
    assert recalibrated(shifted).log_bias == pytest.approx(0.4 * LATEST / (LATEST + 4), abs=0.03)
    assert recalibrated(shifted[:1]).log_bias < 0.12
    one_off = [Residual(1e3, 1.0, 0.9, 1.1), *stream(2, 20, sd=0.05, bias=0.0, said_sd=0.1)]
    assert abs(recalibrated(one_off).log_bias) < 0.05


def test_only_the_latest_count() -> None:
    new, old = stream(1, LATEST, sd=0.1, bias=0.0, said_sd=0.1), [Residual(9.0, 1.0, 0.9, 1.1)] * 9
    assert recalibrated([*new, *old]) == recalibrated(new)


sizes = st.floats(min_value=1e-3, max_value=1e4)
residuals = st.builds(
    lambda median, factor, below, above: Residual(median * factor, median, median / below, median * above),
    sizes,
    st.floats(min_value=0.05, max_value=20.0),
    st.floats(min_value=1.0, max_value=5.0),
    st.floats(min_value=1.0, max_value=5.0),
)


@given(st.lists(residuals, min_size=1, max_size=60), st.randoms(use_true_random=False))
def test_it_stays_within_bounds_and_depends_on_no_order(found: list[Residual], random: object) -> None:
    recalibration = recalibrated(found)
    latest = found[:LATEST]
    logs = [math.log(one.measured_ms / one.median_ms) for one in latest]
    assert min(0.0, *logs) <= recalibration.log_bias <= max(0.0, *logs)
    assert 0.5 <= recalibration.widening <= 10.0
    for one in found:
        median, lower, upper = recalibration.applied(one.median_ms, one.lower_ms, one.upper_ms)
        assert 0 <= lower <= median <= upper < math.inf
    shuffled = list(latest)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    again = recalibrated(shuffled)
    assert again.log_bias == pytest.approx(recalibration.log_bias)
    assert again.widening == pytest.approx(recalibration.widening)
