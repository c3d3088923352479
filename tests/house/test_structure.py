"""The rules of the house, by tool: imports point down, no cycles, clean types and style, nothing hidden."""

from __future__ import annotations

import ast
import graphlib
import subprocess
import sys
import tomllib
from collections.abc import Collection
from importlib import metadata
from pathlib import Path

import grimp
import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[2]
FLOORS = ("devices", "predictor", "search", "service", "migrations")
SOURCES = sorted(path for floor in (*FLOORS, "benchmarks") for path in (ROOT / floor).rglob("*.py"))


def run_tool(*arguments: str) -> str:
    """What it printed. Fails where it does."""
    done = subprocess.run(
        [sys.executable, *arguments], cwd=ROOT, capture_output=True, text=True, check=False, timeout=280
    )
    assert done.returncode == 0, f"{' '.join(arguments)}:\n{done.stdout[-6000:]}{done.stderr[-3000:]}"
    return done.stdout


def test_style_is_clean() -> None:
    run_tool("-m", "ruff", "check", ".")


def test_types_are_strict_and_clean() -> None:
    run_tool("-m", "mypy")


def test_imports_point_down() -> None:
    command = "from importlinter.cli import lint_imports_command; lint_imports_command()"  # -m does nothing
    assert ", 0 broken." in run_tool("-c", command)


def import_graph() -> grimp.ImportGraph:
    return grimp.build_graph(*FLOORS, cache_dir=None)


def test_module_graph_has_no_cycle() -> None:
    graph = import_graph()
    imports = {module: graph.find_modules_directly_imported_by(module) for module in graph.modules}
    graphlib.TopologicalSorter(imports).prepare()  # raises CycleError and names the cycle


def test_folders_of_a_floor_have_no_cycle_either() -> None:
    graph = import_graph()
    rooms: dict[str, set[str]] = {}
    for module in graph.modules:
        room = ".".join(module.split(".")[:2])
        imported = {".".join(name.split(".")[:2]) for name in graph.find_modules_directly_imported_by(module)}
        rooms.setdefault(room, set()).update(imported - {room})
    graphlib.TopologicalSorter(rooms).prepare()


def test_every_name_imported_by_migrations_is_tables() -> None:
    graph = import_graph()
    ours = {
        imported
        for module in graph.modules
        if module.split(".")[0] == "migrations"
        for imported in graph.find_modules_directly_imported_by(module)
        if imported.split(".")[0] != "migrations"
    }
    assert ours <= {"service.db.tables", "service.db.clock", "service.db"}, ours


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_import_hides_a_cycle(path: Path) -> None:
    tree = ast.parse(path.read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            hidden = [n.lineno for n in ast.walk(node) if isinstance(n, ast.Import | ast.ImportFrom)]
            assert not hidden, f"{path.name}: import inside function {node.name}, line {hidden}"
        if isinstance(node, ast.Name):
            assert node.id != "TYPE_CHECKING", f"{path.name}:{node.lineno}"


def test_init_files_are_light() -> None:
    for path in ROOT.glob("*/**/__init__.py"):
        if path.relative_to(ROOT).parts[0] not in FLOORS:
            continue
        statements = ast.parse(path.read_text()).body
        assert all(isinstance(s, ast.Expr) for s in statements), (
            f"{path.relative_to(ROOT)} holds more than a docstring"
        )


def test_two_distributions_agree_on_the_version() -> None:
    main = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    agent = tomllib.loads((ROOT / "devices" / "pyproject.toml").read_text())["project"]
    assert f"laptime-agent=={agent['version']}" in main["dependencies"]
    assert main["version"] == agent["version"]


def asked_for(name: str, extras: Collection[str]) -> list[Requirement]:
    """What an installed distribution depends on, with these extras, on this machine."""
    requirements = [Requirement(text) for text in metadata.requires(name) or []]
    return [
        one
        for one in requirements
        if one.marker is None or any(one.marker.evaluate({"extra": extra}) for extra in (extras or [""]))
    ]


def test_constraints_pin_all_that_is_needed_within_the_ranges() -> None:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pairs = [line.split("==") for line in lines if not line.startswith("#")]
    pins = {canonicalize_name(name): version for name, version in pairs}
    waiting: list[Requirement] = []
    for file in (ROOT / "pyproject.toml", ROOT / "devices" / "pyproject.toml"):
        project = tomllib.loads(file.read_text())["project"]
        texts = [project["dependencies"], *project["optional-dependencies"].values()]
        waiting += [Requirement(text) for group in texts for text in group]
    seen: set[tuple[str, frozenset[str]]] = set()
    while waiting:
        wanted = waiting.pop()
        name = canonicalize_name(wanted.name)
        key = (name, frozenset(wanted.extras))
        if name.startswith(("laptime", "nvidia-", "cuda-", "triton")):  # ours; and torch pins its own exactly
            continue
        assert name in pins, f"{wanted} is not pinned in constraints.txt"
        assert wanted.specifier.contains(pins[name], prereleases=True), f"{wanted} against {pins[name]}"
        if key not in seen:
            seen.add(key)
            waiting += asked_for(name, wanted.extras)


def test_agent_distribution_lists_every_package_of_its_floor() -> None:
    listed = set(
        tomllib.loads((ROOT / "devices" / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    )
    there = {
        ".".join(path.parent.relative_to(ROOT).parts) for path in (ROOT / "devices").rglob("__init__.py")
    }  # fmt: skip
    assert listed == there


def test_test_files_have_unique_names() -> None:
    names = [path.name for path in (ROOT / "tests").rglob("test_*.py")]
    assert len(names) == len(set(names)), sorted(name for name in names if names.count(name) > 1)


def test_no_machine_is_named() -> None:
    """Only the CI script may know where shared material lies."""
    listed = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    neighbour = "../" + "shared"
    for name in listed.stdout.split():
        if name == ".ci/run":
            continue
        content = (ROOT / name).read_bytes()
        assert neighbour.encode() not in content, name
        assert str(ROOT.parent).encode() + b"/" not in content or len(str(ROOT.parent)) < 5, name
