"""A bundle on disk: a read-only folder whose manifest is believed only after it has been checked."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from pydantic import ValidationError

from tam_edge.runtime.consistency import problems
from tam_edge.runtime.errors import BundleError
from tam_edge.runtime.integrity import check_files, path_inside
from tam_edge.runtime.manifest import Manifest
from tam_edge.runtime.schema import FileSpec

MANIFEST_FILE = "manifest.json"
MANIFEST_LIMIT_BYTES = 4 * 1024**2
"""A manifest is some ten thousand bytes; a file this large is something else."""

DEFAULT_BUNDLE = "tallva-nano"


@dataclass(frozen=True, slots=True)
class Bundle:
    """A checked bundle."""

    path: Path
    """The folder, absolute."""
    manifest: Manifest
    """What it says about itself."""

    @property
    def fingerprint(self) -> str:
        """Hash over the manifest and so, through its hashes, over every file: the key of whatever is cached for it."""
        return hashlib.sha256(self.manifest.model_dump_json().encode()).hexdigest()

    def file(self, spec: FileSpec | str) -> Path:
        """Absolute path of a file of the bundle.

        Raises:
            BundleError: it is missing or lies outside the folder.
        """
        name = spec.file if isinstance(spec, FileSpec) else spec
        return path_inside(self.path, name, name)


def load_bundle(path: str | Path, *, verify: bool = False) -> Bundle:
    """Read and check the bundle in the folder `path`.

    All hashes are checked the first time; later only size and modification time, unless `verify` asks for all of it.

    Raises:
        BundleError: names the field that is not true, or what is missing.
    """
    folder = Path(path)
    manifest = _parse(folder, _read_manifest(folder))
    for field, message in problems(manifest):
        raise BundleError(folder, field, message)
    check_files(folder, manifest.files(), verify=verify)
    return Bundle(folder.resolve(), manifest)


def default_bundle_path() -> Path:
    """Folder of the bundle that is installed with this package, found without importing the package it lies in.

    Raises:
        BundleError: this installation has none.
    """
    spec = find_spec("tam_edge.models")
    for place in (spec.submodule_search_locations or []) if spec else []:
        if (folder := Path(place, DEFAULT_BUNDLE)).is_dir():
            return folder
    raise BundleError(
        DEFAULT_BUNDLE, MANIFEST_FILE, "this installation has no bundle of its own: name one with --model"
    )


def _read_manifest(folder: Path) -> bytes:
    try:
        if not folder.is_dir():
            raise BundleError(folder, MANIFEST_FILE, "there is no such folder")
        with (folder / MANIFEST_FILE).open("rb") as stream:
            text = stream.read(MANIFEST_LIMIT_BYTES + 1)
    except FileNotFoundError as error:
        raise BundleError(folder, MANIFEST_FILE, "missing: this folder is no bundle") from error
    except (OSError, ValueError) as error:
        raise BundleError(folder, MANIFEST_FILE, f"cannot be read: {error}") from error
    if len(text) > MANIFEST_LIMIT_BYTES:
        raise BundleError(folder, MANIFEST_FILE, f"larger than {MANIFEST_LIMIT_BYTES} bytes: this is no manifest")
    return text


def _parse(folder: Path, text: bytes) -> Manifest:
    try:
        return Manifest.model_validate_json(text, strict=True)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False, include_context=False)[0]
        field = ".".join(map(str, first["loc"])) or MANIFEST_FILE
        message = first["msg"].removeprefix("Value error, ")
        raise BundleError(folder, field[:200], message[:400]) from error  # a wrong key may be as long as the file
