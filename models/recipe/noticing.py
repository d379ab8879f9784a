"""Stage 2a: the lower blocks of the decoder learn to take notes, on symbols, before anything is asked.

Without questions a clip costs a fifth, and pays for a few hundred facts. What comes after builds on it: a question
about what happened after something else has only to find the frame that has noted it.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, fields, replace
from pathlib import Path

import torch
from tokenizers import Tokenizer
from torch import Tensor, nn

from tam_edge.models.config import TallVAConfig
from tam_edge.models.language import LanguageModel
from tam_edge.models.projector import ChangeEmbedding, PositionEmbedding
from tam_edge.models.recipe.accelerator import mixed_precision, training_device
from tam_edge.models.recipe.guidance import Guidance, notice
from tam_edge.models.recipe.loop import Stage, run_stage
from tam_edge.models.recipe.parallel import my_share
from tam_edge.models.recipe.start import start_looking
from tam_edge.models.recipe.symbols import Symbols, mark, view_labels
from tam_edge.models.recipe.views import View, busy_view, random_view

NOTICING = Stage("noticing", steps=2400, muon_lr=2.5e-3, adam_lr=2.5e-3, warmup_steps=30, decay_from=0.3)
VIEWS_PER_STEP = 8
BUSY = 0.5  # chance that everything in a view comes and goes
STILL, SMALL = 0.1, 0.75  # chances that another view is a picture, and that another clip is cut short


@dataclass(frozen=True, slots=True)
class Reader:
    """What symbols teach: decoder, embeddings of position and change, and the heads that are thrown away."""

    language: LanguageModel
    position: PositionEmbedding
    change: ChangeEmbedding
    guidance: Guidance

    @property
    def modules(self) -> dict[str, nn.Module]:
        """What is trained, by the name it has in a checkpoint."""
        return {field.name: getattr(self, field.name) for field in fields(self)}

    def see(self, symbols: Symbols, view: View) -> Tensor:
        """Symbolic visual tokens [T, d] of a view."""
        tokens = symbols.tokens(view_labels(view), view.grid, self.language.embed_tokens.weight)
        return mark(tokens, view, position=self.position, change=self.change)


def new_reader(config: TallVAConfig, tokenizer: Tokenizer) -> Reader:
    """An untrained one; draws from torch's generator."""
    sizes = replace(config.language, vocab_size=tokenizer.get_vocab_size())
    assert config.projector.position is not None
    language, position = LanguageModel(sizes), PositionEmbedding(config.projector.position, sizes.width)
    start_looking(language)
    return Reader(language, position, ChangeEmbedding(sizes.width), Guidance(language, tokenizer))


def learn_to_notice(
    run: Path, config: TallVAConfig, tokenizer: Tokenizer, *, seed: int = 0, stage: Stage = NOTICING
) -> Reader:
    """Train, or go on training, on notes alone; leaves RUN/noticing.pt."""
    torch.manual_seed(seed)
    reader, device, symbols = new_reader(config, tokenizer), training_device(), Symbols(tokenizer)
    for module in reader.modules.values():
        module.to(device)

    def loss_of_step(step: int) -> Tensor:
        total = torch.zeros((), device=device)
        for index in my_share(VIEWS_PER_STEP):
            rng = random.Random(f"noticing-{seed}-{step}-{index}")
            view = busy_view(rng) if rng.random() < BUSY else random_view(rng, STILL, SMALL)
            with mixed_precision(device):
                visual = reader.see(symbols, view)
                loss = notice(reader.language, reader.guidance, view, visual) / VIEWS_PER_STEP
            loss.backward()
            total += loss.detach()
        return total

    run_stage(stage, reader.modules, loss_of_step, run)
    return reader
