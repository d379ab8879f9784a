"""Stage 2b: the language model learns to look, on symbols: scenes that are never rendered, at every grid and length.

What shows in its answers late is taught directly as well (`guidance.py`), some heads start as it needs them
(`start.py`), and its lower blocks have learned to take notes: words are bound to patches in a tenth of the steps.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from tokenizers import Tokenizer
from torch import Tensor
from torch.nn import functional

from tam_edge.models.config import TallVAConfig
from tam_edge.models.language import LanguageModel
from tam_edge.models.recipe.accelerator import mixed_precision, training_device
from tam_edge.models.recipe.guidance import NOTES_WEIGHT, notice
from tam_edge.models.recipe.loop import Stage, run_stage
from tam_edge.models.recipe.noticing import new_reader
from tam_edge.models.recipe.pack import Packed, pack
from tam_edge.models.recipe.parallel import my_share
from tam_edge.models.recipe.symbols import Symbols
from tam_edge.models.recipe.views import View, busy_view, people_view, random_view
from tam_edge.models.street.question import Question

VIEWS_PER_STEP = 6
SYMBOLS = Stage("symbols", steps=1600, muon_lr=2.5e-3, adam_lr=2.5e-3, warmup_steps=30, decay_from=0.3)
BUSY = 0.15  # chance that a view is full of events and only noted: what happens when is learned last
EVALUATION_VIEWS = 60
FAMILY_WEIGHTS = {  # others weigh 1; what is learned at once is asked less, what takes two looks more
    **dict.fromkeys(("setting", "weather", "title", "view", "job", "summary"), 0.4),
    **dict.fromkeys(("action", "arms", "held", "where", "doubt where", "car colour", "dog action"), 0.6),
    **dict.fromkeys(("doubt mood", "doubt car colour", "doubt dog action", "doubt sign word"), 0.6),
    **dict.fromkeys(("count", "count at once", "count at the end"), 2.0),
    **dict.fromkeys(("why stopped", "advice", "is safe", "development", "exists", "light changes"), 2.0),
    **dict.fromkeys(("first", "last", "after", "before", "order", "doubt after"), 2.5),
    **dict.fromkeys(("who does", "is doing", "is mood", "is left", "neighbour", "car code"), 3.0),
}


def answer_loss(language: LanguageModel, packed: Packed, visual: Tensor) -> Tensor:
    """Mean cross-entropy of the answers' tokens; `visual` [T, d]."""
    logits = language.logits(_answer_states(language, packed, visual))
    return functional.cross_entropy(logits.float(), packed.targets[packed.targets >= 0].to(logits.device))


@torch.no_grad()
def right_answers(language: LanguageModel, packed: Packed, visual: Tensor) -> list[bool]:
    """Per packed question, whether every answer token is the most likely one (what greedy decoding would say)."""
    kept = packed.targets >= 0
    hits = language.logits(_answer_states(language, packed, visual)).argmax(-1).cpu() == packed.targets[kept]
    places = torch.nonzero(kept).flatten()
    right, last = [], -2
    for place, hit in zip(places.tolist(), hits.tolist(), strict=True):
        if place != last + 1:
            right.append(True)
        right[-1] = right[-1] and hit
        last = place
    return right


def _answer_states(language: LanguageModel, packed: Packed, visual: Tensor) -> Tensor:
    """States [A, d] from which the answers' tokens are read."""
    words = language.embed_tokens
    device, dtype = words.weight.device, words.weight.dtype
    parts = (words(packed.before.to(device)), visual.to(device, dtype), words(packed.text.to(device)))
    mask, positions = packed.mask[None, None].to(device), packed.positions.unsqueeze(0).to(device)
    rows = (torch.nonzero(packed.targets >= 0).flatten() + len(packed.before) + packed.visual_tokens).to(device)
    return language.hidden_states(torch.cat(parts).unsqueeze(0), mask, positions, rows)[0]


@dataclass(frozen=True, slots=True)
class Lesson:
    """What a part of the stage teaches with."""

    people: float
    """Chance that a view is a picture of people, with hints about them alone."""
    still: float
    """Chance that another view is a picture."""
    small: float
    """Chance that a view is cut short."""
    questions: int
    """Most questions of a view; 0 leaves only hints."""
    hints: int
    """Most hints of a view."""


def lesson_at(fraction_done: float) -> Lesson:
    """One hop about people in pictures first, until names are bound; then sentences; then clips, short ones first."""
    if fraction_done < 0.13:
        return Lesson(people=1.0, still=1.0, small=1.0, questions=0, hints=24)
    if fraction_done < 0.4:
        return Lesson(people=0.3, still=0.6, small=0.9, questions=12, hints=14)
    if fraction_done < 0.75:
        return Lesson(people=0.1, still=0.3, small=0.8, questions=14, hints=8)
    return Lesson(people=0.05, still=0.2, small=0.3, questions=16, hints=6)


def choose_questions(view: View, rng: random.Random, most: int = 16, hints: int = 4) -> list[Question]:
    """At most `most` questions of the view, drawn by the weights of their families, and at most `hints` hints."""
    drawn = [(rng.random() ** (1 / FAMILY_WEIGHTS.get(question.family, 1.0)), question) for question in view.asked]
    drawn.sort(key=lambda pair: pair[0], reverse=True)  # weighted, without replacement
    chosen = [question for _, question in drawn[:most]] + rng.sample(view.hints, min(hints, len(view.hints)))
    return chosen or [view.asked[0]]


def train_on_symbols(
    run: Path, config: TallVAConfig, tokenizer: Tokenizer, *, seed: int = 0, stage: Stage = SYMBOLS
) -> None:
    """Train, or go on training, decoder and position embedding on symbols; leaves RUN/symbols.pt."""
    reader, device, symbols = new_reader(config, tokenizer), training_device(), Symbols(tokenizer)
    language, guidance = reader.language, reader.guidance
    noticed = torch.load(run / "noticing.pt", weights_only=True)["modules"]
    for name, module in reader.modules.items():
        module.load_state_dict(noticed[name])
        module.to(device)

    def loss_of_step(step: int) -> Tensor:
        total = torch.zeros((), device=device)
        for index in my_share(VIEWS_PER_STEP):
            rng = random.Random(f"symbols-{seed}-{step}-{index}")
            if rng.random() < BUSY:
                view = busy_view(rng)
                with mixed_precision(device):
                    noted = NOTES_WEIGHT * notice(language, guidance, view, reader.see(symbols, view))
                (noted / VIEWS_PER_STEP).backward()
                continue
            lesson = lesson_at(step / stage.steps)
            by_name = rng.random() < lesson.people
            view = people_view(rng) if by_name else random_view(rng, lesson.still, lesson.small)
            asked = choose_questions(view, rng, lesson.questions, lesson.hints)
            packed = pack(tokenizer, view, asked)
            with mixed_precision(device):
                loss = answer_loss(language, packed, reader.see(symbols, view))
                guided = loss + guidance.loss(view, asked, packed)
            (guided / VIEWS_PER_STEP).backward()
            total += loss.detach() / VIEWS_PER_STEP
        return total

    def evaluate() -> str:
        kinds = {"clips": 0.0, "stills": 1.0}
        return accuracy_by_family(language, tokenizer, {kind: _views(kind, still) for kind, still in kinds.items()})

    def _views(kind: str, still: float) -> Callable[[], list[tuple[View, Tensor]]]:
        views = [random_view(random.Random(f"evaluation-{seed}-{kind}-{i}"), still) for i in range(EVALUATION_VIEWS)]
        return lambda: [(view, reader.see(symbols, view)) for view in views]

    run_stage(stage, reader.modules, loss_of_step, run, evaluate=evaluate, evaluate_every=500)


@torch.no_grad()
def accuracy_by_family(
    language: LanguageModel, tokenizer: Tokenizer, kinds: dict[str, Callable[[], list[tuple[View, Tensor]]]]
) -> str:
    """Greedy accuracy per family, a line for each kind of views; a view comes with its visual tokens [T, d]."""
    lines = []
    for kind, views in kinds.items():
        tally: dict[str, list[bool]] = {}
        with mixed_precision(language.embed_tokens.weight.device):
            for view, visual in views():
                asked = [*view.asked, *view.hints]
                hits = right_answers(language, pack(tokenizer, view, asked), visual)
                for question, hit in zip(asked, hits, strict=True):
                    name = (
                        question.text.split(":")[-1].removeprefix("the ").strip(" 0123456789") + "*"
                        if question in view.hints
                        else question.family
                    )
                    tally.setdefault(name, []).append(hit)
        mean = sum(map(sum, tally.values())) / sum(map(len, tally.values()))
        scores = " ".join(f"{family} {sum(hits) / len(hits):.2f}" for family, hits in sorted(tally.items()))
        lines.append(f"{kind} {mean:.3f}: {scores}")
    return "\n  ".join(lines)
