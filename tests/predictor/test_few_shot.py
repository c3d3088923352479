"""The few-shot predictor on made-up devices: sums over kernels with costs of their own, and some noise."""

from __future__ import annotations

import numpy as np
import pytest

from predictor.few_shot import head
from predictor.few_shot.config import FewShotConfig
from predictor.few_shot.model import FewShot
from predictor.few_shot.scaling import Counted
from predictor.few_shot.selection import select
from predictor.few_shot.tally import TALLY_SHAPE, Law, Work
from predictor.networks import nb201

ROWS, SOURCES = 300, 5
KINDS = (Work.CONV, Work.POINTWISE, Work.DEPTHWISE, Work.ELEMENTWISE)
NO_CHOICES = np.zeros((ROWS, 0))


def architectures(rng: np.random.Generator) -> Counted:
    """Random numbers of kernels of four kinds, two sizes each."""
    tallies = np.zeros((ROWS, 2, *TALLY_SHAPE))
    for kind in KINDS:
        for size in (3, 5):
            launches = rng.integers(1, 12, ROWS).astype(float)
            tallies[:, :, kind, Law.LAUNCHES, size] = launches[:, None]
            tallies[:, :, kind, Law.MACS, size] = (launches * 4.0**size * 1e3)[:, None]
    return Counted(tallies, NO_CHOICES)


def device(counted: Counted, rng: np.random.Generator, *, noise: float = 0.01) -> np.ndarray:
    """Milliseconds (ROWS,): what a launch costs, and what each kind's arithmetic costs."""
    launches = counted.tallies[:, 0, :, Law.LAUNCHES].sum(axis=(1, 2))
    macs = counted.tallies[:, 0, :, Law.MACS].sum(axis=2)  # (ROWS, W)
    latency = rng.gamma(2.0, 0.02) * launches + macs @ rng.gamma(2.0, 1e-7, len(Work))
    return latency * np.exp(noise * rng.standard_normal(ROWS))


@pytest.fixture(scope="module")
def world() -> tuple[Counted, np.ndarray, np.ndarray]:
    """Architectures, source devices (ROWS, SOURCES), and targets (ROWS, 6)."""
    rng = np.random.default_rng(4)
    counted = architectures(rng)
    devices = np.stack([device(counted, rng) for _ in range(SOURCES + 6)], axis=1)
    return counted, devices[:, :SOURCES], devices[:, SOURCES:]


@pytest.fixture(scope="module")
def fitted(world: tuple[Counted, np.ndarray, np.ndarray]) -> FewShot:
    counted, sources, _ = world
    return FewShot.fit(counted.take(slice(0, 150)), sources[:150])


def test_ten_measurements_make_an_unknown_device_predictable(
    world: tuple[Counted, np.ndarray, np.ndarray], fitted: FewShot
) -> None:
    counted, _, targets = world
    described = fitted.describe(counted)
    rows, held = np.arange(150, 160), np.arange(160, ROWS)
    errors, covered = [], []
    for latency in targets.T:
        predicted = fitted.adapt(described.take(rows), latency[rows]).predict(described.take(held))
        errors.append(np.abs(predicted.median_ms - latency[held]) / latency[held])
        covered.append((predicted.lower_ms <= latency[held]) & (latency[held] <= predicted.upper_ms))
        assert (predicted.lower_ms > 0).all()
        assert (predicted.lower_ms <= predicted.median_ms).all()
    spread = np.mean([np.std(latency) / np.mean(latency) for latency in targets.T])
    assert np.mean(errors) < 0.25 * spread  # of what always answering the mean would err by, about
    assert 0.8 < np.mean(covered) <= 1.0


def test_the_same_bits_from_the_same_data(
    world: tuple[Counted, np.ndarray, np.ndarray], fitted: FewShot
) -> None:
    counted, sources, targets = world
    again = FewShot.fit(counted.take(slice(0, 150)), sources[:150])
    rows = np.arange(10)
    first, second = (
        one.adapt(one.describe(counted).take(rows), targets[rows, 0]).median_ms(one.describe(counted))
        for one in (fitted, again)
    )
    assert np.array_equal(first, second)


def test_milliseconds_scale_with_the_device(
    world: tuple[Counted, np.ndarray, np.ndarray], fitted: FewShot
) -> None:
    counted, _, targets = world
    described = fitted.describe(counted)
    rows = np.arange(12)
    one, thousand = (
        fitted.adapt(described.take(rows), factor * targets[rows, 1]).predict(described)
        for factor in (1.0, 1000.0)
    )
    assert np.allclose(1000.0 * one.median_ms, thousand.median_ms, rtol=1e-9)
    assert np.allclose(1000.0 * one.upper_ms, thousand.upper_ms, rtol=1e-9)


def test_source_devices_may_have_measured_different_architectures(
    world: tuple[Counted, np.ndarray, np.ndarray],
) -> None:
    counted, sources, targets = world
    latency = np.full((150, SOURCES), np.nan)
    for column in range(SOURCES):
        latency[column * 10 : column * 10 + 80, column] = sources[column * 10 : column * 10 + 80, column]
    fitted = FewShot.fit(counted.take(slice(0, 150)), latency)
    described = fitted.describe(counted)
    rows, held = np.arange(150, 165), np.arange(165, ROWS)
    predicted = fitted.adapt(described.take(rows), targets[rows, 2]).median_ms(described.take(held))
    assert np.mean(np.abs(predicted / targets[held, 2] - 1.0)) < 0.1


def test_a_source_device_without_measurements_is_refused(
    world: tuple[Counted, np.ndarray, np.ndarray],
) -> None:
    counted, sources, _ = world
    silent = sources.copy()
    silent[:, 2] = np.nan
    with pytest.raises(ValueError, match="2 measurements"):
        FewShot.fit(counted, silent)
    with pytest.raises(ValueError, match="shape"):
        FewShot.fit(Counted(counted.tallies[:, :, :3], NO_CHOICES), sources)


def test_the_posterior_of_two_measurements_by_hand() -> None:
    # One component, unit guess: mu = 1' inv(A) t / 1' inv(A) 1 with A = K + s^2 I. K is diagonal here, so the
    # offset is the mean and each measurement pulls its own prediction by k / (k + s^2) of its residual.
    posterior = head.fit(
        0.04 * np.eye(2), np.asarray([8.0, 12.0]), np.ones(2), amplitudes=(1.0,), noise=(1e-9,)
    )
    assert posterior.scale_ms == pytest.approx(10.0)
    assert posterior.offset == pytest.approx(1.0)
    assert posterior.median_ms(0.04 * np.eye(2)) == pytest.approx([8.0, 12.0])
    assert posterior.median_ms(np.zeros((1, 2))) == pytest.approx([10.0])
    # Far from both: the prior variance, and that of the offset, 1 / (1' inv(A) 1) = 0.02.
    far = posterior.deviation_ms(np.zeros((1, 2)), np.asarray([0.04]))
    assert far == pytest.approx([10.0 * np.sqrt(0.04 + 0.02)], rel=1e-6)


def test_selection_takes_the_architecture_that_tells_most_and_never_one_twice() -> None:
    rng = np.random.default_rng(0)
    factors = rng.standard_normal((30, 3))
    factors[7] *= 10.0  # it reveals the common factors best
    covariance = factors @ factors.T
    chosen = select(covariance, covariance, count=6, noise=0.1)
    assert chosen[0] == 7
    assert len(set(chosen)) == 6


def test_selected_measurements_leave_less_uncertainty_than_drawn_ones(
    world: tuple[Counted, np.ndarray, np.ndarray], fitted: FewShot
) -> None:
    counted, _, targets = world
    described = fitted.describe(counted)
    everything = np.arange(ROWS)
    chosen = fitted.select(described, described, count=8, rng=np.random.default_rng(1))
    widths = []
    for rows in (chosen, everything[:8]):
        predicted = fitted.adapt(described.take(rows), targets[rows, 3]).predict(described)
        widths.append(np.mean(np.log(predicted.upper_ms / predicted.lower_ms)))
    assert widths[0] < widths[1]


def test_law_weights_have_one_value_for_each_law() -> None:
    with pytest.raises(ValueError, match="law_weights"):
        FewShotConfig(law_weights=(1.0, 2.0))


def test_written_cells_count_what_nobody_needs() -> None:
    # Edge (1<-0) is a convolution whose node nobody reads; (3<-0) alone reaches the output.
    unused = (3, 0, 0, 2, 0, 0)
    written, needed = (nb201.network(unused, form=form) for form in (nb201.Form.WRITTEN, nb201.Form.NEEDED))
    assert nb201.needed(unused) == (3,)
    assert nb201.needed((3, 0, 3, 0, 0, 2)) == (0, 2, 5)
    assert written.count(b"Conv") > needed.count(b"Conv")
