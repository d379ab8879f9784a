"""Accuracy of one arm: over all, per task type and per family, each beside guessing; and what it does with doubt."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Sequence
from typing import Any

from tam_edge.models.evaluate.ask import Reply
from tam_edge.models.evaluate.intervals import count, share
from tam_edge.models.street.doubts import CANNOT_TELL
from tam_edge.models.street.score import score


def summarise(replies: Sequence[Reply], task_names: Sequence[str], videos: int) -> dict[str, Any]:
    """Accuracy over all, per task type and per family, each beside its majority baseline.

    The baseline always gives the most frequent answer of the question's family: knowing the family, seeing nothing.
    """
    answers: dict[str, Counter[str]] = {}
    for reply in replies:
        answers.setdefault(reply.question.family, Counter())[reply.question.answer] += 1
    best = {family: counter.most_common(1)[0][0] for family, counter in answers.items()}
    tasks = sorted({reply.question.task for reply in replies})
    named = {task: task_names[task - 1] for task in tasks}
    return {
        **_scores(replies, best, videos),
        "inductor_accuracy": _mean([reply.task == named[reply.question.task] for reply in replies]),
        **looked_at(replies),
        **doubt(replies, videos),
        "per_task": {
            named[task]: _scores([reply for reply in replies if reply.question.task == task], best, videos)
            for task in tasks
        },
        "per_family": {
            family: {**_scores(group, best, videos), "task": named[group[0].question.task]}
            for family in sorted(best)
            if (group := [reply for reply in replies if reply.question.family == family])
        },
    }


def accuracy(replies: Sequence[Reply], videos: int) -> dict[str, Any]:
    """Share of right answers, its interval, and the number of questions."""
    found = share(count(((reply.video, reply.right) for reply in replies), videos))
    return {"accuracy": found["share"], "ci95": found["ci95"], "questions": found["questions"]}


def looked_at(replies: Sequence[Reply]) -> dict[str, float]:
    """Mean number of frames and of visual tokens a question was answered from."""
    return {
        "mean_frames": round(statistics.fmean(reply.frames for reply in replies), 2),
        "mean_visual_tokens": round(statistics.fmean(reply.visual_tokens for reply in replies), 1),
    }


def doubt(replies: Sequence[Reply], videos: int) -> dict[str, Any]:
    """How often "I can't tell" is said where it is right, and where it is not, with intervals."""
    said = [
        (reply.video, score(reply.said, CANNOT_TELL), score(reply.question.answer, CANNOT_TELL)) for reply in replies
    ]
    return {
        "cannot_tell": share(count(((video, told) for video, told, due in said if due), videos)),
        "false_refusals": share(count(((video, told) for video, told, due in said if not due), videos)),
    }


def _scores(replies: Sequence[Reply], best: dict[str, str], videos: int) -> dict[str, Any]:
    majority = _mean([reply.question.answer == best[reply.question.family] for reply in replies])
    return {**accuracy(replies, videos), "majority": majority}


def _mean(hits: Sequence[bool]) -> float:
    return round(statistics.fmean(hits), 4)
