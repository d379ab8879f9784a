"""The pieces every model of ``manifest.json`` is made of: the base class, short names, and files with their hashes."""

from __future__ import annotations

from itertools import pairwise
from pathlib import PurePosixPath
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, PositiveInt


def _inside_folder(file: str) -> str:
    """Refuse what could leave the bundle on any operating system; links are looked at when the file is opened."""
    path = PurePosixPath(file)
    if not file or path.is_absolute() or ".." in path.parts or "\\" in file or ":" in file or "\0" in file:
        raise ValueError(f"{file!r} must be a path inside the bundle folder, with forward slashes")
    return file


RelativeFile = Annotated[str, Field(max_length=500), AfterValidator(_inside_folder)]
Name = Annotated[str, Field(min_length=1, max_length=200)]
Sha256 = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]


class Entry(BaseModel):
    """Base of every manifest model: read-only, no unknown field, the text under a field is its description."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True)


class FileSpec(Entry):
    """A file of the bundle with what it must hash to."""

    file: RelativeFile
    """Path inside the bundle folder, forward slashes."""
    sha256: Sha256
    """SHA-256 of the file, lower-case hexadecimal."""
    size_bytes: PositiveInt
    """Size of the file in bytes."""


Attention = Literal["plain", "flash", "q8_0"]
"""How a language model attends, with ever less memory: all scores at once, block by block, or so over 8-bit cells."""


class Sized(Entry):
    """One point of a measurement."""

    size: PositiveInt
    """What was given at once: frames to an encoder, questions' tokens to an Inductor, key-value cells to a language
    model."""
    bytes: Annotated[int, Field(ge=0)]
    """What it took."""


def _rising(curve: tuple[Sized, ...]) -> tuple[Sized, ...]:
    if any(above.size <= below.size for below, above in pairwise(curve)):
        raise ValueError("sizes must rise")
    return curve


Curve = Annotated[tuple[Sized, ...], Field(min_length=1), AfterValidator(_rising)]


class EngineMemory(Entry):
    """What an engine adds to the resident set, in bytes, measured in a process of its own."""

    opening_bytes: Annotated[int, Field(ge=0)]
    """Peak while it is opened, without code of its library."""
    open_bytes: Annotated[int, Field(ge=0)]
    """What stays while it is open and does nothing; every page of a mapped file counts."""
    library_bytes: Annotated[int, Field(ge=0)]
    """Code of its library that is read in for it; engines of one backend share it."""
    running: dict[Name, Curve]
    """Peak above `open_bytes` while it runs, by way of running and by rising size: "run" for tensor engines; for a
    language model how it attends, its cells left out: "plain" for as many cells as that is done with, "flash", "q8_0"
    (8-bit cells)."""
    cell_bytes: dict[Name, PositiveInt] = Field(default_factory=dict)
    """Bytes of one key-value cell of a language model, by way of running."""


class EngineSpec(FileSpec):
    """One file that one backend can run; a role lists several and the first that fits the device is used."""

    backend: Literal["onnx", "gguf", "tensorrt"]
    """What opens the file."""
    precision: Name
    """Number format of the weights, such as fp32, int8, f16 or Q8_0; shown, never interpreted."""
    built_for: Name = "any"
    """Device the file was built for; "any" where it runs everywhere."""
    peak_bytes: Annotated[int, Field(ge=0)]
    """Measured growth of the process's peak resident set while this engine is open and run, in bytes."""
    memory: EngineMemory | None = None
    """The same in detail; null where it was not measured: then all of `peak_bytes` counts while the engine is open."""
    weights: FileSpec | None = None
    """The file beside a large ONNX graph that holds its weights; null where the graph holds them itself."""


Engines = Annotated[tuple[EngineSpec, ...], Field(min_length=1)]


def named_files(value: Any, field: str = "") -> dict[str, FileSpec]:
    """Every file named in `value` and below, by the dotted name of the field that names it."""
    found = {field: value} if isinstance(value, FileSpec) else {}
    if isinstance(value, BaseModel):
        items: list[tuple[Any, Any]] = [(name, getattr(value, name)) for name in type(value).model_fields]
    elif isinstance(value, dict):
        items = list(value.items())
    elif isinstance(value, tuple):
        items = list(enumerate(value))
    else:
        return {}
    prefix = f"{field}." if field else ""
    return found | {name: spec for key, item in items for name, spec in named_files(item, f"{prefix}{key}").items()}
