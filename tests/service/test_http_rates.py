"""The benchmark of the server's rates: it runs, and it judges what it finds."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.http_rates import Rates, Report, Tail, make_world, measure


@pytest.mark.parametrize(
    ("query", "p99_ms", "meets"),
    [(Rates(60, 60), 20.0, True), (Rates(60, 40), 20.0, False), (Rates(60, 60), 30.0, False)],
)
def test_both_clocks_and_the_tail_must_hold(query: Rates, p99_ms: float, meets: bool) -> None:
    rates = {"health": Rates(100, 100), "nothing": Rates(300, 300), "query": query}
    assert Report(rates, 30.0, {"query": Tail(1.0, p99_ms)}).meets_goals is meets


def test_it_measures_a_real_server(tmp_path: Path) -> None:
    report = measure(make_world(tmp_path), seconds=0.3, repeats=1, warm_up_s=0.3)
    assert set(report.rates) == set(report.tails) == {"health", "nothing", "query"}
    assert report.open_loop_rate == pytest.approx(report.rates["query"].wall / 2)
    assert all(0 < tail.p50_ms <= tail.p99_ms for tail in report.tails.values())
