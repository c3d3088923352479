"""HELP, its kin and BRP-NAS behind the seam of the benchmarks: budgets, determinism, checkpoints."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np
import pytest

from predictor.benchmarks.brpnas import BrpNas, BrpNasConfig
from predictor.benchmarks.errors import BenchmarkRejected
from predictor.benchmarks.help_method import HelpMethod
from predictor.benchmarks.method import Floats, Meter, Method, Source
from predictor.help.config import HELP, MAML, META_SGD, PUBLISHED, HelpConfig
from predictor.help.meta_testing import rank_correlation
from tests.predictor.synthetic_devices import MEASURED, REFERENCE, device_ms, synthetic_source

QUICK = {"width": 16, "episodes": 80, "tasks": 3, "query": 100, "outer_rate": 3e-3}
CONFIGS = {"help": HELP, "maml": MAML, "metasgd": META_SGD}


def target_ms(source: Source) -> Floats:
    return device_ms(source.architectures.genomes, np.random.default_rng(77), 0.4)


def meter(source: Source, budget: int, selection: Literal["random", "active"] = "random") -> Meter:
    latency_ms = target_ms(source)
    return Meter(
        lambda row: float(latency_ms[row]),
        pool=np.arange(MEASURED),
        budget=budget,
        selection=selection,
        rng=np.random.default_rng(5),
        reference=source.reference,
    )


def method(key: str, folder: Path) -> Method:
    if key == "brpnas":
        return BrpNas(BrpNasConfig(width=32, epochs=80))
    config: HelpConfig = replace(CONFIGS[key], **QUICK)  # type: ignore[arg-type]
    return HelpMethod(config, folder=folder, report=lambda _: None)


@pytest.mark.parametrize("key", ["help", "maml", "metasgd", "brpnas"])
def test_budgets_are_kept_and_answers_repeat(key: str, tmp_path: Path) -> None:
    source = synthetic_source(1)
    trained = method(key, tmp_path).train(source)
    latency_ms = target_ms(source)
    for budget in (10, 14, 20):
        answers = []
        for _ in range(2):
            given = meter(source, budget)
            predicted = trained.adapt(given).predict(source.query)
            assert given.spent <= budget
            answers.append(predicted.median_ms)
        assert np.array_equal(*answers)
        assert (answers[0] > 0).all()
        assert predicted.score is not None
        order = np.argsort(predicted.score)
        assert (np.diff(predicted.median_ms[order]) >= 0).all()
    error = np.abs(answers[0] / latency_ms[source.query] - 1.0)
    assert error.mean() < 0.25
    assert rank_correlation(answers[0], latency_ms[source.query]) > 0.4


def test_help_measures_the_references_and_its_kin_do_not(tmp_path: Path) -> None:
    source = synthetic_source(1)
    ten, drawn = meter(source, 10), meter(source, 10)
    method("help", tmp_path).train(source).adapt(ten)
    assert ten.measured.tolist() == REFERENCE.tolist()
    method("metasgd", tmp_path).train(source).adapt(drawn)
    assert drawn.measured.tolist() == sorted(drawn.draw(10).tolist())
    with pytest.raises(BenchmarkRejected, match="budget of 9 measurements is less than the 10"):
        method("help", tmp_path).train(source).adapt(meter(source, 9))


def test_nothing_unmeasured_of_the_target_is_needed(tmp_path: Path) -> None:
    """Source devices that do not know the drawn architectures still give the labels a scale."""
    source = synthetic_source(1)
    given = meter(source, 20)
    forgotten = source.latency_ms.copy()
    forgotten[np.setdiff1d(given.draw(20), REFERENCE)] = np.nan
    trained = method("metasgd", tmp_path).train(replace(source, latency_ms=forgotten))
    predicted = trained.adapt(given).predict(source.query)
    assert rank_correlation(predicted.median_ms, target_ms(source)[source.query]) > 0.4


def test_second_training_reads_the_checkpoint_of_the_first(tmp_path: Path) -> None:
    source = synthetic_source(1)
    lines: list[str] = []
    config = replace(HELP, width=16, episodes=2, tasks=3, query=30)
    for _ in range(2):
        HelpMethod(config, folder=tmp_path, report=lines.append).train(source)
    assert len(lines) == 1
    HelpMethod(replace(config, seed=4), folder=tmp_path, report=lines.append).train(source)
    assert len(lines) == 2
    assert len(list(tmp_path.iterdir())) == 2


def test_published_label_scale_is_refused_where_measurements_are_counted(tmp_path: Path) -> None:
    with pytest.raises(BenchmarkRejected, match="reads the whole table"):
        HelpMethod(PUBLISHED, folder=tmp_path, report=lambda _: None)
