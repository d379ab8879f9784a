"""What the README says about the command line is true: every command and option it names exists, none is left out."""

import re
import shlex
from pathlib import Path

import pytest

from tam_edge.apps.commands import DeferredCommand, command_group

README = Path(__file__).parents[1] / "README.md"
CODE = re.compile(r"^```[^\n]*\n(?P<block>.*?)^```|`(?P<span>[^`\n]+)`", re.DOTALL | re.MULTILINE)


def code_lines(markdown):
    """Every line of every code block, continued lines joined, and every code span."""
    for found in CODE.finditer(markdown):
        text = found["span"] if found["block"] is None else found["block"]
        yield from re.sub(r"\\\n\s*", " ", text).splitlines()


def command_lines(markdown):
    """Arguments of every `tam-edge` command line; an error message such as `tam-edge run: no ...` is none."""
    for line in code_lines(markdown):
        if re.search(r"(^|[\s/])tam-edge(\s|$)", line) and not re.search(r"tam-edge( \w+)*:", line):
            part = []
            for word in [*shell_words(line), ";"]:
                if not re.fullmatch(r"[|&;<>()]+", word):
                    part.append(word)
                    continue
                at = next((i for i, word in enumerate(part) if word.rpartition("/")[2] == "tam-edge"), None)
                if at is not None:
                    yield part[at + 1 :]
                part = []


def shell_words(line):
    lexer = shlex.shlex(line.replace("[", " ").replace("]", " "), posix=True, punctuation_chars=True)
    lexer.whitespace_split = True
    return list(lexer)


def loose_options(markdown):
    """Options that stand alone in a code span, such as `--explain`."""
    spans = (found["span"] for found in CODE.finditer(markdown) if found["span"])
    return {span.split()[0].partition("=")[0] for span in spans if span.startswith("--")}


def loaded(command):
    return command.load() if isinstance(command, DeferredCommand) else command


def options_of(command):
    return {name for parameter in command.params for name in (*parameter.opts, *parameter.secondary_opts)} | {
        "--help",
        "-h",
    }


def mistakes(words, command):
    """What of a command line does not exist."""
    words = list(words)
    while hasattr(command, "commands") and words and not words[0].startswith("-"):
        name = words.pop(0)
        if name not in command.commands:
            return [name]
        command = loaded(command.commands[name])
    given = [word.partition("=")[0] for word in words if re.match(r"--?[a-zA-Z]", word)]
    return [option for option in given if option not in options_of(command)]


def every_option(command):
    command = loaded(command)
    below = (every_option(inner) for inner in getattr(command, "commands", {}).values())
    return options_of(command).union(*below)


@pytest.fixture(scope="module")
def readme():
    return README.read_text(encoding="utf-8")


def test_every_command_and_option_in_the_readme_exists(readme):
    lines = list(command_lines(readme))
    assert len(lines) >= 3
    group = command_group()
    assert [(words, wrong) for words in lines if (wrong := mistakes(words, group))] == []
    assert loose_options(readme) - every_option(group) == set()


def test_every_command_is_in_the_readme(readme):
    named = {words[0] for words in command_lines(readme) if words}
    assert set(command_group().commands) <= named


SAMPLE = """
Ask with `tam-edge run --video V --ask Q [--memory 2GiB]`, explained by `--explain`.
```sh
$ .venv/bin/tam-edge plan --video 'a b.mp4' \\
    --ask "how many | people?" --json > p.json   # a plan
tam-edge eval synthetic --seed 990001 --json
tam-edge rum --video V && tam-edge run --vido V
tam-edge eval real
tam-edge run: it's no command
```
`make demo` and `tam-edge.toml` are none, `--nope` is no option.
"""


def test_mistakes_in_a_readme_are_found():
    lines = list(command_lines(SAMPLE))
    assert lines[0] == ["run", "--video", "V", "--ask", "Q", "--memory", "2GiB"]
    assert [line[:2] for line in lines[2:]] == [
        ["eval", "synthetic"],
        ["rum", "--video"],
        ["run", "--vido"],
        ["eval", "real"],
    ]
    group = command_group()
    assert [mistakes(line, group) for line in lines] == [[], [], [], ["rum"], ["--vido"], ["real"]]
    assert loose_options(SAMPLE) - every_option(group) == {"--nope"}
