"""The few-shot predictor's one configuration, for every space, task and device.

Chosen by `laptime-predictor study` on devices that no published task tests on, never on a test
device. Variances are of a latency relative to its mean over architectures.
"""

from __future__ import annotations

from dataclasses import dataclass

from predictor.few_shot.tally import Law


@dataclass(frozen=True, slots=True)
class FewShotConfig:
    """Prior variances of what a device's latency may follow, and grids of what is left to the evidence.

    `sources`: of the mixture of source devices, all weights together. `tally`: times a law's weight, of the
    coefficients of the counted work; of that, `common` is shared by all kinds of kernels, `by_kind` is each
    kind's own and `by_size` each kind's at each size. `smooth`: of what is not linear in either (relative to
    how much the source devices vary), over distances of `smooth_length`, in which the source devices count
    `source_distance`. `amplitudes` scale all of these together; `noise` are relative standard deviations.
    """

    law_weights: tuple[float, ...] = (1.0, 0.3, 0.1, 0.1)  # in the order of `Law`
    sources: float = 1.0
    tally: float = 0.3
    common: float = 1.0
    by_kind: float = 0.3
    by_size: float = 0.1
    smooth: float = 0.03
    smooth_length: float = 2.5
    source_distance: float = 0.5
    amplitudes: tuple[float, ...] = (0.25, 0.5, 1.0, 2.0)
    noise: tuple[float, ...] = (0.01, 0.02, 0.05, 0.1, 0.2)
    selection_noise: float = 0.1
    selection_candidates: int = 800

    def __post_init__(self) -> None:
        if len(self.law_weights) != len(Law):
            raise ValueError(f"law_weights needs {len(Law)} values, got {len(self.law_weights)}")
