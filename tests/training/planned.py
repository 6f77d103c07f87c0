"""An invented rehearsal with round figures, and bases to plan for."""

from pathlib import Path
from typing import Any, ClassVar

import torch

from insitu.backbones.precision import Precision
from insitu.backbones.unet import InpaintBackbone
from insitu.params import Checkpoint
from insitu.training.memory import Run, predict
from insitu.training.memory.rehearsal import Frozen
from insitu.training.optimizers import Optimization
from insitu.training.recipe import Devices

NANO = Path(__file__).resolve().parents[2] / "models" / "nano" / "sdxl-inpaint"
SETTINGS = {
    "rank": 4, "targets": ["to_k", "to_v"], "inside": 1.5, "outside": 0.7, "beta": 0.4, "steps": 1,
    "local": 1.0, "enlarge": 0.0, "background": "original", "substitute": "tokens",
    "scheduler": "own", "rescale": 0.0,
    "guidance_scale": 2.0, "context": 0.3,
}  # fmt: skip
ADAMW = Optimization(name="adamw", lr=1e-3)
FACTS = {"photos": "random"}
HERE = "insitu.training.memory.limits"
CPU, CUDA = torch.device("cpu"), torch.device("cuda")


def load(device: torch.device, base: Path = NANO) -> InpaintBackbone:
    return InpaintBackbone.load(Checkpoint(path=str(base)), device=device)


GIB = 2**30
PART = Frozen(
    base=8 * GIB, blocks=6 * GIB, block=GIB // 2, text=2 * GIB, others=GIB, widened=0,
    widened_block=0, widened_layer=0,
)  # fmt: skip
INT8 = Frozen(
    base=5 * GIB, blocks=3 * GIB, block=GIB // 4, text=GIB, others=GIB, widened=6 * GIB,
    widened_block=GIB // 2, widened_layer=GIB // 8,
)  # fmt: skip
NF4 = Frozen(
    base=3 * GIB, blocks=GIB, block=GIB // 8, text=GIB // 2, others=GIB, widened=6 * GIB,
    widened_block=GIB // 2, widened_layer=GIB // 8,
)  # fmt: skip


class Invented:
    """A rehearsal with round figures: an example takes 4 GiB, what learns 1 GiB of each kind."""

    frozen: ClassVar = {"none": PART, "int8wo": INT8, "nf4": NF4}
    recomputes = True

    def training(self, examples: int, several_turns: bool, recompute: bool) -> dict[str, int]:
        learning = dict.fromkeys(("adapter", "gradients", "optimizer", "average"), GIB)
        return learning | {"activations": examples * GIB * (1 if recompute else 4)}

    def painting(self, pictures: int) -> dict[str, int]:
        return {"adapter": GIB, "activations": pictures * GIB}


class Keeping(Invented):
    """One of a base that cannot compute activations again."""

    recomputes = False


def run(**changed: Any) -> Run:
    values = {
        "batch": 4, "pictures": 1, "devices": Devices(), "precision": Precision(), "device": CUDA,
    } | changed  # fmt: skip
    return Run(**values)


def predicted(**changed: Any) -> dict[str, int]:
    """Whole GiB of training by kind, and of all."""
    plan = predict(Invented(), run(**changed))  # type: ignore[arg-type]
    found = plan.phases["training"]
    return {kind: size // GIB for kind, size in found.items()} | {"all": plan.peak // GIB}
