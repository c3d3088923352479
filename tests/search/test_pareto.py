"""Pareto arithmetic: tables worked by hand, laws for all points, and Optuna's hypervolume as a second
opinion.
"""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from search import pareto

INF = float("inf")
NAN = float("nan")

# few distinct values, so that ties and duplicates are common
VALUES = st.one_of(st.integers(0, 5).map(float), st.floats(-2, 2), st.sampled_from([INF, -INF]))
POINTS = hnp.arrays(np.float64, st.tuples(st.integers(0, 12), st.integers(1, 4)), elements=VALUES)
WITH_NANS = hnp.arrays(
    np.float64, st.tuples(st.integers(0, 12), st.integers(1, 3)), elements=st.one_of(VALUES, st.just(NAN))
)
BOXED = hnp.arrays(
    np.float64,
    st.tuples(st.integers(0, 9), st.sampled_from([2, 3])),
    elements=st.integers(0, 8).map(lambda level: level / 8),
)


def test_nine_points_by_hand() -> None:
    points = [[1, 9], [2, 5], [3, 6], [4, 4], [4, 4], [5, 3], [6, 3], [9, 1], [9, 9]]
    assert pareto.front(points).tolist() == [0, 1, 3, 4, 5, 7]  # equal points are both on the front


@pytest.mark.parametrize(
    ("points", "reference", "expected"),
    [
        ([[1, 3], [2, 2], [3, 1]], (4, 4), 3 * 1 + 2 * 1 + 1 * 1),
        ([[1, 3], [2, 2], [3, 1], [3, 3], [2, 2]], (4, 4), 6),  # dominated and equal points add nothing
        ([[1, 5], [5, 1]], (4, 4), 0),  # nor do those beyond the reference
        ([[4, 1]], (4, 4), 0),  # nor those level with it
        ([[1, NAN], [3, 3]], (4, 4), 1),
        ([[0, 0, 0]], (2, 3, 4), 24),
        (
            [[0, 1, 1], [1, 0, 1], [1, 1, 0]],
            (2, 2, 2),
            1 + 3 * 1,
        ),  # a cube, and one more on each of three sides
        ([[2.0], [5.0]], (7,), 5),
        (np.zeros((0, 2)), (1, 1), 0),
    ],
)
def test_hypervolumes_by_hand(
    points: list[list[float]], reference: tuple[float, ...], expected: float
) -> None:
    assert pareto.hypervolume(points, reference) == pytest.approx(expected)


@given(POINTS)
def test_front_and_rest_fall_apart_as_defined(points: np.ndarray) -> None:
    front = set(pareto.front(points).tolist())
    dominates = pareto.domination(points)
    assert bool(front) == bool(len(points))
    for j in range(len(points)):
        dominators = set(np.flatnonzero(dominates[:, j]).tolist())
        assert not dominators if j in front else dominators & front


@given(WITH_NANS, st.randoms(use_true_random=False))
def test_order_of_points_does_not_matter(points: np.ndarray, random) -> None:
    order = list(range(len(points)))
    random.shuffle(order)
    shuffled = points[order]
    assert {order[i] for i in pareto.front(shuffled)} == set(pareto.front(points).tolist())
    bound = np.full(points.shape[1], 6.0)
    finite = points[np.isfinite(points).all(axis=1)]
    again = shuffled[np.isfinite(shuffled).all(axis=1)]
    assert pareto.hypervolume(again, bound) == pytest.approx(pareto.hypervolume(finite, bound))


@given(WITH_NANS)
def test_points_with_a_nan_come_last_and_change_nothing(points: np.ndarray) -> None:
    has_nan = np.isnan(points).any(axis=1)
    kept = np.flatnonzero(~has_nan)
    assert pareto.front(points).tolist() == kept[pareto.front(points[kept])].tolist()
    dominates = pareto.domination(points)
    assert dominates[np.ix_(kept, has_nan)].all()
    assert not dominates[has_nan].any()


@given(BOXED)
def test_hypervolume_counts_cells(points: np.ndarray) -> None:
    """Points on a grid of eighths: the volume is the number of grid cells that some point dominates."""
    m = points.shape[1]
    cells = np.stack(np.meshgrid(*[np.arange(8) / 8] * m, indexing="ij"), axis=-1).reshape(-1, m)
    covered = (points[None, :, :] <= cells[:, None, :]).all(axis=2).any(axis=1).sum() if len(points) else 0
    assert pareto.hypervolume(points, np.ones(m)) == pytest.approx(covered / 8**m)
