"""A checkpoint folder: config.json and safetensors, in one file or in shards, read tensor by tensor.

A file is opened for one tensor and closed again: its pages are mapped, and mapped pages count in a process's peak. So
a folder of 15 GB is read with no more in memory than its largest tensor.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from tam_edge.export.pretrained.keys import canonical_key
from tam_edge.runtime.errors import TamEdgeError

CONFIG_FILE, WEIGHTS_FILE, INDEX_FILE = "config.json", "model.safetensors", "model.safetensors.index.json"
PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")
TEXT_LIMIT_BYTES = 64 * 1024**2
"""A tokenizer is some ten million bytes; a text file beyond this is something else."""
DTYPES = {"F64", "F32", "F16", "BF16"}
"""Number formats of weights that can be read; what is quantised already cannot."""


class CheckpointError(TamEdgeError):
    """A checkpoint folder is incomplete, damaged, or of a kind that cannot be imported."""

    def __init__(self, folder: Path, message: str) -> None:
        """Name the `folder` before the `message`."""
        super().__init__(f"checkpoint {folder}: {message}")


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """Where a tensor lies and how large it is."""

    file: Path
    """The safetensors file."""
    name: str
    """Its name in that file."""
    shape: tuple[int, ...]
    """Its shape."""


@dataclass(frozen=True, slots=True)
class CheckpointFolder:
    """An opened checkpoint; no weight is in memory."""

    path: Path
    """The folder."""
    config: dict[str, Any]
    """What config.json says."""
    tensors: dict[str, StoredTensor]
    """Every tensor by its one name (keys.py); what is never used is left out."""

    def read(self, key: str) -> Tensor:
        """The tensor in float32, a copy.

        Raises:
            CheckpointError: it is missing, cannot be read, or holds values that are no numbers.
        """
        return next(self.blocks(key, max(1, self.stored(key).shape[0])))

    def blocks(self, key: str, rows: int) -> Iterator[Tensor]:
        """The tensor in float32, `rows` of its first axis at a time; raises as `read`."""
        stored = self.stored(key)
        with opened_weights(self.path, stored.file) as weights:
            whole = weights.get_slice(stored.name)
            for start in range(0, stored.shape[0], rows):
                block: Tensor = whole[start : start + rows].to(torch.float32, copy=True)
                if not torch.isfinite(block).all():
                    raise CheckpointError(self.path, f"{stored.name} holds values that are no numbers: copy it again")
                yield block

    def stored(self, key: str) -> StoredTensor:
        """Where a tensor lies.

        Raises:
            CheckpointError: there is none of this name.
        """
        if key not in self.tensors:
            raise CheckpointError(self.path, f"{key} is missing")
        return self.tensors[key]


def open_checkpoint(folder: Path) -> CheckpointFolder:
    """Read config.json and the headers of the weight files.

    Raises:
        CheckpointError: no checkpoint, only pickled weights, a file missing or damaged, or two tensors of one name.
    """
    if not folder.is_dir():
        raise CheckpointError(folder, "there is no such folder")
    config = read_json(folder, CONFIG_FILE)
    if config is None:
        raise CheckpointError(folder, f"{CONFIG_FILE} is missing: name a folder in Hugging Face or LLaVA-NeXT layout")
    tensors: dict[str, StoredTensor] = {}
    for stored in _stored_tensors(folder):
        key = canonical_key(stored.name)
        if key is None:
            continue
        if key in tensors:
            raise CheckpointError(folder, f"{stored.name} and {tensors[key].name} are the same tensor")
        tensors[key] = stored
    return CheckpointFolder(folder, config, tensors)


def read_json(folder: Path, name: str) -> dict[str, Any] | None:
    """A JSON object of the folder; None where the file is not there.

    Raises:
        CheckpointError: it is no JSON object, too large, or lies outside the folder.
    """
    text = read_text(folder, name)
    if text is None:
        return None
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise CheckpointError(folder, f"{name} cannot be read ({error}): copy it again") from error
    if not isinstance(value, dict):
        raise CheckpointError(folder, f"{name} is no JSON object")
    return value


def read_text(folder: Path, name: str) -> str | None:
    """A text file of the folder in UTF-8; None where it is not there.

    Raises:
        CheckpointError: it is no UTF-8, too large, or lies outside the folder.
    """
    path = _inside(folder, name)
    if path is None:
        return None
    try:
        if path.stat().st_size > TEXT_LIMIT_BYTES:
            raise CheckpointError(folder, f"{name} is larger than {TEXT_LIMIT_BYTES} bytes")
        return path.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise CheckpointError(folder, f"{name} cannot be read ({error}): copy it again") from error


@contextmanager
def opened_weights(folder: Path, file: Path) -> Iterator[Any]:
    """A safetensors file.

    Raises:
        CheckpointError: it is truncated or damaged; the library compares header and size.
    """
    try:
        with safe_open(file, framework="pt") as weights:
            yield weights
    except (SafetensorError, OSError) as error:
        raise CheckpointError(folder, f"{file.name} is damaged ({error}): copy it again") from error


def _stored_tensors(folder: Path) -> Iterator[StoredTensor]:
    whole = _inside(folder, WEIGHTS_FILE)
    if whole is not None:  # transformers too takes it before shards
        yield from _tensors_in(folder, whole)
        return
    index = read_json(folder, INDEX_FILE)
    if index is None:
        raise CheckpointError(folder, _nothing_to_read(folder))
    places = index.get("weight_map")
    if not isinstance(places, dict) or not all(isinstance(name, str) for name in places.values()):
        raise CheckpointError(folder, f"{INDEX_FILE} has no weight_map from keys to files")
    for name in sorted(set(places.values())):
        path = _inside(folder, name)
        if path is None:
            raise CheckpointError(folder, f"{name} is missing, {INDEX_FILE} names it")
        held = {stored.name: stored for stored in _tensors_in(folder, path)}
        wanted = [key for key, file in places.items() if file == name]
        if missing := [key for key in wanted if key not in held]:
            raise CheckpointError(folder, f"{missing[0]} is not in {name}, where {INDEX_FILE} says it is")
        yield from held.values()


def _tensors_in(folder: Path, path: Path) -> Iterator[StoredTensor]:
    with opened_weights(folder, path) as weights:
        for name in weights.keys():  # noqa: SIM118, it is no dict
            about = weights.get_slice(name)
            if canonical_key(name) is not None and about.get_dtype() not in DTYPES:
                raise CheckpointError(
                    folder, f"{name} is stored as {about.get_dtype()}: take the checkpoint before it was quantised"
                )
            yield StoredTensor(path, name, tuple(about.get_shape()))


def _nothing_to_read(folder: Path) -> str:
    pickled = sorted(path.name for pattern in PICKLES for path in folder.glob(pattern))
    if pickled:
        return f"its weights are pickled ({pickled[0]}), which may run code when read: save them as safetensors"
    return f"neither {WEIGHTS_FILE} nor {INDEX_FILE} is there"


def _inside(folder: Path, name: str) -> Path | None:
    """A regular file of the folder, None where there is none.

    Links are followed: Hugging Face's own cache is a folder of links, so only what a file *says* must stay inside.
    """
    if "\0" in name or Path(name).is_absolute() or ".." in Path(name).parts:
        raise CheckpointError(folder, f"{name!r} lies outside the folder")
    path = folder / name
    try:
        return path if path.is_file() else None
    except OSError as error:  # a name that is too long, a folder that may not be read
        raise CheckpointError(folder, f"{name[:60]!r} cannot be reached: {error.strerror}") from error
