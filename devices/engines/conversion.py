"""Converters are programs of their own: they crash on models that they do not understand, tell only their
standard output what they miss, and leave behind memory that a measurement would see. So each runs in a
process apart, inside the limits of the one that starts it, and dies with it.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

# The death signal set here outlasts the program that takes this one's place. Linux only: elsewhere a
# converter whose starter is killed ends at its limit of processor time.
LAUNCH = """
import ctypes, os, signal, sys
if sys.platform == "linux":
    ctypes.CDLL(None).prctl(1, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != int(sys.argv[1]):
        os._exit(1)
os.execv(sys.argv[2], sys.argv[2:])
"""
MEMORY_SIGNS = ("bad_alloc", "Cannot allocate memory", "MemoryError", "alloc failed")
MAX_OUTPUT_CHARACTERS = 4000


@dataclass(frozen=True, slots=True)
class Conversion:
    """How a converter ended: its exit status, negative for a signal, and the end of what it printed."""

    status: int
    output: str

    @property
    def ran_out_of_memory(self) -> bool:
        """Whether it says so."""
        return any(sign in self.output for sign in MEMORY_SIGNS)

    @property
    def last_words(self) -> str:
        """The end of the output on one line."""
        return " ".join(self.output.split())[-MAX_OUTPUT_CHARACTERS // 8 :] or "it printed nothing"


def run_converter(command: Sequence[str], folder: Path) -> Conversion:
    """Run a program in `folder` and wait. `command[0]` is the path of an executable file."""
    done = subprocess.run(
        [sys.executable, "-I", "-c", LAUNCH, str(os.getpid()), *command],
        cwd=folder,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        check=False,
    )
    return Conversion(done.returncode, done.stdout.decode(errors="replace")[-MAX_OUTPUT_CHARACTERS:])
