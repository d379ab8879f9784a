"""Who may import whom: the folders, the data path, and what the device never loads."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FOLDERS = ("runtime", "apps", "models", "quant", "export")
BIN = Path(sys.executable).parent

OPENED_LATE = {"onnxruntime", "llama_cpp", "cv2", "av", "tensorrt"}
NEVER_ON_THE_DEVICE = {"torch", "transformers", "optimum", "onnx"}


def loaded_roots(code):
    """Top-level names of every module that ``code`` loads in a fresh interpreter."""
    run = subprocess.run(
        [sys.executable, "-X", "importtime", "-c", code], capture_output=True, text=True, check=True, cwd="/"
    )
    names = [line.rsplit("|", 1)[1].strip() for line in run.stderr.splitlines() if line.startswith("import time:")]
    return {name.partition(".")[0] for name in names}


def test_importing_the_runtime_opens_no_engine():
    roots = loaded_roots("import tam_edge.runtime")
    assert {"tam_edge", "numpy"} <= roots
    assert not roots & (OPENED_LATE | NEVER_ON_THE_DEVICE)


def test_the_command_line_starts_without_torch_or_an_engine():
    roots = loaded_roots("from tam_edge.apps.cli import main; main(['--version'])")
    assert "typer" in roots
    assert not roots & (OPENED_LATE | NEVER_ON_THE_DEVICE)


def lint_imports(folder):
    return subprocess.run(
        [BIN / "lint-imports", "--no-cache"],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(folder)},
        capture_output=True,
        text=True,
    )


@pytest.fixture(scope="module")
def copied_tree(tmp_path_factory):
    """The five folders as real packages, so that a rule can be broken without touching the checkout."""
    folder = tmp_path_factory.mktemp("tree")
    for name in FOLDERS:
        shutil.copytree(
            ROOT / name,
            folder / "tam_edge" / name,
            ignore=lambda where, names: [
                entry for entry in names if not (Path(where, entry).is_dir() or entry.endswith(".py"))
            ],
        )
    shutil.copy(ROOT / "pyproject.toml", folder)
    return folder


def test_import_rules_hold(copied_tree):
    run = lint_imports(copied_tree)
    assert run.returncode == 0, run.stdout + run.stderr


@pytest.mark.parametrize(
    ("module", "line", "broken_rule"),
    [
        ("runtime/plan.py", "import torch", "the device never needs torch"),
        ("apps/cli.py", "import tam_edge.models.cli", "the device never needs torch"),
        ("models/__init__.py", "import tam_edge.export", "folders depend one way"),
        ("runtime/plan.py", "import tam_edge.runtime.session", "the data path reads top to bottom"),
    ],
)
def test_import_rules_bite(copied_tree, module, line, broken_rule):
    path = copied_tree / "tam_edge" / module
    text = path.read_text()
    path.write_text(f"{text}\n{line}\n")
    try:
        run = lint_imports(copied_tree)
    finally:
        path.write_text(text)
    assert run.returncode == 1
    assert f"{broken_rule} BROKEN" in run.stdout


@pytest.mark.parametrize("folder", FOLDERS)
def test_folders_are_not_imported_by_their_bare_name(folder):
    run = subprocess.run(
        [BIN / "ruff", "check", "--no-cache", "--select", "TID251", "--stdin-filename", "tests/x.py", "-"],
        cwd=ROOT,
        input=f"import {folder}\n",
        capture_output=True,
        text=True,
    )
    assert run.returncode == 1
    assert "TID251" in run.stdout
