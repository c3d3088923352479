"""What the sources really took for the models of the reference set, against what the cost network says.

A new target measures the reference set, and so has every source. The network does not know these ten models
(they are never trained on), and misses each of them by a tenth or so. Taken as it is, such a miss would look
like a habit of the new target. Put right by what the sources really took, only the target's own habits are
left.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class KnownReferences:
    """`log_ratios` by graph digest: (S,), measured over said, each source on its own machine; NaN where a
    source did not run the model.
    """

    log_ratios: Mapping[str, NDArray[np.float32]]

    @classmethod
    def of(cls, digests: Sequence[str], measured_ms: Floats, said_ms: Floats) -> KnownReferences:
        """From R models on S sources, both (R, S), `measured_ms` NaN where a source did not run one. A model
        that no source has run is not known.
        """
        logs = np.log(measured_ms / said_ms).astype(np.float32)
        return cls({digest: own for digest, own in zip(digests, logs, strict=True) if np.isfinite(own).any()})

    def of_sources(self, columns: Sequence[int] | NDArray[np.intp]) -> KnownReferences:
        """As if there were only these sources."""
        kept = {digest: own[columns] for digest, own in self.log_ratios.items()}
        return KnownReferences({digest: own for digest, own in kept.items() if np.isfinite(own).any()})

    def corrected(self, digest: str, total_ms: Floats, class_ms: Floats) -> tuple[Floats, Floats]:
        """What the sources would take for a graph, (S + N,) and by class (S + N, C) with the nominal machines
        last, as what they took says; unchanged for a graph that is not known. For a source that did not run
        it, the mean of the sources that did says as much.
        """
        own = self.log_ratios.get(digest)
        if own is None:
            return total_ms, class_ms
        logs = own.astype(np.float64)
        logs = np.where(np.isfinite(logs), logs, np.nanmean(logs))
        factors = np.exp(np.append(logs, np.zeros(len(total_ms) - len(logs))))
        return total_ms * factors, class_ms * factors[:, None]

    def all_corrected(
        self, digests: Sequence[str], total_ms: Floats, class_ms: Floats
    ) -> tuple[Floats, Floats]:
        """The same of N graphs, (N, S + M) and (N, S + M, C), M of them nominal; at least one."""
        pairs = [self.corrected(*one) for one in zip(digests, total_ms, class_ms, strict=True)]
        return np.stack([total for total, _ in pairs]), np.stack([by_class for _, by_class in pairs])
