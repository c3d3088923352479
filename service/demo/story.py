"""What the demo shows, step by step, over the API alone: anything it does, a user can do with `laptime` or
curl.

Every step finds what an earlier run left: the target is ready, the model is there, its measurement is
stored, the search is done. What came to nothing then is tried again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.resources import as_file, files
from pathlib import Path

from devices.measurement import Level
from predictor.reference_set import reference_models
from service.client import Client
from service.demo.errors import StepFailed
from service.demo.processes import Household
from service.fleet.schemas import TargetState, TargetView
from service.jobs.schemas import JobView
from service.jobs.states import JobState
from service.latency.schemas import (
    Answer,
    MeasurementCreate,
    MeasurementView,
    ModelView,
    QueriedModel,
    Source,
)
from service.presentation import (
    answers_table,
    comparison_table,
    failure_of,
    front_summary,
    front_table,
    progress_of,
    targets_table,
    validity_note,
)
from service.searches.schemas import FrontView, SearchCreate, SearchView
from service.terminal import Terminal

SHOWN_ENGINE = "onnxruntime"
POLL_S = 0.5
TARGET_TIMEOUT_S = 60.0  # from the agent's start to its first target
_DEFAULT_MODEL = "backend/test/data/light/light_squeezenet.onnx"
TRIALS = 16
VERIFIED = 4


class Story:
    """One telling."""

    def __init__(self, client: Client, household: Household, terminal: Terminal) -> None:
        self._client = client
        self._household = household
        self._terminal = terminal

    def tell(self, model: Path | None, input_shapes: Mapping[str, tuple[int, ...]]) -> None:
        """All steps; `input_shapes` for a model with dynamic axes. Raises `DemoFailed` or `ClientError`."""
        ready = self._onboard()
        target = ready[0]
        uploaded = self._upload(model)
        asked = QueriedModel(model=uploaded.id, input_shapes=dict(input_shapes))
        prediction = self._predict(uploaded, asked, ready)
        measurement = self._measure(asked, target)
        self._terminal.say(comparison_table(uploaded.name, prediction, measurement))
        for line in validity_note(measurement):
            self._terminal.say(line)
        front = self._search(target)
        self._terminal.say(front_table(front))
        self._terminal.say(front_summary(front))
        self._terminal.document(
            {
                "targets": ready,
                "model": uploaded,
                "prediction": prediction,
                "measurement": measurement,
                "front": front,
            }
        )

    # ---- onboarding ------------------------------------------------------------------------------

    def _onboard(self) -> list[TargetView]:
        """Every target that is ready in the end, the one to show first in front."""
        self._step("Onboarding this machine: each target measures the reference set, and gets a predictor.")
        if not self._household.wait_until(lambda: bool(self._offered()), timeout_s=TARGET_TIMEOUT_S):
            raise StepFailed(
                f"the agent offered no runtime in {TARGET_TIMEOUT_S:.0f} s; its log is logs/agent.log"
            )
        for target in self._offered():
            if target.state is TargetState.FAILED:
                self._terminal.say(f"Onboarding {target.key} again. Before: {target.state_reason}")
                self._client.onboard(target.id)
        if all(target.state is not TargetState.ONBOARDING for target in self._offered()):
            self._reused("the targets were onboarded before")
        else:
            self._await_onboarding()
        devices, targets = list(self._client.devices()), self._offered()
        self._terminal.say(targets_table(devices, targets))
        ready = [target for target in targets if target.state is TargetState.READY]
        if not ready:
            reasons = "; ".join(f"{target.key}: {target.state_reason}" for target in targets)
            raise StepFailed(f"no target became ready: {reasons}")
        return ready

    def _offered(self) -> list[TargetView]:
        """What the agent offers now, the quietest to measure first: with one thread, other cores may be
        busy.
        """
        offered = [target for target in self._client.targets() if target.state is not TargetState.RETIRED]
        return sorted(
            offered, key=lambda one: (one.runtime.threads, one.runtime.engine != SHOWN_ENGINE, one.key)
        )

    def _await_onboarding(self) -> None:
        with self._terminal.progress("  onboarding") as advance:
            while waiting := [one for one in self._offered() if one.state is TargetState.ONBOARDING]:
                left = {one.key: self._measurements_left(one) for one in waiting}
                total = len(self._offered()) * len(reference_models())
                done = total - sum(left.values())
                key = min(left, key=lambda key: (left[key], key))
                advance(
                    done / (total + 1),
                    f"{key}: {left[key]} reference models to measure" if left[key] else f"{key}: adapting",
                )
                self._household.wait(POLL_S)

    def _measurements_left(self, target: TargetView) -> int:
        return (
            0 if target.onboarding_job_id is None else self._client.job(target.onboarding_job_id).waiting_for
        )

    # ---- one model -------------------------------------------------------------------------------

    def _upload(self, model: Path | None) -> ModelView:
        self._step("Uploading a real ONNX model.")
        if model is not None:
            uploaded, is_new = self._client.upload_model(model)
        else:
            with as_file(files("onnx").joinpath(_DEFAULT_MODEL)) as path:
                uploaded, is_new = self._client.upload_model(path)
        if not is_new:
            self._reused("the server has this model")
        self._terminal.say(f"Model {uploaded.name}: {uploaded.size_bytes} bytes, id {uploaded.id}.")
        return uploaded

    def _predict(self, model: ModelView, asked: QueriedModel, targets: Sequence[TargetView]) -> Answer:
        """What is predicted for the first of the targets."""
        self._step("Asking for its latency: nothing was measured for this answer.")
        keys = [target.id for target in targets]
        answers = self._client.latencies([asked], keys, source=Source.PREDICTION)
        failed = answers[0].error
        if failed is not None:
            raise StepFailed(f"{model.name} has no predicted latency: {failed.detail} ({failed.code})")
        self._terminal.say(answers_table(model.name, answers))
        return answers[0]

    def _measure(self, asked: QueriedModel, target: TargetView) -> MeasurementView:
        self._step(f"Measuring it on {target.key}, to compare.")
        known = self._client.latencies([asked], [target.id], source=Source.MEASUREMENT)[0]
        if known.measurement_id is not None:
            self._reused("its measurement is stored")
            return self._client.measurement(known.measurement_id)
        request = MeasurementCreate(
            model=asked.model, input_shapes=asked.input_shapes, target=target.id, level=Level.STANDARD
        )
        job = self._await_job(self._client.measure(request), "  measuring")
        return self._client.measurement(str(_result(job)["measurement_id"]))

    # ---- search ----------------------------------------------------------------------------------

    def _search(self, target: TargetView) -> FrontView:
        self._step("Searching small quantisable networks for digits: accuracy, latency on this target, size.")
        request = SearchCreate(
            target=target.id, name="demo", trial_count=TRIALS, verify_count=VERIFIED, verify_level=Level.QUICK
        )
        search = self._earlier_search(request) or self._client.start_search(request)
        if search.job.state is JobState.SUCCEEDED:
            self._reused("this search was done before")
        else:
            _result(self._await_job(search.job, "  searching"))
        return self._client.front(search.id)

    def _earlier_search(self, request: SearchCreate) -> SearchView | None:
        """The same search of an earlier run, unless it came to nothing."""
        for search in self._client.searches():
            is_same = (search.target_id, search.name) == (request.target, request.name)
            is_fruitless = search.summary is not None and not search.summary.measured
            has_failed = search.job.state in {JobState.FAILED, JobState.CANCELLED}
            if is_same and search.request == request.request and not is_fruitless and not has_failed:
                return search
        return None

    # ---- telling ---------------------------------------------------------------------------------

    def _await_job(self, job: JobView, label: str) -> JobView:
        with self._terminal.progress(label) as advance:
            return self._client.wait_for_job(
                job.id, on_progress=lambda now: advance(now.progress, progress_of(now))
            )

    def _step(self, text: str) -> None:
        self._household.check()
        self._terminal.say()
        self._terminal.say(text)

    def _reused(self, what: str) -> None:
        self._terminal.say(f"Reused: {what}.")


def _result(job: JobView) -> Mapping[str, object]:
    if job.state is not JobState.SUCCEEDED or job.result is None:
        raise StepFailed(failure_of(job))
    return job.result
