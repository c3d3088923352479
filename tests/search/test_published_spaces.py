"""The published spaces in searches: rows and genomes, what may be asked of them, and searches end to end."""

from __future__ import annotations

import json
from itertools import product
from pathlib import Path

import numpy as np
import pytest

from devices.target import Hardware, Runtime
from predictor.adapt import Observation, TargetFacts, adapt
from predictor.errors import GenomeRejected
from predictor.reading.reader import read_graph
from search import catalogue, loop
from search.__main__ import main
from search.catalogue import scorer_for
from search.errors import RequestRejected
from search.execution import cpu_runner
from search.genome import Genome
from search.loop import Phase, SearchRequest, SearchState
from search.scoring import Scorer
from search.space import Builder, BuiltModel, SearchSpace, random_genome
from search.spaces import nb201_accuracy
from search.spaces.published import FBNET, NB201, OFA, PublishedSpace
from search.spaces.published_builder import PublishedBuilder
from search.spaces.registry import SPACES
from tests.contracts.space_contract import SpaceContract
from tests.search.tabulated import CountingPredictor

HARDWARE = Hardware(
    cpu_model="test", architecture="x86_64", physical_cores=2, logical_cores=2, memory_bytes=8 << 30,
    isa_flags=("avx2", "fma"), operating_system="test",
)  # fmt: skip
RUNTIME = Runtime(engine="onnxruntime", version="1.32.0", provider="cpu", threads=1)
COSTLESS = ("latency_ms", "size_bytes")


class TestNb201(SpaceContract):
    def space(self) -> SearchSpace:
        return NB201

    def builder(self) -> Builder:
        return PublishedBuilder(NB201)


class TestFbnet(SpaceContract):
    def space(self) -> SearchSpace:
        return FBNET

    def builder(self) -> Builder:
        return PublishedBuilder(FBNET)


class TestOfa(SpaceContract):
    def space(self) -> SearchSpace:
        return OFA

    def builder(self) -> Builder:
        return PublishedBuilder(OFA)


@pytest.mark.parametrize("space", [NB201, FBNET, OFA], ids=lambda space: space.name)
def test_rows_and_genomes_stand_for_each_other(space: PublishedSpace) -> None:
    assert SPACES[space.name](HARDWARE) is space
    rng = np.random.default_rng(3)
    for _ in range(20):
        row = tuple(int(rng.choice(values)) for values in space.family.options)
        genome = space.genome(row)
        assert space.row(genome) == row
        assert space.canonical(genome) == space.genome(space.family.canonical(row))
    with pytest.raises(GenomeRejected, match="position 0"):
        space.genome([-1, *row[1:]])
    with pytest.raises(RequestRejected):
        space.row(Genome.of({"depth": 1}))


def test_names_say_what_the_tables_mean() -> None:
    assert NB201.genome([0, 1, 2, 3, 4, 0]).as_dict() == {
        "node1.from0": "none",
        "node2.from0": "skip_connect",
        "node2.from1": "nor_conv_1x1",
        "node3.from0": "nor_conv_3x3",
        "node3.from1": "avg_pool_3x3",
        "node3.from2": "none",
    }
    chosen = OFA.genome([7, *[3] * 19, *[4] * 20, 2, 3, 4, 3, 2, 176]).as_dict()
    assert (chosen["stage1.block1.kernel"], chosen["stage1.block2.kernel"]) == (7, 3)
    assert (chosen["stage3.depth"], chosen["resolution"], chosen["stage5.block4.expansion"]) == (4, 176, 4)
    assert FBNET.genome([8, *[5] * 21]).as_dict()["block01"] == "skip"


# ---- accuracy --------------------------------------------------------------------------------------


def accuracy_of(row: tuple[int, ...]) -> float:
    """In per cent, best where convolutions are many."""
    return 10.0 + sum({0: 0.0, 1: 2.0, 2: 5.0, 3: 10.0, 4: 3.0}[operation] for operation in row)


@pytest.fixture
def table_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder as `LAPTIME_DATA` names one, with accuracies by formula."""
    rows = list(product(range(5), repeat=6))
    cifar100 = np.array([accuracy_of(row) for row in rows])
    folder = tmp_path / "data" / "nas-latency"
    folder.mkdir(parents=True)
    np.savez(
        folder / "nb201.npz",
        ops=np.array(rows, dtype=np.int8),
        acc=np.stack([cifar100 + 20, cifar100], axis=1).astype(np.float32),
        acc_names=np.array(["cifar10_test_200ep", "cifar100_test_200ep"]),
    )
    monkeypatch.setenv("LAPTIME_DATA", str(tmp_path))
    catalogue._nb201_accuracy.cache_clear()
    return folder


@pytest.fixture
def no_tables(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LAPTIME_DATA", raising=False)


def scorer(space: str) -> Scorer:
    return scorer_for(space, hardware=HARDWARE, predictor=CountingPredictor(), predictor_key="p")


def test_nb201_accuracy_is_the_published_one_and_no_other_is_kept_back(table_folder: Path) -> None:
    row = (3, 1, 2, 3, 4, 3)
    scored = scorer("nb201").score(NB201.genome(row), seed=0)
    assert scored.objectives["accuracy"] == pytest.approx(accuracy_of(row) / 100)
    assert scored.test_accuracy is None
    assert scored.objectives["size_bytes"] > 2 * len(scored.model)  # of the weights, not of the short file


def test_without_the_table_nb201_has_latency_alone(no_tables: None) -> None:
    scored = scorer("nb201").score(NB201.genome((3,) * 6), seed=0)
    assert set(scored.objectives) == set(COSTLESS)
    state = loop.start(SearchRequest(space="nb201"))
    with pytest.raises(RequestRejected, match=r"no 'accuracy' for space 'nb201'.*LAPTIME_DATA.*size_bytes"):
        loop.advance(state, scorer("nb201"))


@pytest.mark.parametrize("space", ["fbnet", "ofa"])
def test_accuracy_that_nobody_has_is_refused_when_it_is_asked(space: str) -> None:
    with pytest.raises(ValueError, match=r"'accuracy'.*no table.*\['latency_ms', 'size_bytes'\]"):
        SearchRequest(space=space)
    assert SearchRequest(space=space, objectives=COSTLESS).space == space
    scorer(space).check(COSTLESS)
    with pytest.raises(RequestRejected, match="nothing is trained; or ask for latency_ms alone"):
        scorer(space).check(("accuracy",))


def test_a_file_without_accuracies_is_named(tmp_path: Path) -> None:
    with pytest.raises(RequestRejected, match=r"nb201\.npz holds no accuracies"):
        nb201_accuracy.load(tmp_path)
    np.savez(tmp_path / "nb201.npz", ops=np.zeros((1, 6)), acc=np.ones((1, 1)), acc_names=np.array(["svhn"]))
    with pytest.raises(RequestRejected, match=r"\['svhn'\].*'cifar100'"):
        nb201_accuracy.load(tmp_path)
    np.savez(tmp_path / "nb201.npz", ops=np.zeros((1, 6)), acc=[[101.0]], acc_names=np.array(["cifar100"]))
    with pytest.raises(RequestRejected, match="between 0 and 100"):
        nb201_accuracy.load(tmp_path)


def test_the_published_table_holds_the_known_optimum(shared_models: Path) -> None:
    folder = shared_models.parent / "data" / "nas-latency"
    if not (folder / nb201_accuracy.FILE).is_file():
        pytest.skip(f"{folder} holds no {nb201_accuracy.FILE}")
    best = max(quality.accuracy for quality in nb201_accuracy.load(folder).table.values())
    assert best == pytest.approx(0.7351, abs=5e-5)


# ---- searches --------------------------------------------------------------------------------------


def searched(request: SearchRequest) -> tuple[SearchState, dict[str, bytes]]:
    state, models = loop.start(request), dict[str, bytes]()
    while state.phase is Phase.PROPOSING:
        step = loop.advance(state, scorer(request.space))
        state = step.state
        models |= step.models
    return state, models


@pytest.mark.parametrize("strategy", ["random", "nsga2"])
def test_nb201_search_finds_fast_and_accurate_cells_that_run(strategy: str, table_folder: Path) -> None:
    objectives = ("accuracy", "latency_ms")
    request = SearchRequest(
        space="nb201", strategy=strategy, trial_count=24, population_size=8, objectives=objectives
    )
    state, models = searched(request)
    front = loop.predicted_front(state)
    assert len(front) > 2
    assert not [trial.failure for trial in state.trials if trial.failure]
    by_latency = sorted(front, key=lambda trial: trial.objectives["latency_ms"])
    accuracies = [trial.objectives["accuracy"] for trial in by_latency]
    assert accuracies == sorted(accuracies)
    assert searched(request)[0] == state
    runs(by_latency[-1].model_sha256, by_latency[-1].input_shapes, models)


def test_fbnet_search_without_accuracy_ends_in_a_front_that_runs() -> None:
    request = SearchRequest(space="fbnet", trial_count=12, population_size=4, objectives=COSTLESS)
    state, models = searched(request)
    [*candidates] = loop.candidates(state)
    assert candidates
    assert all(trial.accuracy is None and trial.size_bytes for trial in state.trials)
    runs(candidates[0].model_sha256, candidates[0].input_shapes, models)
    assert SearchState.from_bytes(state.to_bytes()) == state


def runs(sha256: str | None, shapes: object, models: dict[str, bytes]) -> None:
    assert sha256 is not None
    assert isinstance(shapes, dict)
    images = np.random.default_rng(0).standard_normal((2, 3, 32, 32)).astype(np.float32)
    outputs = cpu_runner().outputs(BuiltModel(models[sha256], shapes), images)
    assert outputs.shape == (2, 100)


def test_the_command_searches_a_published_space(
    tmp_path: Path, no_tables: None, capsys: pytest.CaptureFixture[str]
) -> None:
    rng, builder = np.random.default_rng(0), PublishedBuilder(NB201)
    observations = []
    for _ in range(10):
        built = builder.build(random_genome(NB201, rng), seed=0)
        graph = read_graph(built.model, built.input_shapes)
        median_ms = 0.02 + graph.macs / 4e7
        observations.append(Observation("test", RUNTIME, HARDWARE, graph, median_ms, 0.01 * median_ms))
    facts = TargetFacts(key="test", runtime=RUNTIME, hardware=HARDWARE)
    checkpoint = tmp_path / "predictor.bin"
    checkpoint.write_bytes(adapt(facts, observations).to_bytes())
    run = ["run", "--space", "nb201", "--trials", "4", "--population", "2", "--checkpoint", str(checkpoint)]
    assert main([*run, "--out", str(tmp_path / "refused")]) == 1
    assert "LAPTIME_DATA" in capsys.readouterr().err
    assert main([*run, "--out", str(tmp_path / "front"), "--objectives", *COSTLESS, "--json"]) == 0
    captured = capsys.readouterr()
    report = json.loads(captured.out)
    assert report["trials"] == 4
    assert "accuracy unknown" in captured.err
    assert all((tmp_path / "front" / member["file"]).is_file() for member in report["front"])
