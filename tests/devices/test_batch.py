"""Many models in one box: each measured as if alone, in turn with the others, and none hurt by another."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from devices.batch import ROUNDS, BatchEntry, run_batch
from devices.batch_timing import MAX_ROUND_SAMPLES, MIN_ROUND_SAMPLES, BatchTask, TimedModel, time_batch
from devices.engines.fake import FakeEngine, fake_latency_ns
from devices.errors import DevicesError, FailureCode, ModelRejected, WorkFailed
from devices.measurement import Level, Measurement, MeasurementPlan
from devices.model_ref import ModelRef, sha256_of
from devices.profile import MeasurementRequest
from devices.target import Runtime
from tests.devices import onnx_models

FAKE = Runtime(engine="fake", version="1.0", provider="cpu", threads=1)
ORT = Runtime(engine="onnxruntime", version="1.31", provider="cpu", threads=1)
MODELS = tuple(letter * size for letter, size in ((b"a", 4_975_000), (b"b", 7_475_000), (b"c", 9_975_000)))


def entry(
    model: bytes, runtime: Runtime = FAKE, *, with_layers: bool = False, **shapes: tuple[int, ...]
) -> BatchEntry:
    request = MeasurementRequest(
        device_key="bench",
        runtime=runtime,
        model=ModelRef(sha256=sha256_of(model), input_shapes=shapes),
        plan=MeasurementPlan(level=Level.QUICK, with_layers=with_layers),
    )
    return BatchEntry(request, model)


def measured(outcome: Measurement | DevicesError) -> Measurement:
    assert isinstance(outcome, Measurement), outcome
    return outcome


def assert_interleaved(found: Sequence[Measurement]) -> None:
    """On the batch's one time line every round passes through all models before the next begins."""
    begins = [[one.started_at_ns for one in each.rounds] for each in found]
    in_turn = [own[number] for number in range(ROUNDS) for own in begins]
    assert in_turn == sorted(in_turn)
    assert len(set(in_turn)) == ROUNDS * len(found)


def test_each_model_takes_what_it_takes_alone() -> None:
    found = [measured(one) for one in run_batch([entry(model, x=(1, 3)) for model in MODELS])]
    for model, one in zip(MODELS, found, strict=True):
        assert one.estimate.median_ms == pytest.approx(fake_latency_ns(model) * 1e-6, rel=0.02)
        assert one.verdict.is_valid, one.verdict.reasons
        assert (one.model.sha256, one.model.input_shapes) == (sha256_of(model), {"x": (1, 3)})
        assert (len(one.rounds), len(one.cold_starts), one.clock) == (ROUNDS, 1, "scripted")
        assert one.layer_profile is None
    assert_interleaved(found)


def test_a_model_that_is_refused_hurts_no_other() -> None:
    first, refused, empty, last = run_batch(
        [entry(MODELS[0]), entry(b"fake:reject"), entry(b""), entry(MODELS[1], with_layers=True)]
    )
    assert measured(first).verdict.is_valid
    assert measured(last).verdict.is_valid
    assert isinstance(refused, ModelRejected)
    assert isinstance(empty, ModelRejected)


def test_a_model_that_takes_the_process_with_it_is_found_by_halving() -> None:
    outcomes = run_batch([entry(model) for model in (MODELS[0], MODELS[1], b"fake:crash", MODELS[2])])
    crashed = outcomes.pop(2)
    assert isinstance(crashed, WorkFailed)
    assert crashed.code is FailureCode.CRASHED
    for model, one in zip(MODELS, outcomes, strict=True):
        assert measured(one).estimate.median_ms == pytest.approx(fake_latency_ns(model) * 1e-6, rel=0.02)


def test_a_runtime_times_real_models_with_their_layers() -> None:
    models = [
        (onnx_models.two_layers(), {"x": (4, 8)}),
        (onnx_models.unknown_operator(), {}),
        (onnx_models.convolutions(), {}),
        (b"no model", {}),
        (onnx_models.two_layers(low=-2.0), {"x": (64, 8)}),
    ]
    outcomes = run_batch([entry(model, ORT, with_layers=True, **shapes) for model, shapes in models])
    assert [isinstance(one, Measurement) for one in outcomes] == [True, False, True, False, True]
    assert all(isinstance(outcomes[index], ModelRejected) for index in (1, 3))
    good = [measured(outcomes[index]) for index in (0, 2, 4)]
    assert_interleaved(good)
    for one in good:
        assert one.estimate.median_ms > 0
        assert all(round.canary_ns for round in one.rounds)
        assert one.layer_profile is not None
        assert one.layer_profile.layers
        assert sum(layer.median_ns for layer in one.layer_profile.layers) >= 0
    assert any("Conv" in layer.kind for layer in good[1].layer_profile.layers)  # type: ignore[union-attr]
    assert [one.model.input_shapes["x"] for one in good] == [(4, 8), (1, 3, 32, 32), (64, 8)]


def task(models: Sequence[bytes], **more: object) -> BatchTask:
    given = {"rounds": 4, "share_s": 0.08, "budget_s": 20.0, **more}
    return BatchTask.model_validate(
        {"runtime": FAKE, "input_shapes": ({"x": (1, 3)},) * len(models), **given}
    )


def test_samples_fill_a_share_of_time_within_bounds() -> None:
    """0.02 s a round: ten runs of 2 ms; of slow models two, of fast ones 64 at most."""
    models = (b"m" * 975_000, b"m" * 20_000_000, b"m")
    results = time_batch(FakeEngine(), models, task(models), lambda: None)
    counts = []
    for one in results:
        assert isinstance(one, TimedModel)
        assert len(one.report.rounds) == 4
        assert {len(each.cpu_ns) for each in one.report.rounds} == {
            len(each.samples_ns) for each in one.report.rounds
        }
        assert all(each.warmup_ns for each in one.report.rounds)  # another model ran before
        counts.append({len(each.samples_ns) for each in one.report.rounds})
        assert one.layers is None
    assert counts == [{10}, {MIN_ROUND_SAMPLES}, {MAX_ROUND_SAMPLES}]


def test_layers_come_last_and_only_where_asked() -> None:
    engine = FakeEngine()
    (one,) = time_batch(engine, [MODELS[0]], task([MODELS[0]], layer_runs=3), lambda: None)
    assert isinstance(one, TimedModel)
    assert one.layers == engine.profile_layers(MODELS[0], FAKE, {}, 3)


def test_a_model_that_fails_later_ends_its_own_rounds_only() -> None:
    def script_of(model: bytes) -> object:
        def script(run: int, now_ns: int) -> tuple[int, int]:
            del now_ns
            if model == b"late" and run > 80:
                raise WorkFailed(FailureCode.CRASHED, "made up")
            return 1_000_000, 1_000_000

        return script

    models = (b"late", b"good")
    late, good = time_batch(FakeEngine(script_of), models, task(models), lambda: None)  # type: ignore[arg-type]
    assert isinstance(late, WorkFailed)
    assert isinstance(good, TimedModel)
    assert len(good.report.rounds) == 4
