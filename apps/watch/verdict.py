"""What can be a rule, and what an answer to it says: yes, no, or neither."""

from __future__ import annotations

import re
from typing import Literal

from tam_edge.runtime.errors import UsageError
from tam_edge.runtime.inductor import check_question

Verdict = Literal["yes", "no", "unknown"]
_WORD = re.compile(r"[a-z]+(?:['\u2019][a-z]+)?")
_BEGINNING = re.compile(
    r"am|(is|are|was|were|do|does|did|has|have|had|could|would|should|might|must)(n't)?|can|can't|will|won't|shall|may"
)
_OPEN = re.compile(r"what|which|who|whom|whose|when|where|why|how")
_DOUBT = re.compile(r"no (?:idea|way to|clue)\b")


def check_rule(question: str) -> str:
    """The question, if it can be answered with yes or no: in English it then begins with a verb such as "is".

    Words before a comma or a colon may come first: "right now, is anybody there?".

    Raises: UsageError, QuestionError.
    """
    question = check_question(question)
    clauses = [found[0] for part in re.split(r"[,:;]", question.lower()) if (found := _WORD.search(part))]
    first = [word.replace("\u2019", "'") for word in clauses]
    if not first or _OPEN.fullmatch(first[0]) or not any(map(_BEGINNING.fullmatch, first)):
        text = f"the rule {question[:80]!r} cannot be answered with yes or no: begin it with is, are, does, has or can"
        raise UsageError(text)
    return question


def verdict_of(answer: str) -> Verdict:
    """What an answer says, by its first word: "Yes, there is" is yes, "I can't tell" is unknown."""
    found = _WORD.search(answer.lower())
    word = found[0] if found else ""
    if word == "no" and not _DOUBT.match(answer.lower(), found.start() if found else 0):
        return "no"
    return "yes" if word == "yes" else "unknown"
