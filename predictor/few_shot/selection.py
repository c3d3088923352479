"""Which architectures to measure: those that leave the least uncertainty about the others.

Greedy: each next architecture is the one whose measurement lowers the mean relative variance over the
architectures of interest the most (Seo et al. 2000, "Gaussian process regression: active data selection",
doi:10.1109/IJCNN.2000.861310). No latency is needed, so all can be measured at once.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

_OFFSET_VARIANCE = 1.0  # of the mean latency, which nothing is known of before


def select(candidates: Floats, interest: Floats, *, count: int, noise: float) -> list[int]:
    """Indices of `count` candidates, the most telling first.

    `candidates` (M, M) and `interest` (E, M): prior covariances of relative latencies among the candidates,
    and of what is of interest with them. `noise`: relative standard deviation of a measurement.
    """
    among, across = candidates + _OFFSET_VARIANCE, interest + _OFFSET_VARIANCE
    chosen: list[int] = []
    for _ in range(min(count, len(candidates))):
        variance = np.diag(among) + noise**2
        gain = (across**2).sum(axis=0) / variance
        gain[chosen] = -np.inf
        best = int(np.argmax(gain))
        chosen.append(best)
        row = among[best] / variance[best]
        across = across - np.outer(across[:, best], row)
        among = among - np.outer(among[:, best], row)
    return chosen
