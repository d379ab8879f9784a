"""What is wrong with JSON that was sent: its first mistake. It needs pydantic alone, so that any app can use it."""

from __future__ import annotations

from dataclasses import dataclass

from pydantic import ValidationError


@dataclass(frozen=True, slots=True)
class Mistake:
    """The first thing that is wrong."""

    kind: str
    """pydantic's word for it, such as `json_invalid`."""
    field: str
    """Outermost field that it is in; empty where it is about all of it."""
    place: str
    """The way to it from that field, dotted; empty where it is about all of it."""
    text: str
    """What is wrong, for a person."""


def first_mistake(error: ValidationError) -> Mistake:
    """What is wrong first."""
    first = error.errors(include_url=False, include_context=False, include_input=False)[0]
    steps = [str(step) for step in first["loc"]]
    return Mistake(first["type"], steps[0] if steps else "", ".".join(steps), first["msg"])
