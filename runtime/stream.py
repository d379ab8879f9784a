"""What a caller holds while an answer is being made: its pieces, and then the answer."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from types import TracebackType

from tam_edge.runtime.answer import Answer
from tam_edge.runtime.errors import UsageError
from tam_edge.runtime.plan import Plan
from tam_edge.runtime.turns import Turns


class AnswerStream(Iterator[str]):
    """The pieces of an answer; work is done while it is iterated over."""

    def __init__(self, plan: Plan, pieces: Generator[str, None, Answer], turns: Turns) -> None:
        self.plan = plan
        """What will be looked at."""
        self._pieces = pieces
        self._turns = turns  # at the engines, for each piece anew
        self._answer: Answer | None = None

    @property
    def answer(self) -> Answer:
        """The whole answer, once the last piece was taken.

        Raises: UsageError before that, and after `close`.
        """
        if self._answer is None:
            raise UsageError("the answer is not complete: take every piece first")
        return self._answer

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

    def __enter__(self) -> AnswerStream:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
