"""Where commands come from: our own, the others through entry points, none imported before it runs."""

from __future__ import annotations

import ast
import importlib.util
from importlib.metadata import EntryPoint, entry_points, version
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup

GROUP = "tam_edge.commands"
"""Entry points in this group are commands: a function is one command, a `typer.Typer` a group of them."""

OWN = {
    "run": "tam_edge.apps.run:run",
    "plan": "tam_edge.apps.plan:plan",
    "classify": "tam_edge.apps.classify:classify",
    "live": "tam_edge.apps.live.command:live",
    "watch": "tam_edge.apps.watch.command:watch",
    "serve": "tam_edge.apps.serve.command:serve",
    "robot": "tam_edge.apps.robot.command:robot",
    "doctor": "tam_edge.apps.doctor:doctor",
    "bench": "tam_edge.apps.bench.cli:app",
}


class CommandGroup(TyperGroup):
    """`tam-edge`: a group whose commands are imported when they are asked for."""

    def resolve_command(self, ctx: Any, args: list[str]) -> tuple[str | None, Any, list[str]]:
        """Find the command that `args` name and import it."""
        name, command, rest = super().resolve_command(ctx, args)
        return name, command.load() if isinstance(command, DeferredCommand) else command, rest


class DeferredCommand(TyperCommand):
    """A command that is known by name; its help line is read from its source, so that `--help` imports nothing."""

    def __init__(self, entry: EntryPoint) -> None:
        super().__init__(name=entry.name)
        self._entry = entry

    def get_short_help_str(self, limit: int = 45) -> str:
        """First sentence of the command's docstring, or of its module's."""
        return _summary(self._entry)

    def load(self) -> TyperCommand | TyperGroup:
        """Import the command.

        Raises: ModuleNotFoundError if it needs something that is not installed.
        """
        target = self._entry.load()
        if isinstance(target, typer.Typer):
            return typer.main.get_group(target)
        alone = typer.Typer(add_completion=False, rich_markup_mode=None)
        alone.command(self.name)(target)
        command = typer.main.get_command(alone)
        assert isinstance(command, TyperCommand)
        return command


app = typer.Typer(
    cls=CommandGroup,
    add_completion=False,
    rich_markup_mode=None,  # plain help: it can be searched, and starts in half the time
    context_settings={"help_option_names": ["-h", "--help"]},
)


def command_group() -> TyperGroup:
    """`tam-edge` with every command: our own first, then those of other folders, which cannot take our names."""
    group = typer.main.get_group(app)
    own = [EntryPoint(name, value, GROUP) for name, value in OWN.items()]
    others = sorted(entry for entry in entry_points(group=GROUP) if entry.name not in OWN)
    for entry in (*own, *others):
        group.add_command(DeferredCommand(entry))
    return group


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"tam-edge {version('tam-edge')}")
        raise typer.Exit


@app.callback()
def tam_edge(
    show_version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Ask a question about a video, answered on this device inside a fixed memory budget."""


def _summary(entry: EntryPoint) -> str:
    try:
        tree = ast.parse(_source(entry.module))
    except (ModuleNotFoundError, OSError, SyntaxError):
        return ""
    text = next((text for node in tree.body if (text := _described(node, entry.attr))), "")
    return text.partition("\n\n")[0].replace("\n", " ").rstrip(".")


def _described(node: ast.stmt, name: str) -> str | None:
    """The docstring of `def name`, or the help of `name = typer.Typer(help=...)`."""
    if isinstance(node, ast.FunctionDef) and node.name == name:
        return ast.get_docstring(node)
    if isinstance(node, ast.Assign) and isinstance(node.value, ast.Call) and name in map(ast.unparse, node.targets):
        texts = (word.value for word in node.value.keywords if word.arg == "help")
        return next((str(text.value) for text in texts if isinstance(text, ast.Constant)), None)
    return None


def _source(module: str) -> str:
    # The package is looked up, not the module: finding a module imports everything above it.
    package, _, name = module.rpartition(".")
    spec = importlib.util.find_spec(package)
    folders = [Path(folder) for folder in spec.submodule_search_locations or ()] if spec else []
    return next((folder / f"{name}.py" for folder in folders), Path(name)).read_text(encoding="utf-8")
