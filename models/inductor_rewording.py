"""The same question in other words, by rule: topic first, clause first, as a noun, as something asked indirectly.

Public and written questions mostly begin with their question word; people often do not. A rule changes the order and
the frame of a training question and keeps what is asked, so its task type stays. Some results are clumsy, as typed
questions are. The paraphrases an Inductor is measured on were written by hand and know nothing of these rules.
"""

from __future__ import annotations

import re
from typing import Final

import numpy as np

from tam_edge.models.inductor_phrases import pick

_BE = r"(?P<be>is|are|was|were)"
_DO = r"(?P<do>does|do|did)"
_SUBJECT = r"(?P<np>(?:the|this|that|his|her|my|their|our) (?:\w+ )??\w+|he|she|it|they|there|anyone|anybody|someone)"
_DOING = r"(?P<doing>doing|wearing|holding|eating|drinking|playing|carrying|using|making|watching|riding|looking at)"

_RULES: Final = tuple(
    (re.compile(pattern), forms)
    for pattern, forms in (
        (
            r"^(?P<q>(?:what|how|where|why|who|which|is|are|was|were|did|does|do) \S+ .*?)"
            r" (?P<clause>(?:after|before|while|when|during|once|as) \w+.*)$",
            ("{clause}, {q}", "{clause} - {q}", "{clause}: {q}", "so {clause}, {q}"),
        ),
        (
            r"^(?P<q>(?:what|how|where|why|who|which) \S+ .*?)"
            r" (?P<clause>(?:in|on|at|near|behind|under|by) (?:the|a|his|her|my|this) \w+(?: \w+){0,3})$",
            ("{clause}, {q}", "{clause} - {q}", "looking {clause}: {q}"),
        ),
        (
            rf"^what {_BE} (?P<np>.+?) {_DOING}(?P<rest>.*)$",
            (
                "{np}, what {be} they {doing}{rest}",
                "{np} {be} {doing} what{rest}",
                "tell me what {np} {be} {doing}{rest}",
                "{np}: {doing} what{rest}",
            ),
        ),
        (
            rf"^where {_BE} (?P<np>.+)$",
            (
                "{np}, where {be} that",
                "the whereabouts of {np}",
                "tell me where {np} {be}",
                "i am looking for {np}, where could i find that",
                "point me to {np}",
                "in what place {be} {np}",
            ),
        ),
        (
            r"^why (?P<rest>.+)$",
            (
                "for what reason {rest}",
                "the reason why {rest}",
                "what is the explanation, why {rest}",
                "what could explain this: why {rest}",
            ),
        ),
        (
            r"^how many times (?P<rest>.+)$",
            (
                "count how often {rest}",
                "how often {rest}",
                "the number of times {rest}",
                "on how many occasions {rest}",
                "keep a tally, how many times {rest}",
            ),
        ),
        (
            rf"^how many (?!times|laps|rounds|turns|attempts)(?P<np>.+?) {_BE} (?P<rest>.+)$",
            (
                "count the {np} that {be} {rest}",
                "the number of {np} {rest}",
                "{np} that {be} {rest}: how many",
                "what number of {np} {be} {rest}",
            ),
        ),
        (
            rf"^what colou?r {_BE} (?P<np>.+)$",
            (
                "{np}: which colour",
                "the colour of {np}",
                "in what colour {be} {np}",
                "{np} {be} of what colour",
                "tell me the colour that {np} {be}",
            ),
        ),
        (
            rf"^what {_BE} the (?P<what>\w+) of (?P<np>.+)$",
            (
                "{np}: what {be} the {what}",
                "which {what} does {np} have",
                "{np} has which {what}",
                "the {what} of {np}",
            ),
        ),
        (
            rf"^{_BE} {_SUBJECT} (?P<rest>.+)$",
            (
                "whether {np} {be} {rest}",
                "tell me if {np} {be} {rest}",
                "please check whether {np} {be} {rest}",
                "{np} {be} {rest}, right or wrong",
                "would you say {np} {be} {rest}",
                "i can't see whether {np} {be} {rest}",
            ),
        ),
        (
            rf"^{_DO} {_SUBJECT} (?P<rest>.+)$",
            ("what about {np}, do they {rest}", "yes or no, {do} {np} {rest}", "i wonder, {do} {np} {rest}"),
        ),
        (
            rf"^how {_DO} (?P<np>.+?) feel(?P<rest>.*)$",
            ("the feelings of {np}{rest}", "what feelings {do} {np} show{rest}", "{np}, how {do} they feel{rest}"),
        ),
        (
            rf"^how {_BE} (?P<np>.+?) feeling(?P<rest>.*)$",
            ("what mood {be} {np} in{rest}", "{np}, what {be} their mood{rest}", "the frame of mind of {np}{rest}"),
        ),
        (
            r"^what (?P<happen>happens|happened) (?P<when>after|before|when|while) (?P<rest>.+)$",
            (
                "{rest} - what {happen} {when} that",
                "{when} {rest}, what {happen}",
                "{rest}. {when} this, what {happen}",
            ),
        ),
        (
            rf"^who {_BE} (?P<rest>.+)$",
            ("somebody {be} {rest}, who", "the person who {be} {rest}, who {be} it", "name the one who {be} {rest}"),
        ),
        (
            r"^what (?:kind|type|sort) of (?P<rest>.+)$",
            ("which kind of {rest}", "the sort of {rest}", "of what type, the {rest}"),
        ),
        (
            rf"^what {_BE} (?P<np>.+) about$",
            ("the subject of {np}", "what does {np} deal with", "{np}, what's the content", "what's treated in {np}"),
        ),
        (
            r"^(?:please )?summari[sz]e (?P<np>.+)$",
            (
                "{np} in a few words",
                "boil {np} down for me",
                "i have no time for {np}, what's in it",
                "a short version of {np}",
            ),
        ),
        (
            r"^list (?P<np>the .+)$",
            ("give me {np}, one after the other", "what were {np} again", "i need {np}"),
        ),
        (
            r"^according to (?P<np>(?:the|this) \w+),? (?P<q>.+)$",
            ("{q}, going by {np}", "{np} explains it: {q}", "as {np} tells it, {q}"),
        ),
        (
            r"^what (?:does|do|did) (?P<np>.*(?:sign|label|screen|board|display|caption|note|poster|banner|shirt).*)"
            r" (?:say|read)$",
            (
                "the wording of {np}",
                "{np} reads what",
                "{np}: what's written there",
                "what can be read on {np}",
                "what words are on {np}",
            ),
        ),
        (
            r"^what is (?:the )?(?P<what>number|name|price|date|title|word|text|letter) on (?P<np>.+)$",
            ("{np}: which {what} is on it", "which {what} does {np} carry", "{np} bears what {what}"),
        ),
        (
            r"^read (?!me )(?P<np>.+)$",
            ("{np}: read it to me", "what can be read, {np}", "can you make out {np}", "{np}, word for word"),
        ),
    )
)
"""Frames of a question and how else it is said; `{name}` is the pattern's group."""

_SHORT: Final = re.compile(r"\b(what|where|who|how)'?s\b")


def reworded(question: str, rng: np.random.Generator) -> str:
    """The question in other words; as it was where no rule knows its frame."""
    text = _SHORT.sub(r"\1 is", question.rstrip(" ?.!").lower())
    found = [(match, forms) for pattern, forms in _RULES if (match := pattern.match(text))]
    if not found:
        return question
    match, forms = found[int(rng.integers(len(found)))]
    return pick(forms, rng).format(**{name: value or "" for name, value in match.groupdict().items()})
