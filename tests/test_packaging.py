"""The wheel holds every package and datum, and answers a question with nothing but its declared dependencies."""

import json
import os
import shutil
import subprocess
import sys
import venv
import zipfile
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement

try:
    import tomllib
except ModuleNotFoundError:  # Python 3.10
    import tomli as tomllib

ROOT = Path(__file__).parents[1]
FOLDERS = ("runtime", "apps", "models", "quant", "export")
SETUPTOOLS = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]


def test_packages_list_every_folder_with_an_init():
    found = {
        "tam_edge." + ".".join(path.parent.relative_to(ROOT).parts)
        for folder in FOLDERS
        for path in (ROOT / folder).rglob("__init__.py")
    }
    assert set(SETUPTOOLS["packages"]) == found
    assert SETUPTOOLS["package-dir"] == {f"tam_edge.{folder}": folder for folder in FOLDERS}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The wheel as built from the sdist, from a copy so that no earlier build output can lend it a file."""
    source = tmp_path_factory.mktemp("source")
    out = tmp_path_factory.mktemp("dist")
    for name in (*FOLDERS, "tests"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for path in ROOT.iterdir():
        if path.is_file():
            shutil.copy(path, source)
    run = subprocess.run(
        [sys.executable, "-m", "build", "--no-isolation", "--outdir", out, source], capture_output=True, text=True
    )
    assert run.returncode == 0, run.stdout + run.stderr
    (built,) = out.glob("*.whl")
    return built


def test_wheel_holds_every_module_and_datum(wheel):
    expected = {
        f"tam_edge/{path.relative_to(ROOT).as_posix()}"
        for folder in FOLDERS
        for path in (ROOT / folder).rglob("*")
        if path.is_file() and path.parent.name != "__pycache__"
    }
    assert {"tam_edge/models/street/sample.mp4", "tam_edge/models/tallva-nano/manifest.json"} <= expected
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
    assert names == expected


def needed_distributions(name, seen):
    """Names of what installing ``name`` without extras brings, ``name`` itself included."""
    seen.add(name.lower().replace("_", "-"))
    for line in metadata.requires(name) or ():
        requirement = Requirement(line)
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
            continue
        if requirement.name.lower().replace("_", "-") not in seen:
            needed_distributions(requirement.name, seen)
    return seen


@pytest.fixture(scope="module")
def fresh_environment(wheel, tmp_path_factory):
    """A new environment with the wheel and links to its declared dependencies, so that no download is needed."""
    home = tmp_path_factory.mktemp("fresh") / "env"
    venv.create(home, with_pip=True, symlinks=True)
    python = home / "bin" / "python"
    asked = subprocess.run(
        [python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"],
        capture_output=True,
        text=True,
        check=True,
    )
    site = Path(asked.stdout.strip())
    for name in needed_distributions("tam-edge", set()) - {"tam-edge"}:
        installed = metadata.distribution(name)
        for top in {file.parts[0] for file in installed.files or () if file.parts[0] != ".."}:
            if top != "__pycache__" and not (site / top).exists():
                (site / top).symlink_to(installed.locate_file(top))
    subprocess.run([python, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", wheel], check=True)
    return home


def in_environment(home, folder, *command):
    env = {key: value for key, value in os.environ.items() if key not in {"PYTHONPATH", "VIRTUAL_ENV"}}
    return subprocess.run(
        [home / "bin" / command[0], *command[1:]], cwd=folder, env=env, capture_output=True, text=True
    )


def test_wheel_answers_a_question_outside_the_repository(fresh_environment, tmp_path):
    where = in_environment(
        fresh_environment, tmp_path, "python", "-c", "import tam_edge.models.street as s; print(s.__file__)"
    )
    street = Path(where.stdout.strip()).parent
    assert street.is_relative_to(fresh_environment)
    sample = street / "sample.mp4"
    run = in_environment(
        fresh_environment, tmp_path, "tam-edge", "run", "--video", sample, "--ask", "how many people?", "--json"
    )
    assert run.returncode == 0, run.stderr
    answer = json.loads(run.stdout)
    assert answer["answer"].strip().isdigit()
    assert answer["frames"] == len(answer["timestamps_seconds"]) > 0
    assert not list(tmp_path.iterdir())


EVAL = ("eval", "synthetic", "--seed", "990001")


@pytest.mark.parametrize(
    ("extra", "command"),
    [
        ("export", ("train", "nano")),
        ("export", ("export", "nano", "--run", "run", "--out", "bundle")),
        ("export", ("train", "study", "--run", "run", "--out", "study")),
        ("export", ("export", "study", "--study", "study", "--out", "bundles")),
        ("export", ("quantize", "bundle", "--out", "small", "--vision", "int8")),
        ("export", ("tune", "bundle", "--run", "run", "--out", "tuned")),
        ("export", ("reopen", "bundle", "--run", "run")),
        ("export", (*EVAL, "--ablate", "lowest-2")),
        ("serve", ("serve", "--port", "0")),
        ("robot", ("robot", "--topic", "camera/front")),
        ("figures", (*EVAL, "--ablate", "fixed", "--figures", "folder")),
    ],
)
def test_command_of_a_missing_extra_says_so_in_one_line(fresh_environment, tmp_path, extra, command):
    run = in_environment(fresh_environment, tmp_path, "tam-edge", *command)
    assert run.returncode == 1
    assert f"tam-edge[{extra}]" in run.stderr
    assert len(run.stderr.splitlines()) == 1
    assert not list(tmp_path.iterdir())
