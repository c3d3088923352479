"""Turns on a device that processes share, by locks on two files: many may prepare at once, one times alone.

An accelerator serves all processes of a machine in slices, so what one loads is in what another times. The
kernel lets go of a lock however its holder ends.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager

_DOOR = ".door"  # held by whoever waits to be alone, so that newcomers queue behind


@contextmanager
def among_others(file: str) -> Iterator[None]:
    """Nobody who is alone is on the device while this lasts; "" names no device, and waits for nobody."""
    if not file:
        yield
        return
    with _locked(file + _DOOR, fcntl.LOCK_EX):
        inside = _lock(file, fcntl.LOCK_SH)
    try:
        yield
    finally:
        os.close(inside)


@contextmanager
def alone(file: str) -> Iterator[None]:
    """Nobody else is on the device while this lasts; "" names no device, and waits for nobody."""
    if not file:
        yield
        return
    with _locked(file + _DOOR, fcntl.LOCK_EX), _locked(file, fcntl.LOCK_EX):
        yield


@contextmanager
def _locked(file: str, kind: int) -> Iterator[None]:
    descriptor = _lock(file, kind)
    try:
        yield
    finally:
        os.close(descriptor)


def _lock(file: str, kind: int) -> int:
    """A descriptor that holds the lock until it is closed."""
    descriptor = os.open(file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    fcntl.flock(descriptor, kind)
    return descriptor
