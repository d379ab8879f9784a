"""The folder a training run leaves and the export reads: three weight files and the sizes they were trained with.

RUN/config.json, RUN/vision.safetensors, RUN/projectors.safetensors, RUN/language.safetensors.
"""

from __future__ import annotations

from pathlib import Path

from safetensors.torch import load_file, save_file
from torch import nn

from tam_edge.models.config import TallVAConfig
from tam_edge.models.tallva import TallVA

CONFIG_FILE = "config.json"
"""Name of the file that holds a TallVAConfig as JSON."""
PARTS = ("vision", "projectors", "language")
"""Sub-modules of TallVA, one safetensors file each."""


def save_checkpoint(run: Path, model: TallVA) -> None:
    """Write weights in float32 and sizes into the folder `run`; a file is replaced only when it is complete."""
    run.mkdir(parents=True, exist_ok=True)
    for part in PARTS:
        module: nn.Module = getattr(model, part)
        tensors = {key: value.detach().float().cpu().contiguous() for key, value in module.state_dict().items()}
        partial = run / f"{part}.safetensors.partial"
        save_file(tensors, partial)
        partial.replace(run / f"{part}.safetensors")
    (run / CONFIG_FILE).write_text(model.config.to_json() + "\n")


def load_checkpoint(run: Path) -> TallVA:
    """The model in evaluation mode.

    Raises:
        FileNotFoundError: a file of the run is missing.
        RuntimeError: a weight file does not match config.json.
    """
    model = TallVA(TallVAConfig.from_json((run / CONFIG_FILE).read_text()))
    for part in PARTS:
        getattr(model, part).load_state_dict(load_file(run / f"{part}.safetensors"))
    return model.eval()
