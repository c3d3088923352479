"""Documentation is tested: what it names exists, and what exists is named."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from devices.agent.settings import AgentSettings
from predictor.reference_set import reference_models
from service.app import create_app
from service.settings import Settings

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"


def all_docs() -> str:
    return "\n".join(path.read_text() for path in [ROOT / "README.md", *sorted(DOCS.rglob("*.md"))])


def make_targets() -> set[str]:
    return set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))


def test_every_make_target_that_is_named_exists() -> None:
    named = set(re.findall(r"(?:`|^)make ([a-z-]+)", all_docs(), re.MULTILINE))
    assert named <= make_targets(), named - make_targets()


def test_every_make_target_explains_itself() -> None:
    text = (ROOT / "Makefile").read_text()
    phony = re.search(r"^\.PHONY: (.+)$", text, re.MULTILINE)
    assert phony is not None
    for target in phony.group(1).split():
        assert re.search(rf"^{target}:.*## ", text, re.MULTILINE), target


@pytest.mark.parametrize(("prefix", "settings"), [("LAPTIME_", Settings), ("LAPTIME_AGENT_", AgentSettings)])
def test_every_setting_is_documented(prefix: str, settings: type[Settings] | type[AgentSettings]) -> None:
    text = (DOCS / "settings.md").read_text()
    for name in settings.model_fields:
        assert f"`{prefix}{name.upper()}`" in text, f"{prefix}{name.upper()}"


def test_every_route_is_documented(tmp_path: Path) -> None:
    text = (DOCS / "api.md").read_text()
    app = create_app(Settings(data_dir=tmp_path))
    for path, operations in app.openapi()["paths"].items():
        for method in operations:
            assert f"`{method.upper()} {path}`" in text, f"{method.upper()} {path}"


def test_every_reference_model_is_documented() -> None:
    text = (DOCS / "measuring.md").read_text() + (DOCS / "predicting.md").read_text()
    for model in reference_models():
        assert f"`{model.name}`" in text, model.name


def test_links_between_documents_lead_somewhere() -> None:
    for path in [ROOT / "README.md", *DOCS.rglob("*.md")]:
        for link in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", path.read_text()):
            assert (path.parent / link).exists(), f"{path.relative_to(ROOT)}: {link}"
