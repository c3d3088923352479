"""Online recalibration: what a target's newest measurements say of the predictor that answers for it.

Of the last n <= 50 models that were measured after the predictor was adapted, and that it had not learned
from, let r = ln(measured / predicted) be the residual and h the distance in logarithms from the predicted
median to that bound of the 90 % interval which lies on the residual's side. Then

    b = n / (n + 4) * median(r)                      shrunk log-bias
    s = |r - b| / h                                  nonconformity scores
    q = the 0.9 quantile of the n scores together    shrunk conformal factor
        with 5 scores that a calibrated predictor would have

and a prediction's median is multiplied by e^b, the logarithmic distances of its bounds by q, at any coverage.
The scores are those of locally weighted split conformal prediction (Lei et al., Distribution-free predictive
inference for regression, JASA 113, 2018, 10.1080/01621459.2017.1307116, section 5.2). The five are quantiles
of |Z| / z with Z standard normal and z its 0.95 quantile, scaled so that alone they give exactly 1: without
measurements nothing changes, after a few it changes a little, and after fifty the target's own scores decide.
q is kept within 0.5 and 1 + n, and below 10: one odd model must not spoil every answer.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist, median

LATEST = 50  # residuals that count
REFERENCE_COVERAGE = 0.9  # of the intervals that scores are taken from
_BIAS_WEIGHT = 4  # residuals of zero that the measured ones argue with
_CALIBRATED_SCORES = 5
_NARROWEST, _WIDEST = 0.5, 10.0
_SMALLEST_REACH = 1e-6  # of an interval, in logarithms: below, a score means nothing


@dataclass(frozen=True, slots=True)
class Residual:
    """A measured median beside what was predicted for it, with the interval at `REFERENCE_COVERAGE`; all
    milliseconds above zero.
    """

    measured_ms: float
    median_ms: float
    lower_ms: float
    upper_ms: float


@dataclass(frozen=True, slots=True)
class Recalibration:
    """What to do to a prediction: multiply its median by e^`log_bias`, the logarithmic distances of its
    bounds by `widening`. `count`: how many measurements say so.
    """

    log_bias: float = 0.0
    widening: float = 1.0
    count: int = 0

    def applied(self, median_ms: float, lower_ms: float, upper_ms: float) -> tuple[float, float, float]:
        """Median, lower and upper bound as recalibrated; unchanged if there was nothing to learn from."""
        if self.count == 0:
            return median_ms, lower_ms, upper_ms
        moved_ms = median_ms * math.exp(self.log_bias)
        below = (lower_ms / median_ms) ** self.widening
        above = (upper_ms / median_ms) ** self.widening
        return moved_ms, moved_ms * below, moved_ms * above


IDENTITY = Recalibration()


def recalibrated(residuals: Sequence[Residual]) -> Recalibration:
    """What the newest residuals ask for; newest first, those past `LATEST` do not count."""
    latest = residuals[:LATEST]
    if not latest:
        return IDENTITY
    logs = [math.log(one.measured_ms / one.median_ms) for one in latest]
    log_bias = len(logs) / (len(logs) + _BIAS_WEIGHT) * median(logs)
    scores = [
        abs(log - log_bias) / _reach(one, is_above=log > log_bias)
        for one, log in zip(latest, logs, strict=True)
    ]
    factor = _quantile([*scores, *_calibrated_scores()], REFERENCE_COVERAGE)
    widest = min(1.0 + len(logs), _WIDEST)
    return Recalibration(log_bias, min(max(factor, _NARROWEST), widest), len(logs))


def _reach(residual: Residual, *, is_above: bool) -> float:
    """How far the interval reaches on one side of the median, in logarithms."""
    bound = residual.upper_ms / residual.median_ms if is_above else residual.median_ms / residual.lower_ms
    return max(math.log(bound), _SMALLEST_REACH)


def _calibrated_scores() -> list[float]:
    normal = NormalDist()
    levels = [(i + 0.5) / _CALIBRATED_SCORES for i in range(_CALIBRATED_SCORES)]
    raw = [normal.inv_cdf(0.5 + level / 2) for level in levels]
    unit = _quantile(raw, REFERENCE_COVERAGE)
    return [score / unit for score in raw]


def _quantile(values: Sequence[float], level: float) -> float:
    """Between order statistics, of which the i-th of n stands for the level i / (n + 1): the share of fresh
    values that stay below it, on average (Hyndman and Fan's sixth definition).
    """
    ordered = sorted(values)
    position = min(max(level * (len(ordered) + 1) - 1.0, 0.0), len(ordered) - 1.0)
    below = math.floor(position)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (position - below) * (ordered[above] - ordered[below])
