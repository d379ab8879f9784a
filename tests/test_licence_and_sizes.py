"""Limits a reviewer would otherwise have to remember: licence, module and function lengths, what git carries."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
MODULES = sorted(
    path for folder in ("runtime", "apps", "models", "quant", "export") for path in (ROOT / folder).rglob("*.py")
)
MODULE_LINES = 350
FUNCTION_LINES = 60
BUNDLE_BYTES = 40_000_000


def test_licence_is_apache_2():
    text = (ROOT / "LICENSE").read_text()
    assert "Apache License\n                           Version 2.0, January 2004" in text
    assert "END OF TERMS AND CONDITIONS" in text


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_modules_and_functions_stay_small(path):
    source = path.read_text()
    assert source.count("\n") <= MODULE_LINES
    functions = (ast.FunctionDef, ast.AsyncFunctionDef)
    too_long = {
        node.name: length
        for node in ast.walk(ast.parse(source))
        if isinstance(node, functions) and (length := node.end_lineno - node.lineno + 1) > FUNCTION_LINES
    }
    assert not too_long


def test_the_bundle_is_small_enough_for_git():
    sizes = [path.stat().st_size for path in (ROOT / "models" / "tallva-nano").rglob("*") if path.is_file()]
    assert 0 < sum(sizes) < BUNDLE_BYTES
