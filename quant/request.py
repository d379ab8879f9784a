"""What `tam-edge quantize` was asked for, refused here where it makes no sense: before any work is done."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

from tam_edge.models.evaluate.films import scene_seeds
from tam_edge.quant.encoder import ExpertType, GraphType
from tam_edge.quant.imatrix import Imatrix
from tam_edge.quant.language import LanguageType
from tam_edge.quant.samples import SAMPLES
from tam_edge.runtime.errors import UsageError

ProjectorType = GraphType
"""How projectors are stored."""


@dataclass(frozen=True, slots=True)
class Request:
    """A bundle and the types its parts shall get; None: as it is, or as `target_bytes` decides."""

    bundle: Path
    """Folder of the bundle that is read."""
    out: Path
    """Folder of the new one."""
    vision: GraphType | None = None
    """Matrices of the encoders."""
    experts: ExpertType | None = None
    """Experts of the encoders; None: they follow `vision`."""
    projectors: ProjectorType | None = None
    """Matrices of the projectors."""
    language: LanguageType | None = None
    """The language model."""
    target_bytes: int | None = None
    """Memory of the device that the parts without a type are chosen for."""
    calibrate: tuple[Path, ...] = ()
    """Videos, or folders of them; none: scenes of the street camera."""
    compare: tuple[Path, ...] = ()
    """Videos that both bundles are asked about; none: those of `calibrate`."""
    ask: tuple[str, ...] = ()
    """What is asked about given videos."""
    samples: int = SAMPLES
    """Most questions to calibrate and compare on."""
    imatrix: Path | None = None
    """File with the importance of the language model's inputs; None: measured where `calibrate` is given."""
    error_most: float | None = None
    """Largest error of a graph's output in its standard deviations; None: as the type allows."""
    videos: int = 0
    """Unseen scenes of the street camera on which accuracy is compared."""
    seed: int = 990_001
    """Which scenes."""
    threads: int = 1
    """CPU threads."""
    report: Path | None = None
    """HTML file to write."""

    def check(self) -> None:
        """Refuse what cannot be meant.

        Raises:
            UsageError: an unknown type, nothing to do, no importance matrix, or a report that could not be written.
        """
        known = {"vision": GraphType, "experts": ExpertType, "projectors": ProjectorType, "language": LanguageType}
        for name, kinds in known.items():
            kind = getattr(self, name)
            if kind is not None and kind not in get_args(kinds):
                raise UsageError(f"--{name} {str(kind)[:40]!r} is unknown: choose one of {', '.join(get_args(kinds))}")
        if self.target_bytes is None and not any(getattr(self, name) for name in known):
            raise UsageError("nothing to do: name --vision, --experts, --projectors, --language or --target")
        if self.vision == "fp16" and self.experts is not None:
            raise UsageError("--vision fp16 holds the experts too: leave --experts out, or choose --vision int8")
        if self.videos:
            scene_seeds(self.seed, self.videos)
        self._check_files()

    def _check_files(self) -> None:
        if self.error_most is not None and not 0 < self.error_most < 10:
            raise UsageError(f"--error-most {self.error_most:g}: name a share of the standard deviation, such as 0.05")
        if self.imatrix is not None:
            if not self.imatrix.is_file():
                raise UsageError(f"--imatrix {self.imatrix} is not there: name a file that llama-imatrix wrote")
            Imatrix.load(self.imatrix)
        if self.report is not None:
            _check_writable(self.report)
            self._check_report(self.report.resolve())

    def _check_report(self, report: Path) -> None:
        for folder in (self.bundle, self.out):
            if report.is_relative_to(folder.resolve()):
                raise UsageError(f"--report {self.report} lies in the bundle {folder}: name a file outside it")
        reads = (*self.calibrate, *self.compare, *([self.imatrix] if self.imatrix else []))
        if any(report in (path.resolve(), *(one.resolve() for one in _files_in(path))) for path in reads):
            raise UsageError(f"--report {self.report} is one of the files that are read: name another one")

    @property
    def asked(self) -> dict[str, str]:
        """Types by part, as they were asked for."""
        named = {name: getattr(self, name) for name in ("vision", "experts", "projectors", "language")}
        return {name: kind for name, kind in named.items() if kind is not None}


def _files_in(path: Path) -> list[Path]:
    return list(path.iterdir()) if path.is_dir() else []


def _check_writable(path: Path) -> None:
    place = path if path.exists() else path.absolute().parent
    if path.is_dir() or not place.exists() or not os.access(place, os.W_OK):
        raise UsageError(f"cannot write {path}: name a file in a folder you may write to")
