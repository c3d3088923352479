"""The machine's usual speed: what its canary took during its first measurements, kept in the state directory.

The first processes that measured fill a history, and its median is the usual speed: so milliseconds at the
usual speed are, on the whole, those that were observed. It is complete after the reference set of one target
and then never moves, because measurements are to be compared over months. It begins anew when the machine,
numpy (the canary is its code) or the protocol has changed.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

import numpy as np
from pydantic import ValidationError

from devices.agent.files import write_durably
from devices.agent.logs import event
from devices.agent.work import RunMeasurement
from devices.engines.registry import SCRIPTED_ENGINES
from devices.hardware import read_fingerprint
from devices.measurement import PROTOCOL_VERSION, Measurement, UsualSpeed
from devices.profile import MeasurementRequest
from devices.speed import process_canaries_ns
from devices.statistics import median
from devices.vocabulary import Value

FILE = "usual-speed.json"
MIN_HISTORY = 4  # processes: what one measurement at level standard takes
FULL_HISTORY = 24
log = logging.getLogger(__name__)


class SpeedHistory(Value):
    """The file: the canary time of each of the first processes, and what it holds for."""

    canary_ns: tuple[float, ...] = ()
    clock: str = ""
    fingerprint: str
    numpy_version: str = np.__version__
    protocol_version: int = PROTOCOL_VERSION

    @property
    def usual_speed(self) -> UsualSpeed | None:
        """None while too little is known."""
        if len(self.canary_ns) < MIN_HISTORY:
            return None
        return UsualSpeed(canary_ns=median(self.canary_ns), clock=self.clock)

    def holds_where(self, other: SpeedHistory) -> bool:
        """Whether both are about the same machine, canary and protocol."""
        facts = ("fingerprint", "numpy_version", "protocol_version")
        return all(getattr(self, fact) == getattr(other, fact) for fact in facts)


class AtUsualSpeed:
    """A `RunMeasurement` that reports measurements on the processor at the machine's usual speed."""

    def __init__(self, run_measurement: RunMeasurement, state_dir: Path) -> None:
        self._run_measurement = run_measurement
        self._file = state_dir / FILE
        self._history: SpeedHistory | None = None

    @property
    def is_settled(self) -> bool:
        """Whether the usual speed is known for good: from now on measurements compare with each other."""
        self._history = self._history or self._stored()
        return len(self._history.canary_ns) >= FULL_HISTORY

    def __call__(
        self,
        request: MeasurementRequest,
        model: bytes,
        *,
        on_start: Callable[[int], None] | None,
        cancelled: Callable[[], bool],
    ) -> Measurement:
        """See `RunMeasurement`."""
        if request.runtime.provider != "cpu" or request.runtime.engine in SCRIPTED_ENGINES:
            return self._run_measurement(request, model, on_start=on_start, cancelled=cancelled)
        history = self._history = self._history or self._stored()
        request = request.model_copy(update={"usual_speed": history.usual_speed})
        measurement = self._run_measurement(request, model, on_start=on_start, cancelled=cancelled)
        if measurement.verdict.is_valid and len(history.canary_ns) < FULL_HISTORY:
            self._learn(history, measurement)
        return measurement

    def _learn(self, history: SpeedHistory, measurement: Measurement) -> None:
        canary_ns = (*history.canary_ns, *process_canaries_ns(measurement.counted_rounds))
        self._history = history.model_copy(
            update={"canary_ns": canary_ns[:FULL_HISTORY], "clock": measurement.clock}
        )
        try:
            self._file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            write_durably(self._file, self._history.model_dump_json().encode())
        except OSError as error:  # it holds for this process, and the next one learns it again
            log.warning(event("usual_speed_not_stored", file=str(self._file), reason=error.strerror))

    def _stored(self) -> SpeedHistory:
        fresh = SpeedHistory(fingerprint=read_fingerprint())
        try:
            stored = SpeedHistory.model_validate_json(self._file.read_bytes())
        except (OSError, ValidationError):
            return fresh
        return stored if stored.holds_where(fresh) else fresh
