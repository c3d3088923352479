"""The agent installs alone: no module of the bottom floor loads what only the floors above depend on."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
FORBIDDEN = ("torch", "sqlalchemy", "alembic", "fastapi", "starlette", "onnx", "optuna", "sklearn", "scipy")
PROGRAM = """
import importlib, json, pkgutil, sys
sys.path.insert(0, sys.argv[1])
import devices
names = [module.name for module in pkgutil.walk_packages(devices.__path__, "devices.")]
for name in names:
    if name.startswith("devices.engines.torch"):
        continue  # an extra of the agent, which imports it only where a setting names it
    try:
        importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name not in ("openvino", "MNN", "ncnn"):  # extras too
            raise
print(json.dumps({"imported": names, "loaded": sorted({name.split(".")[0] for name in sys.modules})}))
"""


def test_no_module_of_devices_loads_what_the_floors_above_need() -> None:
    done = subprocess.run(
        [sys.executable, "-I", "-c", PROGRAM, str(ROOT)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    # libraries print too, some of them when the process ends
    seen = json.loads(next(line for line in done.stdout.splitlines() if line.startswith("{")))
    expected = {
        ".".join(path.relative_to(ROOT).with_suffix("").parts)
        for path in (ROOT / "devices").rglob("*.py")
        if path.name != "__init__.py"
    }
    assert expected <= set(seen["imported"])  # the check has seen them all
    assert not set(FORBIDDEN) & set(seen["loaded"])
    assert not {"predictor", "search", "service"} & set(seen["loaded"])
