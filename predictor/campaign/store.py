"""What a campaign has found so far: one JSON line for each model on each target, in each pass.

A line is a measurement, valid or not, or a refusal. A campaign that was killed goes on behind its last whole
line.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from pydantic import ValidationError

from devices.measurement import Measurement, UsualSpeed
from devices.target import Device, Runtime, Target
from devices.vocabulary import Value
from predictor.errors import PredictorError

_RECORDS = "records.jsonl"
_MACHINE = "machine.json"


class Place(Value):
    """What a record is of. `name`: of the specimen."""

    target_key: str
    name: str
    passed: int


class Record(Value):
    """One measurement with what it was made of, or why there is none (`refusal`)."""

    place: Place
    runtime: Runtime
    family: str
    precision: str
    is_sweep: bool
    graph_digest: str
    measurement: Measurement | None = None
    refusal: str | None = None


class Campaigner(Value):
    """The machine of a campaign: its facts and its usual speed, which all passes share."""

    device: Device
    usual_speed: UsualSpeed


class CampaignFolder:
    """The folder of a campaign. Raises `PredictorError` where it belongs to another machine."""

    def __init__(self, path: Path) -> None:
        path.mkdir(parents=True, exist_ok=True)
        self._records = path / _RECORDS
        self._machine = path / _MACHINE
        self.known = {record.place for record in self.records()}

    def campaigner(self, device: Device) -> Campaigner | None:
        """What was stored of this machine, if it was."""
        return _stored_in(self._machine.parent, device)

    def take_over(self, other: Path, device: Device) -> None:
        """The usual speed that another campaign of this machine has settled, unless this folder has one.
        Raises `PredictorError` where there is no such campaign.
        """
        if self._machine.exists():
            return
        stored = _stored_in(other, device)
        if stored is None:
            raise PredictorError(f"{other} holds no campaign that has settled this machine's usual speed")
        self.keep(Campaigner(device=device, usual_speed=stored.usual_speed))

    def keep(self, campaigner: Campaigner) -> None:
        """Store what is known of this machine."""
        self._machine.write_text(campaigner.model_dump_json() + "\n", encoding="utf-8")

    def add(self, records: list[Record]) -> None:
        """Append records, on the disk when this returns to the system."""
        lines = "".join(record.model_dump_json() + "\n" for record in records)
        with self._records.open("ab+") as file:
            if file.tell():
                file.seek(-1, os.SEEK_END)
                if file.read(1) != b"\n":
                    file.write(b"\n")  # ends the line that was cut off when the campaign was killed
            file.write(lines.encode())
        self.known |= {record.place for record in records}

    def records(self) -> Iterator[Record]:
        """All whole lines, in the order of their making."""
        if not self._records.exists():
            return
        with self._records.open(encoding="utf-8", errors="replace") as file:
            for line in file:
                try:
                    yield Record.model_validate_json(line)
                except ValidationError:
                    continue  # cut off when the campaign was killed


def _stored_in(folder: Path, device: Device) -> Campaigner | None:
    """What a campaign's folder says of this machine, without looking at what was found."""
    machine = folder / _MACHINE
    if not machine.exists():
        return None
    stored = Campaigner.model_validate_json(machine.read_bytes())
    if stored.device.fingerprint != device.fingerprint:
        raise PredictorError(
            f"{folder} holds a campaign of {stored.device.key}, this machine is {device.key}; "
            "choose another folder"
        )
    return stored


def place_of(target: Target, name: str, passed: int) -> Place:
    """Where a record belongs."""
    return Place(target_key=target.key, name=name, passed=passed)
