"""The measurement protocol on the fake engine's clock: every case is worked out by hand, and no real time
passes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise

import pytest

from devices.engines.fake import FakeEngine, ScriptedClock
from devices.errors import DevicesError, EngineUnavailable, FailureCode, ModelRejected, WorkFailed
from devices.levels import RULES
from devices.measurement import Conditions, LayerProfile, Level, Measurement, MeasurementPlan, Round
from devices.model_ref import ModelRef, sha256_of
from devices.profile import Machine, MeasurementRequest, estimate_of, measure
from devices.target import Runtime
from devices.timing import TimingReport, TimingTask, time_model
from devices.verdict import Evidence, broken_rules, covered_span_s, discard_preempted

MS = 1_000_000
MODEL = b"a model"
RUNTIME = Runtime(engine="fake", version="1.0", provider="cpu", threads=1)
CALM = Conditions(at_unix_s=0.0, governor="performance", affinity=(0, 1))

Pattern = Callable[
    [int, int, int], tuple[int, int]
]  # process, run, now in ns -> wall ns, processor ns of the run


@dataclass
class InProcess:
    """A process runner without processes: every task gets a fresh fake engine, all on one time line."""

    pattern: Pattern
    clock: ScriptedClock = field(default_factory=ScriptedClock)
    tasks: list[TimingTask] = field(default_factory=list)
    layers: LayerProfile | DevicesError | None = None
    start_up_s: float = 0.5

    def time(self, task: TimingTask) -> TimingReport:
        self.tasks.append(task)
        self.clock.sleep_s(self.start_up_s)
        engine = FakeEngine(lambda _: lambda run, now: self.pattern(task.process, run, now))
        engine.clock = self.clock
        return time_model(engine, MODEL, task, lambda: self.clock.advance(20_000))

    def profile_layers(self, runs: int) -> LayerProfile | None:
        if isinstance(self.layers, DevicesError):
            raise self.layers
        return self.layers


def steady(wall_ms: float, cpu_ms: float | None = None) -> Pattern:
    wall_ns = round(wall_ms * MS)
    cpu_ns = wall_ns if cpu_ms is None else round(cpu_ms * MS)

    def pattern(process: int, run: int, now: int) -> tuple[int, int]:
        return wall_ns, cpu_ns

    return pattern


def two_speeds(process: int, run: int, now: int) -> tuple[int, int]:
    """Runs of 2 and 3 ms in turn: the deviation is at least half a millisecond, a sixth of the median."""
    wall_ns = (2 + run % 2) * MS
    return wall_ns, wall_ns


def measured(
    pattern: Pattern,
    level: Level,
    *,
    conditions: Sequence[Conditions] = (CALM, CALM),
    throttle_counts: Sequence[int | None] = (None, None),
    runner: InProcess | None = None,
    **plan: object,
) -> Measurement:
    processes = runner or InProcess(pattern)
    readings, counts = iter(conditions), iter(throttle_counts)
    machine = Machine(
        clock=processes.clock,
        read_conditions=lambda: next(readings),
        read_throttle_count=lambda: next(counts),
        sandbox="none",
    )
    request = MeasurementRequest(
        device_key="bench",
        runtime=RUNTIME,
        model=ModelRef(sha256=sha256_of(MODEL), input_shapes={"x": (1, 2)}),
        plan=MeasurementPlan.model_validate({"level": level, **plan}),
    )
    return measure(request, processes, machine)


def codes(measurement: Measurement) -> list[str]:
    return [reason.split(":")[0] for reason in measurement.verdict.reasons]


class TestLevels:
    def test_quick_takes_one_process_and_publishes_no_percentile(self) -> None:
        runner = InProcess(steady(2))
        found = measured(steady(2), Level.QUICK, runner=runner)
        # 6 slots of 150 ms, half of each filled with runs of 2 ms: 37 samples
        assert [len(r.samples_ns) for r in found.rounds] == [37] * 6
        assert (found.estimate.sample_count, found.estimate.round_count) == (222, 6)
        assert (found.estimate.median_ms, found.estimate.mad_ms, found.estimate.standard_error_ms) == (
            2,
            0,
            0,
        )
        assert (found.estimate.p90_ms, found.estimate.p99_ms, found.estimate.cpu_median_ms) == (None, None, 2)
        assert found.verdict.is_valid
        assert len(runner.tasks) == 1

    def test_standard_publishes_p90_from_several_processes(self) -> None:
        found = measured(steady(10), Level.STANDARD)
        assert {r.process for r in found.rounds} == {0, 1, 2, 3}
        assert len(found.cold_starts) == 4
        assert (found.estimate.p90_ms, found.estimate.p99_ms) == (10, None)
        assert codes(found) == []

    def test_certified_covers_a_minute_and_publishes_p99(self) -> None:
        found = measured(steady(10), Level.CERTIFIED)
        assert covered_span_s(found.rounds) >= 60
        assert len(found.cold_starts) == 2
        assert found.estimate.sample_count >= 662
        assert found.estimate.p99_ms == 10
        assert codes(found) == []

    def test_rounds_lie_on_one_time_line_and_are_spread(self) -> None:
        found = measured(steady(2), Level.STANDARD)
        starts = [r.started_at_ns for r in found.rounds]
        assert starts == sorted(starts)
        assert starts[-1] > 4e9  # four processes of 0.8 s and their starts
        assert min(b - a for a, b in pairwise(starts)) >= 150 * MS

    def test_what_was_asked_is_kept_beside_what_was_found(self) -> None:
        found = measured(steady(2), Level.QUICK, input_seed=7)
        assert found.plan.input_seed == 7
        assert found.model.input_shapes == {"x": (1, 2)}
        assert (found.clock, found.sandbox, found.device_key) == ("scripted", "none", "bench")
        assert (found.before, found.after) == (CALM, CALM)
        # 37 samples of 2 ms in bursts of 20 ms, and after each burst 5 canaries
        assert all(len(r.canary_ns) == 4 * 5 for r in found.rounds)
        assert Measurement.model_validate_json(found.model_dump_json()) == found


class TestHowManyProcesses:
    """Standard takes four, and more where they disagree, up to eight."""

    @pytest.mark.parametrize(
        ("milliseconds", "count"),
        [
            ((10.0, 10.0, 10.0, 10.0), 4),
            (
                (10.0, 10.1, 10.2, 10.1),
                4,
            ),  # deviation 0.082 of four: an error of 1.2533 * 0.082 / 2 = 0.051
            ((9.8, 10.0, 10.2, 10.0, 10.0), 5),  # 0.163 of four: 0.102; 0.141 of five: 0.079
            ((9.0, 10.0, 11.0, 9.0, 11.0, 9.0, 11.0, 10.0), 8),
        ],
    )
    def test_a_noisy_machine_gets_more(self, milliseconds: tuple[float, ...], count: int) -> None:
        def pattern(process: int, run: int, now: int) -> tuple[int, int]:
            wall_ns = round(milliseconds[process] * MS)
            return wall_ns, wall_ns

        assert len(measured(pattern, Level.STANDARD).cold_starts) == count

    def test_the_error_is_the_larger_one_of_rounds_and_processes(self) -> None:
        """Rounds of 10, 10, 11, 11, 12, 12 ms: a deviation of 0.894 of six, of 1 of three processes."""
        rounds = [a_round(ms, ms).model_copy(update={"process": ms - 10}) for ms in (10, 10, 11, 11, 12, 12)]
        error_ms = estimate_of(rounds, RULES[Level.STANDARD]).standard_error_ms
        assert error_ms == pytest.approx(1.2533 * 1 / 3**0.5, rel=1e-3)
        alone = [r.model_copy(update={"process": 0}) for r in rounds]
        error_ms = estimate_of(alone, RULES[Level.STANDARD]).standard_error_ms
        assert error_ms == pytest.approx(1.2533 * 0.8944 / 6**0.5, rel=1e-3)


class TestWarmUp:
    def test_it_stops_when_three_windows_agree(self) -> None:
        """The first run is the cold start. Windows of 3 runs of 40, 20, 20, 20 ms: the last three agree."""

        def warming(process: int, run: int, now: int) -> tuple[int, int]:
            wall_ns = 100 * MS if run == 0 else 40 * MS if run <= 3 else 20 * MS
            return wall_ns, wall_ns

        found = measured(warming, Level.STANDARD)
        first = found.rounds[0]
        assert found.cold_starts[0].first_run_ns == 100 * MS
        assert first.warmup_ns == (40 * MS,) * 3 + (20 * MS,) * 9 + (
            20 * MS,
        )  # and the round's own warm-up run
        assert set(first.samples_ns) == {20 * MS}
        assert codes(found) == []

    def test_quick_is_satisfied_with_one_window(self) -> None:
        found = measured(steady(10), Level.QUICK)
        assert found.rounds[0].warmup_ns == (10 * MS,) * 6

    def test_a_machine_that_never_settles_is_told(self) -> None:
        """Every run takes a fifth more than the one before it, until the warm-up gives up."""

        def slowing(process: int, run: int, now: int) -> tuple[int, int]:
            wall_ns = round(0.001 * MS * 1.2 ** min(run // 50, 60))
            return wall_ns, wall_ns

        assert "not_warm" in codes(measured(slowing, Level.STANDARD, max_duration_s=1000))

    def test_later_rounds_discard_one_run_each(self) -> None:
        found = measured(steady(2), Level.QUICK)
        assert [len(r.warmup_ns) for r in found.rounds[1:]] == [1] * 5

    def test_a_slow_model_warms_itself(self) -> None:
        found = measured(steady(300), Level.QUICK)
        assert [len(r.warmup_ns) for r in found.rounds] == [1, 0, 0, 0, 0, 0]


class TestVerdict:
    def test_two_speeds_are_unstable(self) -> None:
        found = measured(two_speeds, Level.STANDARD)
        assert codes(found) == ["unstable"]
        assert "the limit is 15%" in found.verdict.reasons[0]
        assert not found.verdict.is_valid

    def test_quick_does_not_judge_stability(self) -> None:
        assert measured(two_speeds, Level.QUICK).verdict.is_valid

    def test_quick_looks_again_where_the_processor_was_busy_and_then_says_so(self) -> None:
        def half_a_core(process: int, run: int, now: int) -> tuple[int, int]:
            return 4 * MS, 2 * MS

        found = measured(half_a_core, Level.QUICK)
        assert codes(found) == ["preempted"]
        assert "50% of one processor core, at least 70%" in found.verdict.reasons[0]
        assert {r.process for r in found.rounds} == {0, 1, 2}

    def test_quick_is_done_after_the_first_process_that_had_the_processor(self) -> None:
        def busy_at_first(process: int, run: int, now: int) -> tuple[int, int]:
            return (6 * MS, 2 * MS) if process == 0 else (2 * MS, 2 * MS)

        found = measured(busy_at_first, Level.QUICK)
        assert found.verdict.is_valid
        assert {r.process for r in found.rounds} == {0, 1}
        assert found.estimate.median_ms == 2

    @pytest.mark.parametrize(
        ("conditions", "counts", "expected"),
        [
            ((CALM, CALM), (4, 4), []),
            ((CALM, CALM), (4, 5), ["throttled"]),
            ((CALM, CALM.model_copy(update={"is_throttled": True})), (None, None), ["throttled"]),
            ((CALM, CALM.model_copy(update={"governor": "powersave"})), (None, None), ["conditions_changed"]),
            ((CALM, CALM.model_copy(update={"affinity": (0,)})), (None, None), ["conditions_changed"]),
        ],
    )
    def test_certified_wants_the_machine_as_it_was(
        self,
        conditions: tuple[Conditions, Conditions],
        counts: tuple[int | None, int | None],
        expected: list[str],
    ) -> None:
        found = measured(steady(10), Level.CERTIFIED, conditions=conditions, throttle_counts=counts)
        assert codes(found) == expected

    def test_standard_accepts_a_throttled_machine(self) -> None:
        assert measured(steady(10), Level.STANDARD, throttle_counts=(1, 2)).verdict.is_valid

    @pytest.mark.parametrize(("second_ms", "expected"), [(10.5, []), (10.6, ["processes_disagree"])])
    def test_certified_processes_must_agree_within_five_per_cent(
        self, second_ms: float, expected: list[str]
    ) -> None:
        def pattern(process: int, run: int, now: int) -> tuple[int, int]:
            wall_ns = round((10 if process == 0 else second_ms) * MS)
            return wall_ns, wall_ns

        assert codes(measured(pattern, Level.CERTIFIED)) == expected


class TestTimeLimit:
    def test_a_slow_model_gets_the_samples_that_fit_and_a_reason(self) -> None:
        """One run takes 3 s. Of 60 s a child plans 85 % of what its start left, 50.6 s: a cold run, one
        warm-up run, and then whole rounds of 3 samples, with one run's time in reserve.
        """
        found = measured(steady(3000), Level.QUICK, max_duration_s=60)
        assert [len(r.samples_ns) for r in found.rounds] == [3, 3, 3, 3, 1]
        assert found.estimate.median_ms == 3000
        assert codes(found) == []  # 13 samples satisfy quick
        found = measured(steady(3000), Level.STANDARD, max_duration_s=60)
        assert codes(found) == ["too_few_samples"]
        assert "raise max_duration_s" in found.verdict.reasons[0]
        assert found.estimate.p90_ms is None

    @pytest.mark.parametrize("level", list(Level))
    def test_the_limit_holds_over_all_processes(self, level: Level) -> None:
        runner = InProcess(steady(900))
        measured(steady(900), level, runner=runner, max_duration_s=30)
        assert runner.clock.wall_ns() <= 30e9

    def test_certified_shares_the_time_between_its_processes(self) -> None:
        runner = InProcess(steady(500))
        found = measured(steady(500), Level.CERTIFIED, runner=runner, max_duration_s=90)
        assert [round(task.budget_s, 1) for task in runner.tasks] == [
            38.2,
            44.2,
        ]  # 85 % of half of 90 s, then of what is left
        assert codes(found) == ["too_few_samples"]

    def test_certified_in_one_process_is_not_certified(self) -> None:
        def pattern(process: int, run: int, now: int) -> tuple[int, int]:
            if process == 1:
                raise WorkFailed(FailureCode.TIMED_OUT, "killed")
            return 20 * MS, 20 * MS

        assert "one_process" in codes(measured(pattern, Level.CERTIFIED))

    def test_a_model_too_slow_for_one_sample_is_told_how_slow_it_is(self) -> None:
        with pytest.raises(
            WorkFailed, match=r"one run takes 40\.0 s.*raise the plan's max_duration_s"
        ) as caught:
            measured(steady(40_000), Level.QUICK, max_duration_s=60)
        assert caught.value.code is FailureCode.TIMED_OUT

    def test_a_later_process_that_is_killed_loses_only_its_own_samples(self) -> None:
        def pattern(process: int, run: int, now: int) -> tuple[int, int]:
            if process == 2:
                raise WorkFailed(FailureCode.TIMED_OUT, "killed")
            return 20 * MS, 20 * MS

        found = measured(pattern, Level.STANDARD)
        assert {r.process for r in found.rounds} == {0, 1}
        assert found.estimate.median_ms == 20

    def test_a_crash_is_never_papered_over(self) -> None:
        def pattern(process: int, run: int, now: int) -> tuple[int, int]:
            if process == 2:
                raise WorkFailed(FailureCode.CRASHED, "gone")
            return 20 * MS, 20 * MS

        with pytest.raises(WorkFailed, match="gone"):
            measured(pattern, Level.STANDARD)


def a_round(wall_ms: float, cpu_ms: float, count: int = 4) -> Round:
    return Round(
        started_at_ns=0, samples_ns=(round(wall_ms * MS),) * count, cpu_ns=(round(cpu_ms * MS),) * count
    )


def kept(rounds: Sequence[Round], runtime: Runtime = RUNTIME, min_samples: int = 1) -> list[bool]:
    return [r.discarded is None for r in discard_preempted(rounds, runtime, min_samples=min_samples)]


class TestPreemptedRounds:
    def test_a_round_that_lost_the_processor_does_not_count(self) -> None:
        rounds = [a_round(10, 10), a_round(10.4, 10), a_round(10.6, 10), a_round(15, 10)]
        assert kept(rounds) == [True, True, False, False]
        found = discard_preempted(rounds, RUNTIME, min_samples=1)
        assert found[3].discarded == "preempted: 0.67 s of processor time per second, at least 0.95 expected"
        assert estimate_of(found, RULES[Level.QUICK]).sample_count == 8

    def test_half_of_the_rounds_stay_the_best_ones(self) -> None:
        rounds = [a_round(15, 10), a_round(30, 10), a_round(12, 10), a_round(20, 10)]
        assert kept(rounds) == [True, False, True, False]

    def test_enough_rounds_stay_for_the_levels_minimum(self) -> None:
        rounds = [a_round(15, 10), a_round(30, 10), a_round(12, 10), a_round(20, 10)]
        assert kept(rounds, min_samples=12) == [True, False, True, True]

    def test_several_threads_are_compared_with_their_usual_round(self) -> None:
        """Two threads that keep 1.6 cores busy; at 1.4 (over 1.6 / 1.15 = 1.39) a round stays, at 1.3 it does
        not.
        """
        two = RUNTIME.model_copy(update={"threads": 2})
        rounds = [a_round(10, 16), a_round(10, 16), a_round(10, 16), a_round(10, 14), a_round(10, 13)]
        assert kept(rounds, two) == [True, True, True, True, False]

    def test_accelerators_wait_without_using_the_processor(self) -> None:
        cuda = RUNTIME.model_copy(update={"provider": "cuda"})
        assert kept([a_round(10, 10), a_round(10, 1)], cuda) == [True, True]

    def test_slow_rounds_of_an_accelerator_are_others_work(self) -> None:
        cuda = RUNTIME.model_copy(update={"provider": "cuda"})
        rounds = [a_round(10, 1), a_round(11, 1), a_round(12, 1), a_round(30, 1)]
        assert kept(rounds, cuda) == [True, True, False, False]
        found = discard_preempted(rounds, cuda, min_samples=1)
        assert found[3].discarded == (
            "shared: the median run took 3.00 times that of the fastest round, at most 1.15 expected"
        )

    @pytest.mark.parametrize(("slower", "expected"), [(1.0, []), (1.1, []), (2.0, ["shared"])])
    def test_an_accelerator_that_others_use_throughout_makes_the_measurement_invalid(
        self, slower: float, expected: list[str]
    ) -> None:
        """Each round finds it busier than the one before."""
        cuda = RUNTIME.model_copy(update={"provider": "cuda"})
        rounds = tuple(
            a_round(round(100 * slower**index), 1).model_copy(update={"started_at_ns": index * 1000 * MS})
            for index in range(4)
        )
        rules = RULES[Level.QUICK]
        found = discard_preempted(rounds, cuda, min_samples=1)
        evidence = Evidence(
            runtime=cuda, max_duration_s=60, rounds=found, estimate=estimate_of(found, rules),
            process_count=1, is_settled=True, is_complete=True, before=CALM, after=CALM, is_throttled=False,
        )  # fmt: skip
        reasons = broken_rules(replace(rules, min_samples=1), evidence)
        assert [reason.partition(":")[0] for reason in reasons] == expected

    def test_without_processor_times_nothing_is_known(self) -> None:
        assert kept([a_round(10, 10), Round(started_at_ns=0, samples_ns=(MS,))]) == [True, True]

    def test_a_few_interrupted_runs_do_not_matter(self) -> None:
        """Every fourth run takes three times as long for the same work: the median run does not."""

        def pattern(process: int, run: int, now: int) -> tuple[int, int]:
            return (30 if run % 4 == 0 else 10) * MS, 10 * MS

        found = measured(pattern, Level.STANDARD)
        assert (found.estimate.median_ms, found.verdict.is_valid) == (10, True)

    def test_runs_on_a_shared_processor_make_the_measurement_invalid(self) -> None:
        found = measured(steady(10, cpu_ms=5), Level.STANDARD)
        assert codes(found) == ["preempted"]
        assert "the median run got 50% of one processor core" in found.verdict.reasons[0]


class TestLayers:
    PROFILE = LayerProfile(layers=(), coverage=0.9)

    def test_layers_come_from_a_process_of_their_own(self) -> None:
        runner = InProcess(steady(2), layers=self.PROFILE)
        assert measured(steady(2), Level.QUICK, runner=runner, with_layers=True).layer_profile == self.PROFILE
        assert measured(steady(2), Level.QUICK, runner=runner).layer_profile is None

    @pytest.mark.parametrize(
        "layers",
        [
            None,
            WorkFailed(FailureCode.CRASHED, "no profile"),
            ModelRejected("not with counters"),
            EngineUnavailable("built without"),
        ],
    )
    def test_a_measurement_stands_without_them(self, layers: DevicesError | None) -> None:
        found = measured(steady(2), Level.QUICK, runner=InProcess(steady(2), layers=layers), with_layers=True)
        assert found.layer_profile is None
        assert found.verdict.is_valid
        assert any(note.startswith("no layer profile") for note in found.notes)

    def test_cancelling_is_never_a_note(self) -> None:
        cancelled = InProcess(steady(2), layers=WorkFailed(FailureCode.CANCELLED, "stop"))
        with pytest.raises(WorkFailed, match="cancelled"):
            measured(steady(2), Level.QUICK, runner=cancelled, with_layers=True)
