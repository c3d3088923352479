"""Damaged ONNX files in great numbers: reading one ends with a graph or a refusal, quickly, in little memory,
and touches no file.

    python -m benchmarks.fuzz_models --seconds 600 [--seed 0] [--models DIR] [--output DIR]

Cases run in child processes, two thousand each, so that a crash in native code is one finding and not the
end. A finding is another exception than `GraphRejected`, a file or socket that is opened, a case that takes
too long or too much memory, or a child that dies. The file that caused it is kept in the output folder,
beside a log that tells how far each seed has come: a second run goes on where the first stopped. Exit 1 where
there are findings.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import multiprocessing
import random
import resource
import signal
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from time import monotonic
from types import FrameType

import numpy as np

from benchmarks.model_mutations import mutated_bytes, mutated_graph
from predictor.errors import GraphRejected
from predictor.kernel_costs.pricing import encode
from predictor.kernel_costs.table import View
from predictor.networks.registry import FAMILIES
from predictor.reading.reader import read_graph, read_inputs, summarise
from predictor.reference_set import reference_models

BATCH = 2000  # cases of one child
MAX_CASE_S = 10
MAX_CHILD_BYTES = 4 << 30  # of address space
_TOUCHING = ("open", "os.", "socket.", "subprocess.", "shutil.", "glob.", "tempfile.")


class TookTooLong(BaseException):
    """A case is over its time. No `Exception`: nothing on the way may swallow it."""


@dataclass(slots=True)
class Report:
    """What came of some cases: the outcome of each, and what should not have been, with the case's number."""

    done: int = 0
    outcomes: list[str] = field(default_factory=list)
    findings: list[tuple[int, str]] = field(default_factory=list)
    slowest_s: float = 0.0


def outcome(data: bytes) -> str:
    """What reading comes to: "graph", or why it was refused. Whatever else happens, happens to the caller."""
    try:
        for spec in read_inputs(data):
            assert spec.name is not None
        graph = read_graph(data, {})
        summarise(graph)
        encoded = encode(graph, tuple(View))
        if not all(np.isfinite(features).all() for features in encoded.features.values()):
            return "!features that are not finite"
    except GraphRejected as refusal:
        return refusal.code.value if str(refusal).strip() else "!a refusal without a message"
    return "graph"


def case(seed: int, number: int, seeds: Sequence[bytes]) -> bytes:
    """One damaged file."""
    rng = random.Random(f"{seed}/{number}")
    data = rng.choice(seeds)
    change = rng.random()
    if change < 0.65:
        data = mutated_graph(data, rng)
    if change > 0.55:
        data = mutated_bytes(data, rng, seeds)
    return data


def seeds_of(folder: Path | None, *, max_bytes: int = 3 << 20) -> list[bytes]:
    """Whole files to damage: the reference set, networks of the published spaces, and those of a folder."""
    found = [reference.model for reference in reference_models()]
    for family in FAMILIES.values():
        genome = family.canonical([options[-1] for options in family.options])
        found.append(family.network(genome))
    if folder is not None:
        found += [file.read_bytes() for file in sorted(folder.glob("*.onnx"))]
    return [data for data in found if len(data) <= max_bytes]


def run_batch(seed: int, first: int, count: int, seeds: Sequence[bytes]) -> Report:
    """Cases `first` to `first + count`, in a child process."""
    return boxed(partial(_cases, seed, first, count, seeds), first=first)


def boxed(files: Callable[[], Iterable[bytes]], *, first: int = 0) -> Report:
    """What comes of reading files, one after the other, in a child process; cases are numbered from
    `first`.
    """
    told, tell = multiprocessing.Pipe(duplex=False)
    context = multiprocessing.get_context("spawn")  # a fork would share the locks of threads that it has not
    child = context.Process(target=_child, args=(tell, files, first), daemon=True)
    child.start()
    tell.close()
    report, current = Report(), first
    while True:
        try:
            message = told.recv()
        except EOFError:
            break
        if isinstance(message, Report):
            report = message
            break
        current = message
    child.join(timeout=MAX_CASE_S)
    if child.exitcode != 0:  # killed by what it read: the cases before it were fine
        report.done = current - first + 1
        report.findings.append((current, f"the process died with exit code {child.exitcode}"))
    return report


def _cases(seed: int, first: int, count: int, seeds: Sequence[bytes]) -> Iterator[bytes]:
    for number in range(first, first + count):
        yield case(seed, number, seeds)


def _child(tell: Connection, files: Callable[[], Iterable[bytes]], first: int) -> None:
    resource.setrlimit(resource.RLIMIT_AS, (MAX_CHILD_BYTES, MAX_CHILD_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    signal.signal(signal.SIGALRM, _too_long)
    touched: list[str] = []
    watching = [False]

    def watch(event: str, arguments: tuple[object, ...]) -> None:
        if watching[0] and event.startswith(_TOUCHING):
            touched.append(f"{event}{arguments}"[:200])

    outcome(reference_models()[0].model)  # what is imported or warmed up late is no finding
    sys.addaudithook(watch)
    report = Report()
    for number, data in enumerate(files(), first):
        tell.send(number)
        touched.clear()
        watching[0] = True
        began = monotonic()
        found = _judged(data)
        report.slowest_s = max(report.slowest_s, monotonic() - began)
        watching[0] = False
        report.done += 1
        if touched:
            report.findings.append((number, f"touched {touched[0]}"))
        if found.startswith("!"):
            report.findings.append((number, found[1:]))
        report.outcomes.append(found.split(":")[0])
    tell.send(report)


def _judged(data: bytes) -> str:
    signal.alarm(MAX_CASE_S)
    try:
        return outcome(data)
    except TookTooLong:
        return f"!hang: over {MAX_CASE_S} s"
    except Exception as error:  # noqa: BLE001 - whatever it is, it is the finding
        at = error.__traceback__
        while at is not None and at.tb_next is not None:  # not by `traceback`, which opens the source
            at = at.tb_next
        where = "" if at is None else f" ({at.tb_frame.f_code.co_filename}:{at.tb_lineno})"
        return f"!{type(error).__name__}: {error}{where}"
    finally:
        signal.alarm(0)


def _too_long(_signal: int, _frame: FrameType | None) -> None:
    raise TookTooLong


def fuzz(
    seed: int, seeds: Sequence[bytes], *, seconds: float, folder: Path, report: Callable[[str], None]
) -> int:
    """Batches until the time is up, going on where the folder's log ends. How many findings."""
    folder.mkdir(parents=True, exist_ok=True)
    log = folder / "log.jsonl"
    lines = [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []
    first = max((line["first"] + line["done"] for line in lines if line["seed"] == seed), default=0)
    end, totals, findings = monotonic() + seconds, Counter[str](), 0
    while monotonic() < end:
        batch = run_batch(seed, first, BATCH, seeds)
        for number, what in batch.findings:
            data = case(seed, number, seeds)
            (folder / f"{hashlib.sha256(data).hexdigest()[:16]}.onnx").write_bytes(data)
            report(f"case {number}: {what}")
        line = {
            "seed": seed, "first": first, "done": batch.done, "outcomes": dict(Counter(batch.outcomes)),
            "findings": batch.findings, "slowest_s": round(batch.slowest_s, 3),
        }  # fmt: skip
        with log.open("a") as file:
            file.write(json.dumps(line) + "\n")
        first += batch.done
        totals.update(batch.outcomes)
        findings += len(batch.findings)
    report(f"seed {seed}: {first} cases so far, now {totals.total()}: {dict(totals)}; {findings} findings")
    return findings


def main(arguments: Sequence[str] | None = None) -> int:
    """Run from the command line; 1 where something was found."""
    parser = argparse.ArgumentParser(
        prog="benchmarks.fuzz_models", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--models", type=Path, help="folder of further ONNX files to damage")
    parser.add_argument("--output", type=Path, default=Path(".laptime/fuzz_models"))
    options = parser.parse_args(arguments)
    seeds = seeds_of(options.models)
    found = fuzz(options.seed, seeds, seconds=options.seconds, folder=options.output, report=print)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
