"""config.json, field by field: what is of another kind than it must be is refused by its name, never guessed at."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tam_edge.export.pretrained.folder import CONFIG_FILE, CheckpointError

LARGEST = 1 << 27
"""No size of a model is larger; the product of two still fits into what PyTorch counts with."""


class Section:
    """One JSON object of a checkpoint's config.json."""

    def __init__(self, folder: Path, values: Mapping[str, Any]) -> None:
        """Read `values`; errors name the `folder`."""
        self._folder, self._values = folder, values

    def __contains__(self, field: str) -> bool:
        return field in self._values

    def get(self, field: str, default: Any = None) -> Any:
        """The value as it is written."""
        return self._values.get(field, default)

    def section(self, field: str, defaults: Mapping[str, Any] | None = None) -> Section:
        """An object inside this one; fields that it lacks have `defaults`.

        Raises:
            CheckpointError: there is none.
        """
        value = self._values.get(field)
        if not isinstance(value, dict):
            raise self.error(f"{CONFIG_FILE} lacks {field}" if value is None else f"{field} is no JSON object")
        return Section(self._folder, {**(defaults or {}), **value})

    def either(self, field: str) -> Section:
        """The object `field` where there is one, else this section itself.

        Raises:
            CheckpointError: it is there and is no object.
        """
        return self if self._values.get(field) is None else self.section(field)

    def with_sizes(self, **values: int) -> Section:
        """A section of these values alone."""
        return Section(self._folder, values)

    def size(self, field: str, default: int | None = None, most: int = LARGEST) -> int:
        """A whole number from 1 to `most`.

        Raises:
            CheckpointError: it is none, or missing without a default.
        """
        value = self._values.get(field, default)
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise self.error(f"{CONFIG_FILE}: {field} is {value!r:.60}, a positive whole number is needed")
        if value > most:
            raise self.error(f"{CONFIG_FILE}: {field} is larger than any model has it")
        return value

    def number(self, field: str, default: float) -> float:
        """A positive number.

        Raises:
            CheckpointError: it is none.
        """
        value = self._values.get(field, default)
        if not isinstance(value, int | float) or isinstance(value, bool) or not 0 < value < math.inf:
            raise self.error(f"{CONFIG_FILE}: {field} is {value!r:.60}, a positive number is needed")
        return float(value)

    def only(self, field: str, known: object) -> None:
        """Refuse another value than the `known` one.

        Raises:
            CheckpointError: there is another.
        """
        if (value := self._values.get(field, known)) != known:
            raise self.error(f"{CONFIG_FILE}: {field} is {value!r:.60}; {known!r} is what can be imported")

    def error(self, message: str) -> CheckpointError:
        """The error that says `message` about this checkpoint."""
        return CheckpointError(self._folder, message)
