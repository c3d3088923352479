"""The loop: resumed is uninterrupted, nothing is built twice, predicted and verified stay apart."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import pytest
from pydantic import ValidationError

from search import loop, pareto
from search.errors import StateRejected
from search.genome import Genome
from search.loop import Phase, SearchRequest, SearchState, Step, VerifiedLatency
from search.objectives import points_of
from search.scoring import Scorer
from search.space import BuiltModel
from search.strategies.registry import STRATEGIES
from search.trial import Trial, TrialState
from tests.search.tabulated import TabulatedSpace, small_space, tabulated_scorer

REQUEST = SearchRequest(space="tabulated", trial_count=26, population_size=6, seed=3, verify_count=4)


def stored(state: SearchState) -> SearchState:
    """As another process reads it."""
    return SearchState.from_bytes(state.to_bytes())


def run(
    state: SearchState, scorer: Scorer, *, max_trials: int | None = None, is_stored: bool = False
) -> list[Step]:
    """All steps until the front is to be verified."""
    steps: list[Step] = []
    while state.phase is Phase.PROPOSING:
        steps.append(loop.advance(stored(state) if is_stored else state, scorer, max_trials=max_trials))
        state = steps[-1].state
    return steps


def proposed(request: SearchRequest = REQUEST, scorer: Scorer | None = None) -> SearchState:
    return run(loop.start(request), scorer or tabulated_scorer())[-1].state


def verified_by(factor: float, state: SearchState) -> dict[int, VerifiedLatency]:
    """Measurements that are `factor` times what was predicted."""
    trials = {trial.number: trial for trial in state.trials}
    return {
        candidate.trial_number: VerifiedLatency(
            median_ms=factor * trials[candidate.trial_number].predicted_ms,
            lower_ms=0,
            upper_ms=99,
            is_valid=True,
        )
        for candidate in loop.candidates(state)
    }


@pytest.mark.parametrize("strategy", sorted(STRATEGIES))
@pytest.mark.parametrize("max_trials", [None, 1, 4])
def test_stored_and_resumed_after_every_step_it_ends_the_same(strategy: str, max_trials: int | None) -> None:
    request = REQUEST.model_copy(update={"strategy": strategy})
    whole = run(loop.start(request), tabulated_scorer())
    cut = run(loop.start(request), tabulated_scorer(), max_trials=max_trials, is_stored=True)
    assert cut[-1].state.to_bytes() == whole[-1].state.to_bytes()
    models = {sha: data for step in whole for sha, data in step.models.items()}
    assert {sha: data for step in cut for sha, data in step.models.items()} == models


def test_upserting_what_steps_report_gives_the_final_trials() -> None:
    stored_rows: dict[int, Trial] = {}
    steps = run(loop.start(REQUEST), tabulated_scorer(), max_trials=1)
    for step in steps:
        stored_rows.update({trial.number: trial for trial in step.new_trials})
    last = loop.finish(steps[-1].state, verified_by(1.1, steps[-1].state))
    stored_rows.update({trial.number: trial for trial in last.new_trials})
    assert [stored_rows[number] for number in sorted(stored_rows)] == list(last.state.trials)


def test_state_is_canonical_json_and_survives_a_round_trip() -> None:
    done = loop.finish(proposed(), {}).state
    for state in (loop.start(REQUEST), proposed(), done):
        data = state.to_bytes()
        assert data == json.dumps(json.loads(data), sort_keys=True, separators=(",", ":")).encode()
        assert stored(state) == state
        assert stored(state).to_bytes() == data


@pytest.mark.parametrize("data", [b"", b"{}", b'{"format_version": 2}', b"\x80\x04"])
def test_foreign_bytes_are_no_state(data: bytes) -> None:
    with pytest.raises(StateRejected, match=f"these {len(data)} bytes"):
        SearchState.from_bytes(data)


def test_budget_is_spent_and_failures_are_data() -> None:
    state = proposed()
    assert [trial.number for trial in state.trials] == list(range(26))
    failed = [trial for trial in state.trials if trial.state is TrialState.FAILED]
    assert failed
    assert {trial.failure for trial in failed} == {"level0 must not be 3"}
    assert not any(trial.objectives or trial.on_predicted_front or trial.model_sha256 for trial in failed)


def test_predicted_front_is_what_no_trial_dominates() -> None:
    state = proposed()
    scored = [trial for trial in state.trials if trial.is_scored]
    rows = points_of([trial.objectives for trial in scored], REQUEST.objectives)
    assert list(loop.predicted_front(state)) == [scored[i] for i in pareto.front(rows)]


def test_no_genome_is_built_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    class Stubborn:
        """Proposes the same two genomes for ever."""

        def __init__(self, settings: object) -> None: ...
        def ask(self, n: int) -> list[Genome]:
            return (list(small_space().genomes())[:2] * n)[:n]

        def tell(self, trials: object) -> None: ...
        def dump(self) -> dict:
            return {}

        def load(self, dump: object) -> None: ...

    monkeypatch.setitem(STRATEGIES, "random", Stubborn)
    scorer = tabulated_scorer(small_space())
    state = proposed(REQUEST.model_copy(update={"strategy": "random"}), scorer)
    assert scorer.predictor.calls == 2
    assert [trial.repeats for trial in state.trials] == [None, None] + [0, 1] * 12
    assert state.trials[25].objectives == state.trials[1].objectives
    assert {trial.number for trial in loop.predicted_front(state)} <= {0, 1}


def test_a_space_that_is_used_up_ends_the_search_early() -> None:
    state = proposed(scorer=tabulated_scorer(small_space()))
    assert len(state.trials) == 9
    assert state.is_exhausted
    assert state.phase is Phase.VERIFYING
    assert state.progress == 1.0


def test_latency_limit_holds_on_both_fronts() -> None:
    state = proposed(REQUEST.model_copy(update={"max_latency_ms": 4.0}))
    front = loop.predicted_front(state)
    assert front
    assert all(trial.predicted_ms <= 4.0 for trial in front)
    assert any(trial.is_scored and trial.predicted_ms > 4.0 for trial in state.trials)
    slower = loop.finish(state, verified_by(2.0, state)).state
    assert all(trial.verified_ms <= 4.0 for trial in loop.verified_front(slower))
    assert any(trial.verified_ms and trial.verified_ms > 4.0 for trial in slower.trials)


def test_candidates_span_the_front() -> None:
    state = proposed()
    front = {trial.number: trial for trial in loop.predicted_front(state)}
    chosen = loop.candidates(state)
    assert len(front) > len(chosen) == 4
    numbers = [candidate.trial_number for candidate in chosen]
    assert numbers == sorted(numbers)
    best = max(trial.accuracy for trial in front.values())
    fastest = min(trial.predicted_ms for trial in front.values())
    assert best in [front[number].accuracy for number in numbers]
    assert fastest in [front[number].predicted_ms for number in numbers]
    for candidate in chosen:
        assert candidate.model_sha256 == front[candidate.trial_number].model_sha256
        assert candidate.input_shapes == {"x": (1, 2)}


def test_verified_front_is_made_of_measured_latencies_only() -> None:
    state = proposed()
    numbers = [candidate.trial_number for candidate in loop.candidates(state)]
    # the last candidate turns out fastest of all, and the first cannot be measured
    verified = {n: VerifiedLatency(median_ms=5.0, lower_ms=4, upper_ms=6, is_valid=True) for n in numbers}
    verified[numbers[-1]] = VerifiedLatency(median_ms=1e-3, lower_ms=0, upper_ms=1, is_valid=True)
    verified[numbers[0]] = None
    request = ("accuracy", "latency_ms")
    step = loop.finish(state, verified)
    after = {trial.number: trial for trial in step.state.trials}
    assert step.state.phase is Phase.DONE
    assert after[numbers[0]].state is TrialState.SCORED
    assert after[numbers[-1]].on_verified_front
    measured = [after[n] for n in numbers[1:]]
    expected = pareto.front(points_of([t.verified_objectives for t in measured], REQUEST.objectives))
    assert [t.number for t in loop.verified_front(step.state)] == [measured[i].number for i in expected]
    assert [t.objectives for t in step.state.trials] == [t.objectives for t in state.trials]
    assert step.state.summary.measured == 3
    assert step.state.summary.missing == 1
    assert set(request) <= set(step.state.summary.reference_point)


def test_perfect_predictions_have_equal_hypervolumes() -> None:
    state = proposed()
    summary = loop.finish(state, verified_by(1.0, state)).state.summary
    assert summary.hypervolume_predicted == summary.hypervolume_verified
    assert summary.mape == pytest.approx(0)
    assert summary.rank_correlation == pytest.approx(1)


def test_steps_out_of_order_are_refused() -> None:
    state = proposed()
    scorer = tabulated_scorer()
    with pytest.raises(StateRejected, match="'proposing'"):
        loop.advance(state, scorer)
    with pytest.raises(StateRejected, match="'verifying'"):
        loop.finish(loop.start(REQUEST), {})
    done = loop.finish(state, {}).state
    with pytest.raises(StateRejected, match="'done'"):
        loop.finish(done, {})
    stranger = next(t.number for t in state.trials if not t.on_predicted_front)
    with pytest.raises(StateRejected, match="no candidates"):
        loop.finish(state, {stranger: None})


def test_another_scorer_may_not_go_on() -> None:
    state = loop.advance(loop.start(REQUEST), tabulated_scorer(key="one"), max_trials=1).state
    with pytest.raises(StateRejected, match=r"'one'.*'other'"):
        loop.advance(state, tabulated_scorer(key="other"))
    with pytest.raises(StateRejected, match="digits-cnn"):
        loop.advance(loop.start(SearchRequest()), tabulated_scorer())


def test_values_that_are_no_numbers_fail_the_trial() -> None:
    class Broken:
        def predict(self, graph: object, coverage: float = 0.9) -> object:
            good = tabulated_scorer().predictor.predict(graph, coverage)
            return replace(good, median_ms=math.nan)

    scorer = replace(tabulated_scorer(), predictor=Broken())
    step = loop.advance(loop.start(REQUEST), scorer)
    assert {trial.state for trial in step.new_trials} == {TrialState.FAILED}
    assert "values that are not finite: {'latency_ms': nan}" in {trial.failure for trial in step.new_trials}
    step.state.to_bytes()


def test_a_model_that_cannot_be_costed_fails_the_trial() -> None:
    class Garbage:
        def build(self, genome: Genome, *, seed: int) -> BuiltModel:
            return BuiltModel(b"no model", {"x": (1, 2)})

    step = loop.advance(loop.start(REQUEST), replace(tabulated_scorer(), builder=Garbage()), max_trials=2)
    assert [trial.state for trial in step.new_trials] == [TrialState.FAILED] * 2
    assert step.models == {}
    ended = run(step.state, replace(tabulated_scorer(), builder=Garbage()))[-1].state
    assert loop.candidates(ended) == ()
    assert loop.finish(ended, {}).state.summary.candidates == 0


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("strategy", "oracle", "one of .*nsga2.*'oracle'"),
        ("objectives", ("accuracy", "beauty"), "beauty"),
        ("objectives", (), "distinct names"),
        ("objectives", ("accuracy", "accuracy"), "distinct names"),
        ("trial_count", 0, "greater than or equal to 1"),
        ("population_size", 1, "greater than or equal to 2"),
        ("max_latency_ms", -1.0, "greater than 0"),
        ("max_latency_ms", math.inf, "finite"),
        ("seed", -1, "greater than or equal to 0"),
    ],
)
def test_requests_out_of_bounds_are_refused(field: str, value: object, message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        SearchRequest(**{field: value})


def test_searching_two_objectives_leaves_the_third_out() -> None:
    state = proposed(REQUEST.model_copy(update={"objectives": ("accuracy", "latency_ms")}))
    assert {tuple(t.objectives) for t in state.trials if t.is_scored} == {("accuracy", "latency_ms")}
    assert all(trial.size_bytes for trial in state.trials if trial.is_scored)


def test_the_tabulated_space_is_what_it_says() -> None:
    assert len(list(TabulatedSpace().genomes())) == 16 + 64 + 256 + 1024
    assert len(list(small_space().genomes())) == 9
