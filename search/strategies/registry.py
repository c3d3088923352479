"""The strategies by name."""

from __future__ import annotations

from collections.abc import Callable

from search.strategies.nsga2 import NsgaII
from search.strategies.random import RandomSearch
from search.strategy import Strategy, StrategySettings

STRATEGIES: dict[str, Callable[[StrategySettings], Strategy]] = {
    "random": RandomSearch,
    "nsga2": NsgaII,
}
