"""Predictors: checkpoints published for a target, and a cache of them ready to predict."""

from __future__ import annotations

import threading
from collections import OrderedDict
from typing import Protocol

from sqlalchemy import Connection, select
from sqlalchemy.orm import Session

from predictor.checkpoint import Checkpoint
from predictor.evaluate import AccuracyCard
from predictor.predict import Predictor
from service import artifacts
from service.artifacts import ArtifactStore, Stored
from service.db import tables
from service.errors import Conflict
from service.ids import new_id

MEDIA_TYPE = "application/vnd.laptime.checkpoint"
CACHE_SIZE = 64


class Answered(Protocol):
    """A target's row, or what was read of it."""

    @property
    def key(self) -> str:
        """Its readable name."""

    @property
    def state(self) -> str:
        """Whether it is ready."""

    @property
    def state_reason(self) -> str | None:
        """Why it is not."""

    @property
    def live_predictor_id(self) -> str | None:
        """Who answers for it."""


class PredictorCache:
    """The most recently used predictors of a process, by the SHA-256 of their checkpoint. Safe to share
    between threads.
    """

    def __init__(self, store: ArtifactStore, *, size: int = CACHE_SIZE) -> None:
        self._store = store
        self._size = size
        self._lock = threading.Lock()
        self._loaded: OrderedDict[str, Predictor] = OrderedDict()
        self._checkpoints: dict[str, str] = {}  # SHA-256 by the row's id: rows never change

    def live(self, connection: Connection, target: Answered) -> tuple[str, Predictor]:
        """The id and the predictor that answer for `target` now. Raises `Conflict` (target_not_ready)."""
        if target.live_predictor_id is None:
            reason = target.state_reason or "its predictor is not adapted yet"
            raise Conflict("target_not_ready", f"target {target.key} is {target.state}: {reason}")
        return target.live_predictor_id, self.get(connection, target.live_predictor_id)

    def get(self, connection: Connection, predictor_id: str) -> Predictor:
        """The predictor of this row, live or not."""
        checkpoint_sha256 = self._checkpoints.get(predictor_id)
        if checkpoint_sha256 is None:
            row = tables.Predictor
            checkpoint_sha256 = connection.scalars(
                select(row.checkpoint_sha256).where(row.id == predictor_id)
            ).one()
            self._checkpoints[predictor_id] = checkpoint_sha256
        return self.load(checkpoint_sha256)

    def load(self, checkpoint_sha256: str) -> Predictor:
        """The predictor with these bytes. Two threads that miss at once both load it, and one is kept."""
        with self._lock:
            known = self._loaded.get(checkpoint_sha256)
            if known is not None:
                self._loaded.move_to_end(checkpoint_sha256)
                return known
        fresh = Predictor(Checkpoint.from_bytes(self._store.read(checkpoint_sha256)))
        with self._lock:
            kept = self._loaded.setdefault(checkpoint_sha256, fresh)
            self._loaded.move_to_end(checkpoint_sha256)
            while len(self._loaded) > self._size:
                self._loaded.popitem(last=False)
        return kept


def publish(
    session: Session, stored: Stored, *, target_id: str, job_id: str, accuracy: AccuracyCard
) -> tables.Predictor:
    """Make an adapted checkpoint, whose bytes are stored, the live predictor of a target: unless retired, it
    is ready.
    """
    artifacts.record(session, stored, media_type=MEDIA_TYPE)
    row = tables.Predictor(
        id=new_id("prd"),
        target_id=target_id,
        job_id=job_id,
        checkpoint_sha256=stored.sha256,
        accuracy=accuracy.model_dump(mode="json"),
    )
    session.add(row)
    session.flush()
    target = session.get_one(tables.Target, target_id)
    target.live_predictor_id = row.id
    if target.state != "retired":  # a runtime that its device no longer offers stays retired
        target.state = "ready"
        target.state_reason = None
    session.flush()
    return row
