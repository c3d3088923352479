"""Tables from files, published tasks on them, and what a method may read."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from predictor.benchmarks.errors import BudgetExceeded, NotGranted, TableRejected, TaskRejected
from predictor.benchmarks.tables import DATA_VARIABLE, LatencyTable, data_folder, load_candidates, load_table
from predictor.benchmarks.tasks import Split, meter_of, read_splits, scored_rows, source_of, task_of
from tests.predictor.published_tables import (
    SOURCES,
    SPLIT,
    made_up_task,
    nb201_table,
    with_counts,
    write_tables,
)


class TestTables:
    def test_a_table_comes_back_from_its_file(self, tmp_path: Path) -> None:
        table = nb201_table()
        write_tables(tmp_path, table)
        read = load_table("nb201", tmp_path)
        assert read.devices == table.devices
        assert np.array_equal(read.genomes, table.genomes)
        assert np.array_equal(read.reference, table.reference)
        assert read.latency_ms == pytest.approx(table.latency_ms, rel=1e-6)
        assert np.array_equal(read.column("watch"), read.latency_ms[:, 5])
        assert len(load_candidates(tmp_path).rows) == 120

    @pytest.mark.parametrize(
        ("change", "said"),
        [
            ({"latency_ms": None}, "has no latency_ms"),
            ({"latency_ms": np.ones((240, 5))}, "6 devices"),
            ({"latency_ms": np.ones(240)}, "latencies"),
            ({"latency_ms": np.zeros((240, 6))}, "positive milliseconds"),
            ({"ops": np.zeros((240, 7), dtype=np.int8)}, "genomes of 6"),
            ({"ops": np.zeros((239, 6), dtype=np.int8)}, "239"),
            ({"help_ref_idx": np.asarray([3, 240])}, "3 to 240"),
            ({"devices": np.asarray([{}] * 6)}, "no readable table"),
        ],
        ids=lambda value: value if isinstance(value, str) else None,
    )
    def test_a_broken_table_is_refused_with_what_is_wrong(
        self, tmp_path: Path, change: dict[str, np.ndarray | None], said: str
    ) -> None:
        write_tables(tmp_path, nb201_table())
        with np.load(tmp_path / "nb201.npz") as archive:
            arrays = {**archive, **change}
        kept = {name: value for name, value in arrays.items() if value is not None}
        np.savez(tmp_path / "nb201.npz", **kept)  # type: ignore[arg-type]
        with pytest.raises(TableRejected, match=said):
            load_table("nb201", tmp_path)

    def test_files_that_are_no_tables_are_refused(self, tmp_path: Path) -> None:
        with pytest.raises(TableRejected, match="does not exist"):
            load_table("fbnet", tmp_path)
        (tmp_path / "fbnet.npz").write_bytes(b"PK\x03\x04 not quite")
        with pytest.raises(TableRejected, match="no readable table"):
            load_table("fbnet", tmp_path)
        with pytest.raises(TableRejected, match=r"splits\.json"):
            read_splits(tmp_path)

    @pytest.mark.parametrize("place", ["", "nas-latency", "data/nas-latency"])
    def test_the_folder_may_be_named_from_above(
        self, tmp_path: Path, place: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (tmp_path / place).mkdir(parents=True, exist_ok=True)
        write_tables(tmp_path / place, nb201_table())
        assert data_folder(tmp_path) == tmp_path / place
        monkeypatch.setenv(DATA_VARIABLE, str(tmp_path))
        assert data_folder(None) == tmp_path / place

    def test_no_folder_is_an_error_with_a_remedy(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with pytest.raises(TableRejected, match=r"nb201\.npz"):
            data_folder(tmp_path)
        monkeypatch.delenv(DATA_VARIABLE, raising=False)
        with pytest.raises(TableRejected, match="--data"):
            data_folder(None)


class TestTasks:
    def test_help_reads_the_first_rows_and_the_references_and_scores_the_next_thousand(self) -> None:
        table = nb201_table(rows=2000)
        references = np.asarray([1950, 3, 1200])
        table = LatencyTable("nb201", table.genomes, table.devices, table.latency_ms, references)
        task = task_of(Split("h", "nb201", SOURCES[:3], SOURCES[3:], ("fpga",), "help"), table)
        assert np.array_equal(task.source_rows, [*range(900), 1200, 1950])
        assert np.array_equal(task.pool, np.arange(900))
        assert np.array_equal(task.query, np.arange(900, 1900))
        assert task.trim == 0.1
        fewer = task_of(
            Split("h", "nb201", SOURCES, (), ("fpga",), "help"), table, source_samples=50
        )  # fmt: skip
        assert np.array_equal(fewer.source_rows, [*range(50), 1200, 1950])

    def test_nasflat_draws_its_source_rows_once_with_the_references_among_them(self) -> None:
        table = nb201_table()
        task, again = made_up_task(table), made_up_task(table)
        assert len(task.source_rows) == 60
        assert set(range(10)) <= set(task.source_rows.tolist())
        assert np.array_equal(task.source_rows, again.source_rows)
        assert np.array_equal(task.query, np.arange(240))
        assert np.array_equal(task.pool, np.arange(240))

    def test_missing_devices_are_named(self, tmp_path: Path) -> None:
        table = nb201_table(rows=600)
        write_tables(tmp_path, table)
        splits = read_splits(tmp_path)
        task = task_of(splits["made-up"], table)
        assert task.test == ("fpga", "watch")
        assert "unknown-dsp" in task.note
        with pytest.raises(TaskRejected, match="unknown-tpu"):
            task_of(splits["N1"], table)

    @pytest.mark.parametrize(
        ("train", "test", "said"),
        [
            (("phone", "fpga"), ("fpga",), "fpga teaches and is tested"),
            ((), ("fpga",), "name source devices"),
            (SOURCES, ("nothing",), "has no nothing"),
        ],
    )
    def test_impossible_splits_are_refused(
        self, train: tuple[str, ...], test: tuple[str, ...], said: str
    ) -> None:
        with pytest.raises(TaskRejected, match=said):
            task_of(Split("s", "nb201", train, (), test, "all"), nb201_table(), source_samples=60)

    @pytest.mark.parametrize("samples", [9, 241])
    def test_source_samples_must_be_there(self, samples: int) -> None:
        with pytest.raises(TaskRejected, match=str(samples)):
            made_up_task(nb201_table(), source_samples=samples)

    def test_too_short_a_table_has_no_help_query(self) -> None:
        with pytest.raises(TaskRejected, match="the table has 1000"):
            made_up_task(nb201_table(rows=1000), query="help")


class TestGrant:
    def test_a_source_knows_its_devices_where_they_were_measured_and_nothing_else(self) -> None:
        table = nb201_table(rows=2000)
        split = Split("h", "nb201", SOURCES[:3], SOURCES[3:], ("fpga",), "help")
        task = task_of(split, table)
        source = source_of(task, table, with_counts(table))
        outside = np.setdiff1d(np.arange(2000), task.source_rows)
        assert np.isnan(source.latency_ms[outside]).all()
        assert np.array_equal(source.latency_ms[task.source_rows], table.latency_ms[task.source_rows, :3])
        assert np.array_equal(source.measured, task.source_rows)
        assert source.devices == SOURCES[:3]
        may_validate = np.union1d(task.source_rows, task.query)
        assert np.array_equal(np.flatnonzero(np.isfinite(source.validation_ms[:, 0])), may_validate)

    def test_a_meter_stops_at_its_budget_and_charges_once(self) -> None:
        table = nb201_table()
        meter = meter_of(made_up_task(table), table, "fpga", budget=4, selection="random", seed=0)
        drawn = meter.draw(4)
        assert np.array_equal(meter.measure(drawn[:3]), table.column("fpga")[drawn[:3]])
        assert np.array_equal(meter.measure(drawn[:2]), table.column("fpga")[drawn[:2]])
        assert meter.spent == 3
        with pytest.raises(BudgetExceeded, match="the budget is 4"):
            meter.measure([int(drawn[3]), 0, 1])
        assert np.array_equal(meter.measured, np.sort(drawn[:3]))

    def test_chance_offers_only_what_it_drew_and_the_references(self) -> None:
        table = nb201_table()
        task = made_up_task(table)
        random = meter_of(task, table, "fpga", budget=12, selection="random", seed=0)
        random.measure(table.reference)
        other = int(np.setdiff1d(task.pool, [*random.draw(12), *table.reference])[0])
        with pytest.raises(NotGranted, match="random selection"):
            random.measure([other])
        active = meter_of(task, table, "fpga", budget=12, selection="active", seed=0)
        assert active.measure([other]) == pytest.approx(table.column("fpga")[other])

    def test_draws_depend_on_seed_and_device_only(self) -> None:
        table = nb201_table()
        task = made_up_task(table)

        def draw(device: str, seed: int, budget: int) -> list[int]:
            meter = meter_of(task, table, device, budget=budget, selection="random", seed=seed)
            return meter.draw(8).tolist()

        assert draw("fpga", 1, 8) == draw("fpga", 1, 20)
        assert draw("fpga", 1, 8) != draw("fpga", 2, 8)
        assert draw("fpga", 1, 8) != draw("watch", 1, 8)

    def test_scoring_drops_both_tails_and_what_was_measured(self) -> None:
        table = nb201_table(rows=2000)
        task = task_of(Split(SPLIT.name, "nb201", SOURCES, (), ("fpga",), "help"), table)
        latency = np.arange(2000, 0, -1).astype(np.float64)
        assert np.array_equal(scored_rows(task, latency, np.asarray([5, 1000])),
                              np.setdiff1d(np.arange(1000, 1800), [1000]))  # fmt: skip
        everything = made_up_task(nb201_table())
        assert len(scored_rows(everything, latency[:240], np.arange(3))) == 237
