"""What a caller holds while an answer is being made: its pieces, and then the answer."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Generator, Iterator
from types import TracebackType
from typing import Any, Generic, TypeVar

from tam_edge.runtime.answer import Answer
from tam_edge.runtime.errors import UsageError
from tam_edge.runtime.plan import Plan
from tam_edge.runtime.turns import Turns

Whole = TypeVar("Whole")
Self = TypeVar("Self", bound="Pieces[Any]")


class Pieces(Iterator[str], Generic[Whole]):
    """The pieces of an answer, joined they are its text; a context manager that stops the work."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        """What will be looked at."""
        self._answer: Whole | None = None

    @property
    def answer(self) -> Whole:
        """The whole answer, once the last piece was taken.

        Raises: UsageError before that, and after `close`.
        """
        if self._answer is None:
            raise UsageError("the answer is not complete: take every piece first")
        return self._answer

    @abstractmethod
    def close(self) -> None:
        """Stop the work; closing twice, or after the end, is fine."""

    def __enter__(self: Self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class AnswerStream(Pieces[Answer]):
    """The pieces of an answer; work is done while it is iterated over."""

    def __init__(self, plan: Plan, pieces: Generator[str, None, Answer], turns: Turns) -> None:
        super().__init__(plan)
        self._pieces = pieces
        self._turns = turns  # at the engines, for each piece anew

    def __next__(self) -> str:
        """Return the next piece; joined they are the answer's text."""
        try:
            with self._turns:
                return next(self._pieces)
        except StopIteration as stop:
            self._answer = stop.value if self._answer is None else self._answer
            raise

    def close(self) -> None:
        """Stop the work; closing twice, or after the end, is fine."""
        with self._turns:
            self._pieces.close()
