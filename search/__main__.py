"""`laptime-search run`: a search on this machine, from files alone: a predictor's checkpoint in, a front of
ONNX files out.

The folder given by `--out` holds all there is: `state.json` (after every trial), `models/` (every scored
model by SHA-256), and in the end `front/` with `front.json`. The same command again goes on where it
stopped. Latencies are predictions for the checkpoint's target: nothing is measured here, and the output
says so.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from devices.errors import DevicesError
from devices.model_ref import sha256_of
from predictor.checkpoint import Checkpoint
from predictor.errors import PredictorError
from predictor.predict import Predictor
from search import loop
from search.catalogue import scorer_for
from search.errors import RequestRejected, SearchError, StateRejected
from search.loop import Phase, SearchRequest, SearchState
from search.objectives import OBJECTIVES
from search.scoring import Scorer
from search.spaces.registry import SPACES
from search.strategies.registry import STRATEGIES
from search.trial import Trial

INTERRUPTED = 130  # what a shell reports of a command that Ctrl-C ended


@dataclass(frozen=True, slots=True)
class Folder:
    """The files of one search."""

    root: Path

    @property
    def state(self) -> Path:
        """Rewritten after every trial."""
        return self.root / "state.json"

    def model(self, sha256: str) -> Path:
        """A scored model."""
        return self.root / "models" / f"{sha256}.onnx"

    def front(self, trial: Trial) -> Path:
        """A member of the front, under a name for people."""
        return self.root / "front" / f"trial-{trial.number:04d}.onnx"


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit status: 0 done, 1 refused or failed, 2 wrong usage, 130 interrupted (the state is kept)."""
    options = _parser().parse_args(arguments)
    folder = Folder(options.out)
    try:
        request = _request(options)
        scorer = _scorer(request, options.checkpoint)
        state = _run(_restored(folder, request), scorer, folder)
        report = _publish(state, folder, scorer)
    except KeyboardInterrupt:
        print(f"stopped; the same command goes on from {folder.state}", file=sys.stderr)
        return INTERRUPTED
    except (SearchError, PredictorError, DevicesError, OSError) as error:
        print(f"laptime-search: {error}", file=sys.stderr)
        return 1
    print(json.dumps(report, indent=2) if options.json else _table(state))
    return 0


def _parser() -> argparse.ArgumentParser:
    defaults = SearchRequest()
    parser = argparse.ArgumentParser(prog="laptime-search", description="Search architectures from files.")
    run = parser.add_subparsers(dest="command", required=True).add_parser(
        "run", help="search, or go on with a search"
    )
    run.add_argument("--space", choices=sorted(SPACES), default=defaults.space)
    run.add_argument("--strategy", choices=sorted(STRATEGIES), default=defaults.strategy)
    run.add_argument("--trials", type=int, default=defaults.trial_count, help="genomes to score")
    run.add_argument("--population", type=int, default=defaults.population_size, help="genomes in a batch")
    run.add_argument("--seed", type=int, default=defaults.seed)
    run.add_argument("--objectives", nargs="+", choices=sorted(OBJECTIVES), default=list(defaults.objectives))
    run.add_argument(
        "--max-latency-ms", type=float, default=None, help="predicted latency of the front's members"
    )
    run.add_argument(
        "--checkpoint", type=Path, required=True, help="a predictor's checkpoint, for the target"
    )
    run.add_argument(
        "--out", type=Path, required=True, help="folder of the search; may hold one to go on with"
    )
    run.add_argument("--json", action="store_true", help="the front as JSON on standard output")
    return parser


def _request(options: argparse.Namespace) -> SearchRequest:
    try:
        return SearchRequest(
            space=options.space,
            strategy=options.strategy,
            trial_count=options.trials,
            population_size=options.population,
            seed=options.seed,
            objectives=tuple(options.objectives),
            max_latency_ms=options.max_latency_ms,
        )
    except ValidationError as error:
        problems = (f"{'.'.join(map(str, e['loc'])) or 'request'}: {e['msg']}" for e in error.errors())
        raise RequestRejected("; ".join(problems)) from error


def _scorer(request: SearchRequest, path: Path) -> Scorer:
    data = path.read_bytes()
    checkpoint = Checkpoint.from_bytes(data)
    return scorer_for(
        request.space,
        hardware=checkpoint.provenance.target.hardware,
        predictor=Predictor(checkpoint),
        predictor_key=sha256_of(data),
    )


def _restored(folder: Folder, request: SearchRequest) -> SearchState:
    if not folder.state.exists():
        return loop.start(request)
    state = SearchState.from_bytes(folder.state.read_bytes())
    if state.request != request:
        asked, held = request.model_dump(mode="json"), state.request.model_dump(mode="json")
        differing = ", ".join(
            f"{name} {held[name]} (asked: {asked[name]})" for name in asked if asked[name] != held[name]
        )
        raise StateRejected(f"{folder.state} belongs to another search: {differing}; choose another --out")
    return state


def _run(state: SearchState, scorer: Scorer, folder: Folder) -> SearchState:
    """Trial by trial; models before the state that names them, so that a kill leaves nothing dangling."""
    while state.phase is Phase.PROPOSING:
        step = loop.advance(state, scorer, max_trials=1)
        state = step.state
        for sha256, model in step.models.items():
            _write(folder.model(sha256), model)
        _write(folder.state, state.to_bytes())
        if step.new_trials:
            print(
                f"{len(state.trials)}/{state.request.trial_count}  {_line(state.trials[-1])}", file=sys.stderr
            )
    return state


def _publish(state: SearchState, folder: Folder, scorer: Scorer) -> dict[str, object]:
    """Write the front's files; the report that `front.json` holds."""
    members = loop.predicted_front(state)
    for trial in members:
        if trial.model_sha256 is not None:
            _write(folder.front(trial), folder.model(trial.model_sha256).read_bytes())
    report: dict[str, object] = {
        "request": state.request.model_dump(mode="json"),
        "scorer": scorer.key,
        "trials": len(state.trials),
        "failed": sum(trial.failure is not None for trial in state.trials),
        "latencies": "predicted",
        "front": [
            trial.model_dump(mode="json", exclude={"genome"})
            | {"genome": trial.genome.as_dict(), "file": str(folder.front(trial).relative_to(folder.root))}
            for trial in members
        ],
        "to_measure": [candidate.trial_number for candidate in loop.candidates(state)],
    }
    _write(folder.root / "front.json", json.dumps(report, indent=2).encode())
    return report


def _write(path: Path, data: bytes) -> None:
    """All of it or nothing: a reader, or a resumed search, never sees half a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    with partial.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)


def _table(state: SearchState) -> str:
    members = sorted(loop.predicted_front(state), key=lambda trial: trial.predicted_ms or 0.0)
    failed = sum(trial.failure is not None for trial in state.trials)
    lines = [
        f"{len(state.trials)} trials, {failed} failed; front of {len(members)}, latencies predicted:",
        *(_line(trial) for trial in members),
    ]
    return "\n".join(lines)


def _line(trial: Trial) -> str:
    if trial.failure is not None:
        return f"trial {trial.number:4d}  failed: {trial.failure}"
    return (
        f"trial {trial.number:4d}  accuracy {_share(trial.accuracy)} (test {_share(trial.test_accuracy)})  "
        f"{trial.predicted_ms:.3f} ms [{trial.predicted_lower_ms:.3f}, {trial.predicted_upper_ms:.3f}]  "
        f"{trial.size_bytes} bytes  {trial.genome.to_json()}"
    )


def _share(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.4f}"


if __name__ == "__main__":
    sys.exit(main())
