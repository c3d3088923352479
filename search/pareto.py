"""Pareto arithmetic on minimised points `(N, M)`: domination, fronts, exact hypervolume.

A point dominates another if it is nowhere worse and somewhere better (Deb et al. 2002, DOI
10.1109/4235.996017). Equal points do not dominate each other. NaN rule, everywhere: a point with a NaN is
never on a front, is dominated by all others, dominates nothing and adds no hypervolume.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

Points = NDArray[np.float64]


def domination(points: ArrayLike) -> NDArray[np.bool_]:
    """`(N, N)`: whether row i dominates row j. A NaN point is dominated by every point without one."""
    p = _as_points(points)
    nowhere_worse = np.ones((len(p), len(p)), dtype=np.bool_)
    somewhere_better = np.zeros_like(nowhere_worse)
    for column in p.T:
        nowhere_worse &= column[:, None] <= column[None, :]
        somewhere_better |= column[:, None] < column[None, :]
    is_nan = _has_nan(p)
    return (nowhere_worse & somewhere_better) | (~is_nan[:, None] & is_nan[None, :])


def front(points: ArrayLike) -> NDArray[np.intp]:
    """Ascending indices of the points that no point dominates; points with a NaN are never among them."""
    p = _as_points(points)
    is_dominated = domination(p).any(axis=0)
    return np.flatnonzero(~is_dominated & ~_has_nan(p))


def hypervolume(points: ArrayLike, reference: ArrayLike) -> float:
    """Volume dominated by the points and bounded by the `(M,)` reference point; exact, for any M.

    Points that are not better than the reference in every objective add nothing. Slices along the last
    objective, so the cost grows as N^(M-1): meant for two or three objectives and a few hundred points.
    """
    bound = np.asarray(reference, dtype=np.float64)
    p = _as_points(points)
    if p.shape[1] != bound.size:
        raise ValueError(f"points have {p.shape[1]} objectives, the reference point {bound.size}")
    inside = p[(p < bound).all(axis=1)]  # false for NaN
    return _volume(inside[front(inside)], bound)


def _volume(points: Points, bound: Points) -> float:
    if len(points) == 0:
        return 0.0
    if bound.size == 1:
        return float(bound[0] - points[:, 0].min())
    if bound.size == 2:
        return _area(points, bound)
    points = points[np.argsort(points[:, -1], kind="stable")]
    heights = np.diff(np.append(points[:, -1], bound[-1]))
    return float(
        sum(
            height * _volume(below[front(below)], bound[:-1])
            for i, height in enumerate(heights)
            if height > 0 and len(below := points[: i + 1, :-1])
        )
    )


def _area(points: Points, bound: Points) -> float:
    """Sweep from left to right: each point of the front adds one rectangle below the last."""
    area, ceiling = 0.0, float(bound[1])
    for x, y in points[np.lexsort((points[:, 1], points[:, 0]))]:
        if y < ceiling:
            area += (float(bound[0]) - float(x)) * (ceiling - float(y))
            ceiling = float(y)
    return area


def _has_nan(points: Points) -> NDArray[np.bool_]:
    return np.asarray(np.isnan(points).any(axis=1), dtype=np.bool_)


def _as_points(points: ArrayLike) -> Points:
    p = np.asarray(points, dtype=np.float64)
    if p.ndim != 2:
        raise ValueError(f"points must be (N, M), got shape {p.shape}")
    return p
