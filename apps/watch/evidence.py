"""The frames of events as files: names that are safe anywhere, whole files only, and no more than so many of them."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from datetime import datetime, timezone
from hashlib import sha256
from pathlib import Path

from tam_edge.apps.watch.watcher import WatchEvent
from tam_edge.apps.writing import check_writable, write_whole
from tam_edge.runtime.errors import UsageError
from tam_edge.runtime.live.answers import LiveEvidence

FRAMES_AN_EVENT = 4
"""Most pictures of one event: the first and the last frame, and what lies evenly between."""
SLUG_CHARACTERS = 40
HASH_CHARACTERS = 6
_OURS = re.compile(r"\d{8}T\d{9}Z-[a-z0-9-]{1,40}-[0-9a-f]{6}-\d{2}\.jpg")


class EvidenceFolder:
    """A folder with the pictures of the newest events."""

    def __init__(self, folder: Path, keep: int) -> None:
        """Make the folder where it is missing; at most `keep` pictures stay, earlier ones of ours included.

        Raises: UsageError if nothing can be written there.
        """
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UsageError(f"--evidence {folder}: {error.strerror}; name a folder you may write to") from None
        check_writable(folder / "evidence.jpg", ())
        self._folder, self._keep = folder, keep
        self._prune(0)

    def save(self, event: WatchEvent) -> list[Path]:
        """Write an event's pictures and delete the oldest beyond the bound; empty where there are none.

        Raises: OSError if that fails.
        """
        frames = spread([frame for frame in event.evidence if frame.jpeg], min(FRAMES_AN_EVENT, self._keep))
        self._prune(len(frames))
        paths = []
        for number, frame in enumerate(frames, start=1):
            path = self._folder / file_name(event.time_seconds, event.rule or "", number)
            write_whole(path, frame.jpeg)
            paths.append(path)
        return paths

    def _prune(self, coming: int) -> None:
        ours = sorted(path for path in self._folder.iterdir() if _OURS.fullmatch(path.name) and path.is_file())
        for path in ours[: max(0, len(ours) + coming - self._keep)]:
            path.unlink(missing_ok=True)


def file_name(time_seconds: float, rule: str, number: int) -> str:
    """Letters a-z, digits, - and . alone; sorted by name they are sorted by time. Each rule's differ."""
    moment = datetime.fromtimestamp(time_seconds, timezone.utc)
    plain = unicodedata.normalize("NFKD", rule).encode("ascii", "ignore").decode().lower()
    slug = re.sub(r"[^a-z0-9]+", "-", plain)[:SLUG_CHARACTERS].strip("-") or "rule"
    digest = sha256(rule.encode("utf-8", "surrogatepass")).hexdigest()[:HASH_CHARACTERS]  # slugs of two can be equal
    return f"{moment:%Y%m%dT%H%M%S}{moment.microsecond // 1000:03d}Z-{slug}-{digest}-{number:02d}.jpg"


def spread(frames: Sequence[LiveEvidence], most: int) -> list[LiveEvidence]:
    """At most so many frames, evenly, the last one always among them."""
    if len(frames) <= most:
        return list(frames)
    if most == 1:
        return [frames[-1]]
    return [frames[round(index * (len(frames) - 1) / (most - 1))] for index in range(most)]
