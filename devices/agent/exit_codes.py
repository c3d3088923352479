"""What the exit status of `laptime-agent` means. Stable: scripts and supervisors rely on it."""

from __future__ import annotations

from enum import IntEnum


class ExitCode(IntEnum):
    """0 is success for each command.

    1 is left to what is wrong with the program itself, as Python uses it.
    """

    OK = 0
    USAGE = 2  # wrong arguments or settings, a file that cannot be read, sizes of dynamic axes missing
    MODEL_REJECTED = 3  # profile: this model can never be measured so
    FAILED = 4  # profile: loading or running the model failed; doctor: a check failed; run: no runtime here
    NOT_VALID = 5  # profile --require-valid: measured, but the verdict is "not valid"
    REFUSED = 6  # run: the server refuses this agent's token, registration or version
    STATE = 7  # run: the state directory is in use by another agent, damaged or not writable
    INTERRUPTED = 130  # profile: Ctrl-C


EPILOG = """exit status:
  0    done; profile: measured, whatever the verdict (a noisy measurement is a result)
  2    wrong arguments or settings; a dynamic axis without a size
  3    profile: the model was rejected
  4    profile: loading or running the model failed; doctor: a check failed; run: nothing to measure with
  5    profile --require-valid: measured, but not valid
  6    run: the server refuses the token, the registration or this version
  7    run: the state directory is in use, damaged or not writable
  130  interrupted"""
