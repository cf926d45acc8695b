"""The built wheel works from any folder: the schemas are inside (issue 2, deliverable 1)."""

from __future__ import annotations

import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def build(kind: str, project: Path, output: Path) -> Path:
    """Build a ``wheel`` or ``sdist`` the way pip does, without fetching anything."""
    output.mkdir()
    subprocess.run(
        [
            sys.executable,
            "-c",
            f"import hatchling.build as b, sys; b.build_{kind}(sys.argv[1])",
            str(output),
        ],
        cwd=project,
        check=True,
        capture_output=True,
        timeout=100,
    )
    (built,) = output.iterdir()
    return built


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build("wheel", ROOT, tmp_path_factory.mktemp("wheel") / "dist")


def shipped(schemas: Path) -> set[str]:
    return {str(path.relative_to(schemas)) for path in schemas.rglob("*.json")}


def test_every_schema_is_in_the_wheel_and_nothing_else_than_the_package(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    inside = {
        name.removeprefix("worker/_schemas/")
        for name in names
        if name.startswith("worker/_schemas/") and name.endswith(".json")
    }
    assert inside == shipped(ROOT / "schemas")
    assert {name.split("/")[0].split("-")[0] for name in names} == {"worker", "kzpark"}
    assert not [name for name in names if "__pycache__" in name]


def test_the_wheel_validates_a_node_from_any_folder(wheel: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "site")
    node = tmp_path / "node.json"
    node.write_text('{"module": "park", "data": {"action": "fetch"}}', encoding="utf-8")
    code = (
        "import sys; sys.path.insert(0, 'site'); import worker; from worker.cli import main; "
        "print(worker.__file__); sys.exit(main(['validate', 'node.json']))"
    )
    done = subprocess.run(
        [sys.executable, "-I", "-c", code],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        timeout=100,
    )
    assert "Traceback" not in done.stderr
    assert done.returncode == 1
    assert str(Path("site", "worker")) in done.stdout
    assert "/data/action" in done.stdout or "node.json:1:" in done.stdout


def test_the_source_distribution_builds_the_same_wheel(wheel: Path, tmp_path: Path) -> None:
    sdist = build("sdist", ROOT, tmp_path / "sdist")
    with tarfile.open(sdist) as archive:
        archive.extractall(tmp_path / "source", filter="data")
    (source,) = (tmp_path / "source").iterdir()
    again = build("wheel", source, tmp_path / "dist")
    with zipfile.ZipFile(wheel) as first, zipfile.ZipFile(again) as second:
        assert set(first.namelist()) == set(second.namelist())
