"""The spaces by name, without what trains in them: the API can list them and never loads PyTorch."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from devices.target import Hardware
from search.errors import RequestRejected
from search.objectives import ACCURACY, LATENCY_MS
from search.space import SearchSpace
from search.spaces import digits_cnn, published


def _on_all_hardware(space: SearchSpace) -> Callable[[Hardware], SearchSpace]:
    def space_for(_: Hardware) -> SearchSpace:
        return space

    return space_for


SPACES: dict[str, Callable[[Hardware], SearchSpace]] = {
    digits_cnn.NAME: digits_cnn.DigitsCnn.for_hardware,
    **{space.name: _on_all_hardware(space) for space in (published.NB201, published.FBNET, published.OFA)},
}
WITHOUT_ACCURACY = frozenset((published.FBNET.name, published.OFA.name))


def check_offered(space: str, objectives: Sequence[str]) -> None:
    """Raises `RequestRejected` where a space can never tell an objective. Unknown spaces pass."""
    if space in WITHOUT_ACCURACY and ACCURACY in objectives:
        others = [name for name in objectives if name != ACCURACY]
        raise RequestRejected(
            f"objectives of space {space!r} may not hold {ACCURACY!r}, got {list(objectives)}: no table of "
            f"its accuracies is published and nothing is trained; ask for {others or LATENCY_MS} alone"
        )
