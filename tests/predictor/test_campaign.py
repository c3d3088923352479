"""A campaign goes on where it stopped, and what it found is read back from Parquet as training takes it."""

from __future__ import annotations

import argparse
import dataclasses
import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from devices.engines.fake import FakeEngine
from devices.measurement import UsualSpeed, Verdict
from devices.model_ref import sha256_of
from devices.target import Device, Runtime
from predictor.campaign import command
from predictor.campaign import run as campaign_run
from predictor.campaign.command import HANDLERS, add_commands
from predictor.campaign.dataset import SCHEMA, read_dataset, write_dataset
from predictor.campaign.examples import examples_of, measured_models
from predictor.campaign.run import Built, Campaign, Report, Subject, reference_subjects
from predictor.campaign.store import Campaigner, CampaignFolder, Record
from predictor.errors import PredictorError
from predictor.kernel_costs.table import View
from predictor.kernel_costs.training import TrainingConfig
from predictor.meta_training import train_on_file
from predictor.reading.reader import read_graph
from predictor.reference_set import reference_models
from tests.predictor.synthetic_target import HARDWARE

RUNTIMES = tuple(FakeEngine().runtimes((1, 2)))
DEVICE = Device(key="bench", fingerprint="ab" * 16, hardware=HARDWARE)
# Of a clock that the scripted one is not compared with: its canaries take no time.
CAMPAIGNER = Campaigner(device=DEVICE, usual_speed=UsualSpeed(canary_ns=1e5, clock="another"))
PASSES = 2


def refused() -> Built:
    return b"fake:reject", {}


def subjects() -> list[Subject]:
    """Four reference models, and one that no runtime takes."""
    return [*reference_subjects()[:4], Subject("broken", "broken/1", "fp32", False, refused)]


def campaign(path: Path, report: Report = lambda _: None, *, with_layers: bool = False) -> Campaign:
    folder = CampaignFolder(path)
    folder.keep(CAMPAIGNER)
    return Campaign(
        device=DEVICE,
        runtimes=RUNTIMES,
        subjects=subjects(),
        folder=folder,
        report=report,
        with_layers=with_layers,
    )


def measured_by(monkeypatch: pytest.MonkeyPatch, folder: Path, *arguments: str) -> Campaign:
    """The campaign that a command line asks for, not run."""
    asked: list[Campaign] = []
    monkeypatch.setattr(Campaign, "run", lambda self, _: asked.append(self))
    parser = argparse.ArgumentParser()
    add_commands(parser.add_subparsers(dest="command"))
    assert HANDLERS["campaign"](parser.parse_args(["campaign", "--out", str(folder), *arguments])) == 0
    return asked[0]


def test_a_command_names_the_machine_and_the_kinds_of_models(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = measured_by(
        monkeypatch, tmp_path, "--targets", "onnxruntime/t1", "--device", "board-7", "--kinds", "medleys"
    )
    assert found.device.key == "board-7"
    families = {one.family for one in found.subjects}
    assert "reference" in families
    assert {family.split("-")[0] for family in families} == {"reference", "medley"}
    networks = measured_by(monkeypatch, tmp_path, "--targets", "onnxruntime/t1", "--kinds", "networks")
    assert not any(one.is_sweep for one in networks.subjects)
    everything = measured_by(monkeypatch, tmp_path, "--targets", "onnxruntime/t1")
    assert len(everything.subjects) > len(found.subjects) + len(networks.subjects)
    with pytest.raises(SystemExit):
        measured_by(monkeypatch, tmp_path, "--kinds", "songs")
    assert "'songs' is no list of networks, medleys, sweeps" in capsys.readouterr().err


class Killed(Exception):
    """Stands for a signal."""


def killed_after(batches: int) -> Report:
    said: list[str] = []

    def report(line: str) -> None:
        said.append(line)
        if len(said) == batches:
            raise Killed

    return report


@pytest.fixture(scope="module")
def small_batches() -> Iterator[pytest.MonkeyPatch]:
    patch = pytest.MonkeyPatch()
    patch.setattr(campaign_run, "BATCH", 3)
    yield patch
    patch.undo()


@pytest.fixture(scope="module")
def uninterrupted(
    tmp_path_factory: pytest.TempPathFactory, small_batches: pytest.MonkeyPatch
) -> tuple[Record, ...]:
    folder = tmp_path_factory.mktemp("campaign")
    campaign(folder, with_layers=True).run(PASSES)
    return tuple(CampaignFolder(folder).records())


def test_a_campaign_that_was_killed_goes_on_where_it_stopped(
    uninterrupted: tuple[Record, ...], tmp_path: Path
) -> None:
    with pytest.raises(Killed):
        campaign(tmp_path, killed_after(3)).run(PASSES)
    before = list(CampaignFolder(tmp_path).records())
    assert 0 < len(before) < len(uninterrupted)
    with (tmp_path / "records.jsonl").open("a") as file:
        file.write(before[0].model_dump_json()[:80])  # cut off while it was written
    campaign(tmp_path).run(PASSES)
    after = list(CampaignFolder(tmp_path).records())
    assert after[: len(before)] == before
    places = [record.place for record in after]
    assert len(set(places)) == len(places) == len(subjects()) * len(RUNTIMES) * PASSES
    assert set(places) == {record.place for record in uninterrupted}
    assert medians(after) == medians(uninterrupted)
    campaign(tmp_path).run(PASSES)  # nothing is left to do
    assert list(CampaignFolder(tmp_path).records()) == after


def medians(records: Sequence[Record]) -> dict[object, float | None]:
    return {
        record.place: None if record.measurement is None else record.measurement.estimate.median_ms
        for record in records
    }


def test_records_say_what_they_are_of(uninterrupted: tuple[Record, ...]) -> None:
    by_name = {model.name: model for model in reference_models()}
    assert {record.place.target_key for record in uninterrupted} == {
        f"bench/{runtime.key}" for runtime in RUNTIMES
    }
    for record in uninterrupted:
        if record.family == "broken":
            assert record.measurement is None
            assert "fake:reject" in str(record.refusal)
            assert record.graph_digest == ""
            continue
        model = by_name[record.place.name]
        assert record.graph_digest == read_graph(model.model, model.input_shapes).digest
        assert record.measurement is not None
        assert record.measurement.model.sha256 == sha256_of(model.model)
        assert record.refusal is None


def test_the_order_of_a_pass_is_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Batches of equal numbers hold other models in the next pass."""
    orders: dict[int, list[str]] = {0: [], 1: []}

    def noted(self: CampaignFolder, records: list[Record]) -> None:
        for record in records:
            if record.runtime == RUNTIMES[0]:
                orders[record.place.passed].append(record.place.name)

    monkeypatch.setattr(CampaignFolder, "add", noted)
    monkeypatch.setattr(campaign_run, "run_batch", lambda entries: [PredictorError("made up")] * len(entries))
    campaign(tmp_path).run(PASSES)
    assert sorted(orders[0]) == sorted(orders[1])
    assert orders[0] != orders[1]


def test_the_usual_speed_is_settled_once(
    uninterrupted: tuple[Record, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    measurement = next(one.measurement for one in uninterrupted if one.measurement is not None)
    canaries = iter(range(100_000, 200_000, 1000))
    calls: list[int] = []

    def made_up(entries: Sequence[object]) -> list[object]:
        calls.append(len(entries))
        first, *rest = measurement.rounds
        canary = (next(canaries),) * 5
        rounds = (
            first.model_copy(update={"canary_ns": canary}),
            *(r.model_copy(update={"canary_ns": ()}) for r in rest),
        )
        return [measurement.model_copy(update={"rounds": rounds})] * len(entries)

    monkeypatch.setattr(campaign_run, "run_batch", made_up)
    folder = CampaignFolder(tmp_path)
    plain = Campaign(device=DEVICE, runtimes=RUNTIMES, subjects=(), folder=folder, report=lambda _: None)
    plain.run(1)
    stored = CampaignFolder(tmp_path).campaigner(DEVICE)
    assert stored is not None
    assert stored.usual_speed == UsualSpeed(canary_ns=102_000.0, clock="scripted")  # of five batches
    plain.run(1)
    assert len(calls) == 5


def test_a_folder_of_another_machine_is_refused(tmp_path: Path) -> None:
    started = campaign(tmp_path)
    other = DEVICE.model_copy(update={"key": "other", "fingerprint": "cd" * 16})
    with pytest.raises(PredictorError, match=r"a campaign of bench, this machine is other.*another folder"):
        dataclasses.replace(started, device=other).run(1)
    assert CampaignFolder(tmp_path / "new").campaigner(DEVICE) is None


def test_a_campaign_takes_over_the_usual_speed_of_an_earlier_one(tmp_path: Path) -> None:
    earlier, later = CampaignFolder(tmp_path / "earlier"), CampaignFolder(tmp_path / "later")
    with pytest.raises(PredictorError, match="earlier holds no campaign that has settled"):
        later.take_over(tmp_path / "earlier", DEVICE)
    with pytest.raises(PredictorError, match="nowhere holds no campaign"):
        later.take_over(tmp_path / "nowhere", DEVICE)
    assert not (tmp_path / "nowhere").exists()
    earlier.keep(CAMPAIGNER)
    later.take_over(tmp_path / "earlier", DEVICE)
    assert later.campaigner(DEVICE) == CAMPAIGNER
    own = CAMPAIGNER.model_copy(update={"usual_speed": UsualSpeed(canary_ns=2e5, clock="another")})
    later.keep(own)
    later.take_over(tmp_path / "earlier", DEVICE)  # what a folder has settled stays
    assert later.campaigner(DEVICE) == own


@pytest.fixture
def records(uninterrupted: tuple[Record, ...]) -> list[Record]:
    """All measurements valid but one: so small a batch takes less time than the level asks for."""
    found = []
    for record in uninterrupted:
        if record.measurement is not None:
            verdict = Verdict(is_valid=True)
            record = record.model_copy(
                update={"measurement": record.measurement.model_copy(update={"verdict": verdict})}
            )
        found.append(record)
    at = next(i for i, one in enumerate(found) if one.place.name == "light-convs" and one.place.passed == 1)
    spoilt = found[at].measurement
    assert spoilt is not None
    verdict = Verdict(is_valid=False, reasons=("noisy",))
    found[at] = found[at].model_copy(update={"measurement": spoilt.model_copy(update={"verdict": verdict})})
    return found


def test_parquet_keeps_everything_and_training_reads_what_is_valid(
    records: list[Record], tmp_path: Path
) -> None:
    path = tmp_path / "dataset.parquet"
    assert write_dataset(path, records, CAMPAIGNER, family_version=7) == len(records)
    table = pq.read_table(path)
    assert table.schema.equals(SCHEMA)
    written = {(row["target_key"], row["name"], row["passed"]): row for row in table.to_pylist()}
    assert len(written) == len(records)
    refusals = [row for row in written.values() if row["refusal"] is not None]
    assert len(refusals) == len(RUNTIMES) * PASSES
    assert all(row["median_ms"] is None and not row["is_valid"] for row in refusals)
    assert {row["family_version"] for row in written.values()} == {7}
    rows = read_dataset(path)
    assert len(rows) == 4 * len(RUNTIMES) * PASSES - 1
    for row in rows:
        record = next(
            one
            for one in records
            if (one.place.target_key, one.place.name, one.place.passed)
            == (row.target_key, row.name, row.passed)
        )
        assert record.measurement is not None
        assert row.median_ms == record.measurement.estimate.median_ms
        assert (row.family, row.graph_digest) == (record.family, record.graph_digest)
        assert (row.runtime, row.hardware) == (record.runtime, HARDWARE)
        assert row.layers is not None
        profile = record.measurement.layer_profile
        assert profile is not None
        assert row.layers.coverage == profile.coverage
        assert [(one.name, one.median_ns) for one in row.layers.layers] == [
            (one.name, one.median_ns) for one in profile.layers
        ]
        sample = written[row.target_key, row.name, row.passed]
        taken = record.measurement.samples_ns
        count = min(len(taken), 48)
        evenly = [taken[(2 * part + 1) * len(taken) // (2 * count)] for part in range(count)]  # its middle
        assert sample["samples_ns"] == pytest.approx(evenly, rel=1e-3)


def test_a_dataset_takes_over_the_rows_of_others(records: list[Record], tmp_path: Path) -> None:
    """Another machine's rows are added; of what was measured again, the campaign's own row stands."""
    first, second = tmp_path / "first.parquet", tmp_path / "second.parquet"
    write_dataset(first, records, CAMPAIGNER, family_version=1)
    elsewhere = [
        one.model_copy(update={"place": one.place.model_copy(update={"target_key": "other/x"})})
        for one in records[:3]
    ]
    count = write_dataset(second, [*elsewhere, records[0]], CAMPAIGNER, family_version=2, others=[first])
    assert count == len(records) + 3
    written = pq.read_table(second).to_pylist()
    of_version = {
        (row["target_key"], row["name"], row["passed"]) for row in written if row["family_version"] == 2
    }
    place = records[0].place
    assert (place.target_key, place.name, place.passed) in of_version
    assert len(of_version) == 4
    (tmp_path / "none.parquet").write_bytes(b"no parquet")
    with pytest.raises(PredictorError, match="not a dataset"):
        write_dataset(second, records, CAMPAIGNER, family_version=1, others=[tmp_path / "none.parquet"])


def test_rows_become_models_with_the_mean_of_their_latencies(records: list[Record], tmp_path: Path) -> None:
    path = tmp_path / "dataset.parquet"
    write_dataset(path, records, CAMPAIGNER, family_version=1)
    rows = [
        dataclasses.replace(row, median_ms=row.median_ms * (4.0 if row.passed else 1.0))
        for row in read_dataset(path)
    ]
    data = measured_models(rows)
    assert [model.name for model in data.models] == sorted(one.name for one in subjects()[:4])
    assert [target.key for target in data.targets] == sorted(f"bench/{runtime.key}" for runtime in RUNTIMES)
    for number, model in enumerate(data.models):
        for column, target in enumerate(data.targets):
            own = [row.median_ms for row in rows if (row.name, row.target_key) == (model.name, target.key)]
            assert data.latency_ms[number, column] == pytest.approx(np.exp(np.mean(np.log(own))))
        assert set(model.timed) == {(View.FUSED, 0), (View.FUSED, 1)}
    examples = examples_of(data)
    assert [view.sources.tolist() for view in examples.views] == [[0, 1]]
    assert set(examples.views[0].graphs) == {0, 1, 2, 3}
    changed = [
        dataclasses.replace(row, graph_digest="0" * 64) if row.name == "light-convs" else row for row in rows
    ]
    unknown = [
        dataclasses.replace(row, name="nobody/builds-this") for row in rows if row.name == "light-convs"
    ]
    kept = measured_models([*changed, *unknown])
    assert [model.name for model in kept.models] == [
        model.name for model in data.models if model.name != "light-convs"
    ]


def test_a_dataset_of_the_reference_set_alone_trains_nothing(records: list[Record], tmp_path: Path) -> None:
    path = tmp_path / "dataset.parquet"
    write_dataset(path, records, CAMPAIGNER, family_version=1)
    with pytest.raises(PredictorError, match=r"4 models .* all of the reference set; measure families"):
        train_on_file(path, TrainingConfig(steps=1), command="made up")
    write_dataset(path, [], CAMPAIGNER, family_version=1)
    with pytest.raises(PredictorError, match="0 models"):
        train_on_file(path, TrainingConfig(steps=1), command="made up")


def test_a_file_that_is_no_dataset_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "other.parquet"
    pq.write_table(pa.table({"name": ["a"]}), path)
    with pytest.raises(PredictorError, match=r"other\.parquet (lacks|is not)"):
        read_dataset(path)
    path.write_bytes(b"no parquet")
    with pytest.raises(PredictorError, match="not a dataset"):
        read_dataset(path)
    with pytest.raises(PredictorError, match="missing"):
        read_dataset(tmp_path / "missing.parquet")


def test_a_target_is_named_as_its_key_says_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Where a machine offers all that could be meant, the parts of a target tell which it is."""
    offered = [
        Runtime(engine="torch", version="2.13", threads=1, **dict(zip(_PARTS, parts, strict=True)))
        for parts in itertools.product(("cpu", "cuda"), ("native", "fp16"), ("default", "cuda-graph"))
    ]
    monkeypatch.setattr(command, "available_runtimes", lambda *_: offered)
    wanted = "torch/t1,torch/cuda,torch/cuda/t1/fp16,torch/cuda/fp16/cuda-graph"
    found = measured_by(monkeypatch, tmp_path, "--targets", wanted).runtimes
    assert [runtime.key.partition("/")[2] for runtime in found] == [
        "cpu/t1", "cuda/t1", "cuda/t1/fp16", "cuda/t1/fp16/opt-cuda-graph"
    ]  # fmt: skip
    for nonsense in ("torch/t1/t2", "torch/cuda/gpu", "torch//t1", "nonesuch/t1"):
        with pytest.raises(SystemExit):
            measured_by(monkeypatch, tmp_path, "--targets", nonsense)
        assert f"{nonsense!r}" in capsys.readouterr().err
    with pytest.raises(PredictorError, match="does not offer torch/cuda/t1/bf16/default"):
        measured_by(monkeypatch, tmp_path, "--targets", "torch/cuda/bf16")


_PARTS = ("provider", "precision", "optimization")
