"""What docs/ci-validate.md promises: the pre-commit hook, the workflow, any schema validator."""

from __future__ import annotations

import importlib
import json
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from worker.lint.cli import FORMATS

ROOT = Path(__file__).resolve().parents[3]
PARK_SCHEMA = ROOT / "schemas" / "callflows.park.json"
NODE_SCHEMA = ROOT / "schemas" / "callflow.node.json"


def read_yaml(text: str) -> Any:
    yaml = pytest.importorskip("ruamel.yaml", reason="comes with check-jsonschema")
    return yaml.YAML(typ="safe").load(text)


def page_blocks() -> Iterator[Any]:
    page = (ROOT / "docs" / "ci-validate.md").read_text(encoding="utf-8")
    for block in re.findall(r"```yaml\n(.*?)```", page, re.DOTALL):
        yield read_yaml(block)


def command_exists(command: str) -> bool:
    """Whether the first word is a console command of ours whose function is there."""
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
    module, _, function = scripts.get(command.split(maxsplit=1)[0], ":").partition(":")
    return callable(getattr(importlib.import_module(module), function, None))


def test_hook_file_names_a_command_that_exists() -> None:
    (hook,) = read_yaml((ROOT / ".pre-commit-hooks.yaml").read_text())
    assert hook["id"] == "kzpark-validate"
    assert hook["entry"] == "kzpark validate"
    assert hook["types"] == ["json"]
    assert hook["language"] == "python"
    assert hook["require_serial"] is True
    assert command_exists(hook["entry"])


def test_hook_entry_runs_as_pre_commit_runs_it(tmp_path: Path) -> None:
    bad, good = tmp_path / "bad.json", tmp_path / "good.json"
    bad.write_text('{"module": "park", "data": {"slot": []}}')
    good.write_text('{"module": "park", "data": {"slot": 101}}')
    codes = [
        subprocess.run(
            [sys.executable, "-m", "worker", "validate", *map(str, files)],
            capture_output=True,
            cwd=ROOT,
            check=False,
        ).returncode
        for files in ([good], [good, bad])
    ]
    assert codes == [0, 1]


def test_documented_pre_commit_configuration_uses_the_hook() -> None:
    hooks = [
        hook["id"]
        for block in page_blocks()
        for repo in block.get("repos", ())
        for hook in repo["hooks"]
    ]
    assert hooks == ["kzpark-validate", "check-jsonschema"]


def test_documented_workflow_calls_what_exists() -> None:
    (workflow,) = [block for block in page_blocks() if "jobs" in block]
    steps = workflow["jobs"]["validate"]["steps"]
    calls = [step["run"] for step in steps if "kzpark validate" in step.get("run", "")]
    assert len(calls) == 2
    for call in calls:
        assert command_exists(call)
        assert re.search(r"--format (\w+)", call).group(1) in FORMATS  # type: ignore[union-attr]
    (upload,) = [step for step in steps if "upload-sarif" in step.get("uses", "")]
    assert calls[1].split("> ")[1].startswith(upload["with"]["sarif_file"])


# ---- plain check-jsonschema ---------------------------------------------------------------------


def check_jsonschema(schema: Path, *files: Path) -> subprocess.CompletedProcess[str]:
    pytest.importorskip("check_jsonschema", reason="pip install check-jsonschema")
    return subprocess.run(
        [sys.executable, "-m", "check_jsonschema", "--schemafile", str(schema), *map(str, files)],
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize("schema", [PARK_SCHEMA, NODE_SCHEMA])
def test_schemas_are_valid_schemas(schema: Path) -> None:
    pytest.importorskip("check_jsonschema", reason="pip install check-jsonschema")
    done = subprocess.run(
        [sys.executable, "-m", "check_jsonschema", "--check-metaschema", str(schema)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_park_schema_serves_check_jsonschema(tmp_path: Path) -> None:
    good, bad = tmp_path / "good.json", tmp_path / "bad.json"
    good.write_text(
        json.dumps({"action": "auto", "slots": {"101": {"ringback_timeout": "25000"}}, "x": 1})
    )
    bad.write_text(json.dumps({"action": "auto", "slots": {"101": {"presence_type": "busy"}}}))
    assert check_jsonschema(PARK_SCHEMA, good).returncode == 0
    done = check_jsonschema(PARK_SCHEMA, good, bad)
    assert done.returncode == 1
    assert "presence_type" in done.stdout
    assert "good.json" not in done.stdout


def test_node_schema_serves_check_jsonschema(tmp_path: Path) -> None:
    good, bad = tmp_path / "good.json", tmp_path / "bad.json"
    below = {"module": "park", "data": {"action": "auto"}, "children": {}}
    good.write_text(json.dumps({"module": "menu", "children": {"1": below}}))
    below["data"] = {"action": "valet"}
    bad.write_text(json.dumps({"module": "menu", "children": {"1": below}}))
    assert check_jsonschema(NODE_SCHEMA, good).returncode == 0
    assert check_jsonschema(NODE_SCHEMA, bad).returncode == 1
