"""The end-to-end search: its policy by hand, and on devices that are made up."""

from __future__ import annotations

import numpy as np
import pytest

from predictor.benchmarks import nas
from predictor.benchmarks.flops import FlopsMethod
from predictor.benchmarks.method import Adapted, Indices, Meter, Method, Predicted, Source, Trained
from predictor.benchmarks.mixture import MixtureMethod
from predictor.benchmarks.nas import Arena, Choice, Rules, answer, chances, next_candidate, search_device
from predictor.benchmarks.nas_table import nas_lines, result_of
from predictor.benchmarks.tables import Candidates
from predictor.benchmarks.tasks import source_of
from tests.predictor.published_tables import made_up_task, nb201_table, with_counts

ACCURACY = np.asarray([60.0, 70.0, 72.0, 73.0])
UNKNOWN = np.full(4, np.nan)
MEDIAN = np.asarray([5.0, 9.0, 11.0, 20.0])
PLAIN = Predicted(MEDIAN)
WITH_INTERVALS = Predicted(MEDIAN, MEDIAN / 1.3, MEDIAN * 1.3)


def known(**latency_ms: float) -> np.ndarray:
    """Candidates' measured latencies: a=5.0 is the first one's."""
    measured = UNKNOWN.copy()
    for letter, value in latency_ms.items():
        measured["abcd".index(letter)] = value
    return measured


class TestPolicy:
    def test_chances_are_normal_in_log_latency(self) -> None:
        assert chances(WITH_INTERVALS, 9.0)[1] == pytest.approx(0.5)
        assert chances(WITH_INTERVALS, 9.0 * 1.3)[1] == pytest.approx(0.95)
        assert chances(WITH_INTERVALS, 9.0 / 1.3)[1] == pytest.approx(0.05)
        assert chances(PLAIN, 10.0).tolist() == [1.0, 1.0, 0.0, 0.0]

    def test_the_first_choice_is_safe_and_later_ones_may_be_bold(self) -> None:
        assert next_candidate(WITH_INTERVALS, ACCURACY, UNKNOWN, limit_ms=8.0) == 0
        assert next_candidate(WITH_INTERVALS, ACCURACY, UNKNOWN, limit_ms=15.0) == 2
        assert next_candidate(WITH_INTERVALS, ACCURACY, known(a=5.0), limit_ms=8.0) == 1

    def test_nothing_is_measured_that_promises_nothing(self) -> None:
        everything = known(a=5.0, b=9.0, c=11.0, d=20.0)
        assert next_candidate(WITH_INTERVALS, ACCURACY, everything, limit_ms=15.0) is None
        assert next_candidate(WITH_INTERVALS, ACCURACY, known(c=11.0), limit_ms=12.0) is None
        assert next_candidate(PLAIN, ACCURACY, known(b=9.0), limit_ms=10.0) is None

    def test_a_method_at_its_word_steps_down_and_at_last_tries_the_fastest(self) -> None:
        assert next_candidate(PLAIN, ACCURACY, UNKNOWN, limit_ms=12.0) == 2
        assert next_candidate(PLAIN, ACCURACY, known(c=12.5), limit_ms=12.0) == 1
        assert next_candidate(PLAIN, ACCURACY, UNKNOWN, limit_ms=4.0) == 0
        assert next_candidate(PLAIN, ACCURACY, known(a=5.0), limit_ms=4.0) == 1

    def test_a_verified_answer_was_measured(self) -> None:
        measured = known(a=5.0, d=20.0)
        assert answer(PLAIN, ACCURACY, measured, limit_ms=12.0, is_verified=True) == 0
        assert answer(PLAIN, ACCURACY, measured, limit_ms=12.0, is_verified=False) == 2
        assert answer(WITH_INTERVALS, ACCURACY, measured, limit_ms=12.0, is_verified=False) == 1
        assert answer(WITH_INTERVALS, ACCURACY, UNKNOWN, limit_ms=12.0, is_verified=True) == 1
        assert answer(PLAIN, ACCURACY, UNKNOWN, limit_ms=1.0, is_verified=True) == 0


class Lazy:
    """A method that measures and predicts 1 ms for everything: right about nothing, sure of everything."""

    def train(self, source: Source) -> Trained:
        return self

    def adapt(self, meter: Meter) -> Adapted:
        meter.measure(meter.draw(meter.budget))
        return self

    def predict(self, indices: Indices) -> Predicted:
        return Predicted(np.ones(len(indices)))


@pytest.fixture
def arena(monkeypatch: pytest.MonkeyPatch) -> Arena:
    table = nb201_table(rows=600)
    candidates = Candidates(np.arange(300, 500), np.random.default_rng(8).uniform(60.0, 70.0, 200))
    latency = table.column("fpga")[300:500]
    limits = tuple(float(np.quantile(latency, share)) for share in (0.1, 0.3, 0.6))
    monkeypatch.setattr(nas, "LIMITS_MS", {"fpga": limits})
    return Arena.of(table, candidates, "fpga")


def trained_on_sources(method: Method) -> Trained:
    table = nb201_table(rows=600)
    return method.train(source_of(made_up_task(table, source_samples=450), table, with_counts(table)))


def same_without(arena: Arena, rows: Indices) -> Arena:
    """The arena with NaN everywhere but at these rows."""
    latency = np.full_like(arena.latency_ms, np.nan)
    latency[rows] = arena.latency_ms[rows]
    return Arena(arena.name, arena.candidates, arena.reference, latency)


@pytest.mark.parametrize(
    "method", [MixtureMethod(), FlopsMethod(), Lazy()], ids=lambda one: type(one).__name__
)
@pytest.mark.parametrize("seed", [0, 1])
def test_a_budget_for_verification_keeps_limits_and_is_not_exceeded(
    method: Method, seed: int, arena: Arena
) -> None:
    choices = search_device(
        trained_on_sources(method), arena, rules=Rules(8, 18, "random"), seed=seed
    )  # fmt: skip
    for choice in choices:
        assert 8 <= choice.measurements <= 18
        if any(arena.latency_ms[row] <= choice.limit_ms for row in choice.measured):
            assert choice.is_kept
    if isinstance(method, MixtureMethod):
        assert all(choice.is_kept for choice in choices)
        assert np.mean([choice.oracle - choice.accuracy for choice in choices]) < 0.5


@pytest.mark.parametrize("position", [0, 1, 2])
def test_only_what_was_measured_decides(position: int, arena: Arena, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nas, "LIMITS_MS", {"fpga": (nas.LIMITS_MS["fpga"][position],)})
    trained = trained_on_sources(MixtureMethod())
    rules = Rules(8, 18, "random")
    (choice,) = search_device(trained, arena, rules=rules, seed=0)
    bare = same_without(arena, np.asarray(choice.measured))
    (again,) = search_device(trained, bare, rules=rules, seed=0)
    assert again.measured == choice.measured
    assert (again.accuracy, again.latency_ms) == (choice.accuracy, choice.latency_ms)


def test_without_verification_only_the_samples_are_measured(arena: Arena) -> None:
    choices = search_device(trained_on_sources(Lazy()), arena, rules=Rules(8, 8, "random"), seed=0)
    assert [choice.measurements for choice in choices] == [8, 8, 8]
    assert {choice.accuracy for choice in choices} == {float(arena.candidates.accuracy.max())}


def test_totals_count_kept_cells_by_seed() -> None:
    def choice(accuracy: float, latency_ms: float, count: int) -> Choice:
        return Choice(accuracy, 72.0, latency_ms, 10.0, tuple(range(count)))

    by_seed = [
        {"fpga": [choice(71.0, 9.0, 10), choice(73.0, 11.0, 12)]},
        {"fpga": [choice(72.0, 10.0, 14), choice(70.0, 9.5, 20)]},
    ]
    result = result_of(by_seed)
    first, second = result.devices["fpga"]
    assert (first.kept, first.gap, first.worst_gap) == (1.0, 0.5, 1.0)
    assert (second.kept, second.gap, second.measurements) == (0.5, 2.0, 16.0)
    total = result.total
    assert (total.cells, total.kept, total.worst_kept) == (2, 1.5, 1)
    assert total.gap == pytest.approx((1.0 + 1.0) / 2)
    assert total.most_measurements == 20
    assert any("1.5 of  2" in line for line in nas_lines({"mine": result}))


def test_what_is_known_is_drawn_first_and_references_last_of_it(arena: Arena) -> None:
    known_rows = np.asarray([3, 310, 5, 305])  # 3 and 5 are references
    meter = arena.meter(budget=4, selection="random", seed=0, known=known_rows)
    assert meter.draw(4).tolist() == [310, 305, 3, 5]
    assert len(set(meter.draw(202).tolist())) == 202
