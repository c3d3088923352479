"""Trials as rows: written again and again under the same number, so that a repeated step changes nothing."""

from __future__ import annotations

from collections.abc import Iterable

from sqlalchemy.orm import Session

from search.trial import Trial
from service.db import tables


def store_trials(session: Session, search_id: str, trials: Iterable[Trial]) -> None:
    """Insert trials, or update those that are there; a trial's model and measurement are not touched."""
    for trial in trials:
        row = session.get(tables.Trial, (search_id, trial.number))
        if row is None:
            row = tables.Trial(search_id=search_id, number=trial.number)
            session.add(row)
        row.genome = dict(trial.genome.as_dict())
        row.state = trial.state.value
        row.objectives = dict(trial.objectives)
        row.predicted_ms = trial.predicted_ms
        row.predicted_lower_ms = trial.predicted_lower_ms
        row.predicted_upper_ms = trial.predicted_upper_ms
        row.on_predicted_front = trial.on_predicted_front
        row.on_verified_front = trial.on_verified_front
        row.failure = trial.failure
    session.flush()
