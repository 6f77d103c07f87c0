"""Guidance, distilled: the guidance embedding learns what classifier-free guidance would give.

Meng et al., "On Distillation of Guided Diffusion Models" (2023), eq. 3: the student at guidance g
matches v_empty + g (v_caption - v_empty) of the frozen teacher, g uniform in [1, 5]. FLUX.1-dev was
made in this way; afterwards one forward pass a step does the work of two.
"""

from copy import deepcopy
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from insitu import world

from . import corpus, muon, pictures
from .loop import FitResult, fit, trapezoid
from .settings import read

if TYPE_CHECKING:
    from .flux import Trainer

WEAKEST, STRONGEST = 1.0, 5.0


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Section `flux-guidance` of params.yaml.

    Attributes:
        steps, batch: optimizer steps and pictures in each.
        lr: Muon's; `rest_lr`: AdamW's; `warmup`, `cooldown`: steps of the ramps.
        ema: decay of the weights' average.
    """

    steps: int
    batch: int
    lr: float
    rest_lr: float
    warmup: int
    cooldown: int
    ema: float


def distil(trainer: "Trainer", taught_steps: int) -> FitResult:
    """Replace the trainer's transformer by one that obeys `guidance`; texts' encoders stay.

    `taught_steps` = the teacher's optimizer steps: another teacher makes another student.
    """
    settings = read("flux-guidance", Settings)
    student = trainer.modules["transformer"].train()
    teacher = deepcopy(student).eval().requires_grad_(False)
    matrices, rest = muon.split(student)

    def step(i: int) -> dict[str, Tensor]:
        rng = world.rng_for("flux-guidance", i)
        batch = trainer.draw(pictures.SIZE, settings.batch, 1.0, rng, drop=0.0, seed=i)
        g = WEAKEST + (STRONGEST - WEAKEST) * torch.rand(
            settings.batch, generator=torch.Generator().manual_seed(i)
        )
        with torch.no_grad():
            tokens, pooled = trainer.encode(batch.texts, batch.length)
            empty = trainer.encode(np.zeros_like(batch.texts), batch.length)
            told = batch.velocity(teacher, tokens, pooled, g)
            untold = batch.velocity(teacher, *empty, g)
        target = untold + g[:, None, None] * (told - untold)
        return {"guidance": (batch.velocity(student, tokens, pooled, g) - target).square().mean()}

    optimizers = [
        muon.Muon(matrices, lr=settings.lr),
        torch.optim.AdamW(rest, settings.rest_lr, (0.9, 0.99), weight_decay=0.0),
    ]
    modules: dict[str, nn.Module] = {"transformer": student}
    result = fit(
        modules=modules, optimizers=optimizers, step=step, steps=settings.steps,
        work=corpus.ROOT / f"flux-guidance-{taught_steps}", ema=settings.ema,
        schedule=trapezoid(settings.steps, settings.warmup, settings.cooldown),
        fingerprint=asdict(settings) | {"world": world.WORLD_VERSION, "taught": taught_steps},
        samples_per_step=settings.batch,
    )  # fmt: skip
    student.load_state_dict(result.ema_state("transformer"))
    student.eval()
    return result
