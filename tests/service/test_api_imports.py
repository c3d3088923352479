"""What the API process loads: no training library, so that it starts at once and stays small."""

from __future__ import annotations

import json
import subprocess
import sys

PROBE = """
import json, pathlib, sys, tempfile
from service.app import create_app
from service.settings import Settings
create_app(Settings(data_dir=pathlib.Path(tempfile.mkdtemp()))).openapi()
heavy = {"torch", "sklearn", "onnxruntime", "openvino", "devices.agent", "devices.sandbox", "service.worker"}
print(json.dumps(sorted(heavy & set(sys.modules))))
"""


def test_the_api_loads_neither_training_nor_measuring() -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROBE], capture_output=True, text=True, check=True, timeout=120
    )
    assert json.loads(done.stdout) == []
