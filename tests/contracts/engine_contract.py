"""What every engine must do. A new engine's tests inherit this class and say how to make the engine and a
model for it.
"""

from __future__ import annotations

import pytest

from devices.engine import Engine, Tensors
from devices.errors import EngineUnavailable, ModelRejected
from devices.inputs import make_tensors
from devices.model_ref import InputSpec, resolve_input_shapes
from devices.target import Runtime


class EngineContract:
    """`load` and `profile_layers` in the words of `devices.engine`. Fixtures to override: engine, model,
    broken_model.
    """

    input_shapes: dict[str, tuple[int, ...]] = {"x": (2, 8)}  # noqa: RUF012 - read only, replaced in subclasses
    tells_layers = True

    @pytest.fixture
    def engine(self) -> Engine:
        raise NotImplementedError("a contract test gives the engine")

    @pytest.fixture
    def model(self) -> bytes:
        """A model with an input `x` of float32 that takes `input_shapes`."""
        raise NotImplementedError("a contract test gives a model")

    @pytest.fixture
    def broken_model(self) -> bytes:
        """Bytes that are no model to this engine."""
        return b"these bytes are no model"

    @pytest.fixture
    def runtime(self, engine: Engine) -> Runtime:
        return engine.runtimes([1])[0]

    def tensors(self, inputs: list[InputSpec]) -> Tensors:
        return make_tensors(inputs, resolve_input_shapes(inputs, self.input_shapes), seed=0)

    def test_offers_one_runtime_per_thread_count_under_its_own_name(self, engine: Engine) -> None:
        runtimes = [r for r in engine.runtimes([1, 2]) if r.provider == "cpu"]
        assert [(r.engine, r.threads) for r in runtimes] == [(engine.name, 1), (engine.name, 2)]
        assert len({r.key for r in runtimes}) == 2

    def test_only_the_default_optimisation_is_offered_unless_others_are_named(self, engine: Engine) -> None:
        assert {r.optimization for r in engine.runtimes([1])} == {"default"}
        assert not engine.runtimes([1], ["nonesuch"])

    def test_a_session_tells_its_inputs(self, engine: Engine, model: bytes, runtime: Runtime) -> None:
        inputs = list(engine.load(model, runtime, self.input_shapes).inputs)
        assert [(spec.name, spec.dtype) for spec in inputs] == [("x", "float32")]
        assert resolve_input_shapes(inputs, self.input_shapes) == self.input_shapes

    def test_a_run_gives_finite_outputs_by_name_and_the_same_again(
        self, engine: Engine, model: bytes, runtime: Runtime
    ) -> None:
        session = engine.load(model, runtime, self.input_shapes)
        tensors = self.tensors(list(session.inputs))
        first = {name: value.copy() for name, value in session.run(tensors).items()}
        second = session.run(tensors)
        assert first
        for name, value in first.items():
            assert value.tobytes() == second[name].tobytes()

    def test_time_passes_during_a_run_and_the_clock_never_goes_back(
        self, engine: Engine, model: bytes, runtime: Runtime
    ) -> None:
        session = engine.load(model, runtime, self.input_shapes)
        tensors = self.tensors(list(session.inputs))
        before_wall, before_cpu = engine.clock.wall_ns(), engine.clock.cpu_ns()
        for _ in range(50):
            session.run(tensors)
        assert engine.clock.wall_ns() > before_wall
        assert engine.clock.cpu_ns() > before_cpu
        assert engine.clock.name

    def test_sleeping_takes_wall_time(self, engine: Engine) -> None:
        before = engine.clock.wall_ns()
        engine.clock.sleep_s(0.01)
        assert engine.clock.wall_ns() - before >= 10_000_000

    def test_bytes_that_are_no_model_are_rejected(
        self, engine: Engine, broken_model: bytes, runtime: Runtime
    ) -> None:
        with pytest.raises(ModelRejected):
            engine.load(broken_model, runtime, {})

    def test_an_unknown_provider_is_unavailable(self, engine: Engine, model: bytes, runtime: Runtime) -> None:
        elsewhere = runtime.model_copy(update={"provider": "abacus"})
        with pytest.raises(EngineUnavailable, match="abacus"):
            engine.load(model, elsewhere, self.input_shapes)

    def test_an_unknown_optimisation_is_unavailable(
        self, engine: Engine, model: bytes, runtime: Runtime
    ) -> None:
        otherwise = runtime.model_copy(update={"optimization": "alchemy"})
        with pytest.raises(EngineUnavailable, match="alchemy"):
            engine.load(model, otherwise, self.input_shapes)

    def test_layers_have_times_and_a_coverage(self, engine: Engine, model: bytes, runtime: Runtime) -> None:
        tensors = self.tensors(list(engine.load(model, runtime, self.input_shapes).inputs))
        profile = engine.profile_layers(model, runtime, tensors, 3)
        assert (profile is not None) == self.tells_layers
        if profile is None:
            return
        assert all(layer.name and layer.kind and layer.provider for layer in profile.layers)
        assert sum(layer.median_ns for layer in profile.layers) > 0
        # a check of units: on a busy machine a median of a few tiny runs may be several times too large
        assert 1e-3 < profile.coverage < 100
