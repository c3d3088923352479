"""`python -m service.worker`: one worker process. `laptime worker` becomes it.

SIGTERM or Ctrl-C: finish the step at hand, give the job back, leave. A second one: leave at once; the lease
runs out.
"""

from __future__ import annotations

import argparse
import os
import socket
import sys

import torch
from sqlalchemy.exc import ArgumentError

from service.artifacts import ArtifactStore
from service.db.session import Database
from service.db.upgrade import SchemaOutdated, ensure_current
from service.dependencies import Services
from service.logs import configure_logs
from service.predictors import PredictorCache
from service.settings import Settings
from service.worker.loop import Worker
from service.worker.outages import Interrupted, insist
from service.worker.stopping import StopRequest, stop_on_signals

CONNECTIONS = 4  # the loop and the thread that renews its lease need two


def main() -> int:
    """Run one worker until it is told to stop; the exit code."""
    parser = argparse.ArgumentParser(prog="laptime worker", description="Adapt predictors and run searches.")
    parser.add_argument(
        "--name", default=f"{socket.gethostname()}-{os.getpid()}", help="what logs and jobs call it"
    )
    parser.add_argument("--json", action="store_true", help="log JSON lines on a terminal too")
    arguments = parser.parse_args()
    stop = stop_on_signals()
    try:
        settings = Settings()
        settings.data_dir.mkdir(parents=True, exist_ok=True)
        database = Database(settings.effective_database_url, pool_size=CONNECTIONS)
    except (ValueError, ArgumentError, ImportError, OSError) as error:  # pydantic's error is a ValueError
        return _refuse(f"a setting is wrong: {error}")
    configure_logs(settings.log_level, as_json=arguments.json)
    try:
        serve(settings, database, name=arguments.name[:100], stop=stop)
    except SchemaOutdated as error:
        return _refuse(str(error))
    except Interrupted:
        return 0
    finally:
        database.dispose()
    return 0


def serve(settings: Settings, database: Database, *, name: str, stop: StopRequest) -> None:
    """Work until told to stop. Raises `SchemaOutdated` where the schema is not the one that this version
    needs.
    """
    # one thread: sums in another order are other sums, and a search that is taken over must end the same
    torch.set_num_threads(1)
    insist(lambda: ensure_current(database, settings), stop=stop)
    artifacts = ArtifactStore(settings.artifacts_dir)
    services = Services(settings, database, artifacts, PredictorCache(artifacts))
    Worker(services, name=name, stop=stop).run()


def _refuse(message: str) -> int:
    print(f"laptime worker: {message}", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
