"""The daemon as a process of its own, for tests that kill it: `python -m tests.devices.agent_program
STATE_DIR URL HANG_FILE ECHO_S`.

The same as `laptime-agent run` except for short retries, and a measurement that hangs in its box while
HANG_FILE exists: a test must be able to kill an agent in the middle of a measurement, and to let the next
start finish the same job.
"""

from __future__ import annotations

import random
import sys
from collections.abc import Callable
from pathlib import Path

from pydantic import SecretStr

from devices.agent.__main__ import run_until_stopped
from devices.agent.daemon import Daemon
from devices.agent.logs import configure_logging
from devices.agent.retry import RetryPolicy
from devices.agent.settings import AgentSettings
from devices.measurement import Measurement
from devices.model_ref import sha256_of
from devices.sandbox import MeasurementRequest, run_measurement
from tests.devices.agent_fake_server import REGISTRATION_TOKEN, RUNTIME
from tests.devices.agent_harness import DEVICE


def main(state_dir: str, server_url: str, hang_file: str, echo_s: str) -> None:
    def measure(
        request: MeasurementRequest,
        model: bytes,
        *,
        on_start: Callable[[int], None] | None,
        cancelled: Callable[[], bool],
    ) -> Measurement:
        if Path(hang_file).exists():
            model = b"fake:hang"
            ref = request.model.model_copy(update={"sha256": sha256_of(model)})
            request = request.model_copy(update={"model": ref})
        return run_measurement(request, model, on_start=on_start, cancelled=cancelled)

    settings = AgentSettings(
        server_url=server_url,
        registration_token=SecretStr(REGISTRATION_TOKEN),
        state_dir=Path(state_dir),
        engines=("fake",),
    )
    configure_logging("INFO")
    daemon = Daemon(
        settings,
        device=DEVICE,
        runtimes=(RUNTIME,),
        rng=random.Random(0),
        run_measurement=measure,
        policy=RetryPolicy(first_s=0.01, cap_s=0.05),
        lease_grace_s=0.05,
        drain_patience_s=1.0,
    )
    run_until_stopped(daemon, echo_s=float(echo_s))


if __name__ == "__main__":
    main(*sys.argv[1:])
