"""What programs import: a change of it is a decision, not an accident."""

import ast
import inspect
import re
from pathlib import Path
from types import ModuleType

import pytest

import tam_edge.runtime as runtime

FOLDER = Path(runtime.__file__).parent
PUBLIC_METHODS = {
    "load": "(bundle=None, *, memory=None, device='auto', threads=None)",
    "open": "(self, source, *, start=None, end=None)",
    "live": "(self, source, *, horizon='10min', rate=None, queue=8, every_frame=False, keep_ready=True)",
    "classify": "(self, questions)",
    "plan": "(self, video, question, *, deadline=None, strategy=None, frames=None, grid=None)",
    "stream": "(self, video, question, *, history=(), plan=None, deadline=None, strategy=None, frames=None, grid=None, "
    "max_tokens=None, temperature=0.0, seed=0, stop=())",
    "ask": "(self, video, question, *, history=(), plan=None, deadline=None, strategy=None, frames=None, grid=None, "
    "max_tokens=None, temperature=0.0, seed=0, stop=())",
    "share_features": "(self, other)",
    "forget": "(self)",
    "close": "(self)",
}


def test_all_is_sorted_and_is_what_the_package_shows():
    shown = {
        name for name, value in vars(runtime).items() if not name.startswith("_") and not isinstance(value, ModuleType)
    }
    assert runtime.__all__ == sorted(runtime.__all__)
    assert set(runtime.__all__) == shown


@pytest.mark.parametrize("name", runtime.__all__)
def test_public_names_say_what_they_are(name):
    assert len(inspect.getdoc(getattr(runtime, name)) or "") > 10


def test_video_qa_has_these_methods_and_options():
    methods = {
        name: str(plain_signature(getattr(runtime.VideoQA, name)))
        for name in vars(runtime.VideoQA)
        if not name.startswith("_")
    }
    assert methods == PUBLIC_METHODS


def plain_signature(function):
    signature = inspect.signature(function)
    parameters = [p.replace(annotation=inspect.Parameter.empty) for p in signature.parameters.values()]
    return signature.replace(parameters=parameters, return_annotation=inspect.Signature.empty)


@pytest.mark.parametrize("name", ["stream", "ask"])
def test_stream_and_ask_take_the_same(name):
    assert plain_signature(getattr(runtime.VideoQA, name)) == plain_signature(runtime.VideoQA.stream)


def test_the_reading_order_names_files_that_exist():
    named = re.findall(r"`([a-z_/]+(?:\.py|/))`", runtime.__doc__)
    assert len(named) > 10
    assert [name for name in named if not (FOLDER / name).exists()] == []


@pytest.mark.parametrize("path", sorted(FOLDER.rglob("*.py")), ids=lambda path: str(path.relative_to(FOLDER)))
def test_every_public_field_is_described(path):
    """A string stands under each field of a public dataclass or manifest model."""
    silent = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if not isinstance(node, ast.ClassDef) or node.name.startswith("_"):
            continue
        for item, after in zip(node.body, [*node.body[1:], None], strict=True):
            if is_field(item) and not item.target.id.startswith("_") and not is_text(after):
                silent.append(f"{node.name}.{item.target.id}")
    assert silent == []


def is_field(node):
    named = isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name)
    return named and "ClassVar" not in ast.unparse(node.annotation)


def is_text(node):
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)


def test_errors_are_one_family_with_two_exit_codes():
    errors = [getattr(runtime, name) for name in runtime.__all__ if name.endswith("Error")]
    assert len(errors) == 11
    assert all(issubclass(error, runtime.TamEdgeError) for error in errors)
    assert {error.exit_code for error in errors} == {1, 2}
    assert issubclass(runtime.QuestionError, runtime.UsageError)
