"""What fewer bits cost the nano base: error of its predictions and pictures, memory of a step.

All on a CPU in bfloat16. torchao's formats are loaded as `Precision` says. diffusers quantizes with
bitsandbytes on a GPU only; here its layers, which have CPU kernels, take the place of the linear
ones that loading would quantize. Memory is what torch's profiler sees allocated and freed, beside
what the plan predicts.

    python -m benchmarks.quantized     # ten minutes of one busy core; needs insitu[quantize]
"""

import gc
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.memory_plan import CPU, METHOD, NANO, allocations
from insitu import world
from insitu.backbones.precision import LIBRARY, Precision, Quantize, quantized_layers
from insitu.backbones.unet import InpaintBackbone
from insitu.methods import Example, Method, find
from insitu.training.memory import Rehearsal, Run, predict
from insitu.training.optimizers import Optimization, make
from insitu.training.recipe import Devices

MODES: tuple[Quantize, ...] = ("none", "int8", "int8wo", "fp8", "nf4")
PICTURES, BATCH, STEPS = 4, 2, 10
DTYPE = torch.bfloat16
ADAMW = Optimization(name="adamw", lr=1e-3)


def load(kind: Quantize, dtype: torch.dtype = DTYPE) -> InpaintBackbone:
    of_torchao = LIBRARY.get(kind) == "torchao"
    held = Precision(dtype=dtype, quantize=kind if of_torchao else "none")
    backbone = InpaintBackbone.load(NANO, device=CPU, precision=held)
    if LIBRARY.get(kind) == "bitsandbytes":
        for name, layer in list(quantized_layers(backbone.unet, kind)):
            backbone.unet.set_submodule(name, _small(layer, kind))
    return backbone


def _small(layer: nn.Linear, kind: Quantize) -> nn.Module:
    import bitsandbytes as bnb

    sizes, bias = (layer.in_features, layer.out_features), layer.bias is not None
    small: Any
    if kind == "nf4":
        small = bnb.nn.Linear4bit(*sizes, bias=bias, quant_type="nf4", compute_dtype=DTYPE)
        # Some processors would repack the weights when they first compute, for inference only.
        small.support_avx512bf16_for_cpu = False
    else:
        small = bnb.nn.Linear8bitLt(*sizes, bias=bias, has_fp16_weights=False)
    small.load_state_dict(layer.state_dict())
    return small.to(DTYPE).to("cpu").requires_grad_(False)


def examples() -> list[Example]:
    """Portraits of the world's subjects with the middle of each to be filled."""
    side, found = 64, []
    mask = np.zeros((side, side), np.uint8)
    mask[16:48, 16:48] = 255
    for k in range(PICTURES):
        subject = world.sample_subject(world.rng_for("quantized", k))
        picture = world.portrait(subject, world.rng_for("quantized", k, 0), side).image
        words = world.article(subject.category)
        found.append(Example(id=str(k), image=picture, mask=mask, prompt=words, pool="subject"))
    return found


@torch.no_grad()
def predicted(backbone: InpaintBackbone, shown: list[Example], z_0: Tensor) -> Tensor:
    """What the U-Net says of the same noised latents, float32."""
    images, masks = np.stack([e.image for e in shown]), np.stack([e.mask for e in shown])
    noise = torch.randn(z_0.shape, generator=torch.Generator().manual_seed(0))
    t = backbone.timesteps(torch.linspace(0.05, 0.95, len(shown)))
    z_t = backbone.schedule.add_noise(z_0, noise, t)
    text = backbone.encode_text(tuple(e.prompt for e in shown))
    holed, mask = backbone.encode_holed(images, masks), backbone.latent_mask(masks)
    return backbone.predict(z_t, t, mask, holed, text)


def filled(backbone: InpaintBackbone, shown: list[Example]) -> np.ndarray:
    pictures = backbone.fill(
        [e.image for e in shown], [e.mask for e in shown], [e.prompt for e in shown],
        list(range(len(shown))), steps=STEPS, guidance_scale=4.0,
    )  # fmt: skip
    return np.stack(pictures).astype(float)


def errors() -> None:
    shown, exact = examples(), load("none", torch.float32)
    z_0 = exact.encode(np.stack([e.image for e in shown]))
    wanted, pictures = predicted(exact, shown, z_0), filled(exact, shown)
    print(f"| against float32, {PICTURES} pictures | {' | '.join(MODES)} |")
    print("|---" * (1 + len(MODES)) + "|")
    rows: tuple[list[str], list[str]] = ([], [])
    for kind in MODES:
        backbone = load(kind)
        off = (predicted(backbone, shown, z_0) - wanted).norm() / wanted.norm()
        rows[0].append(f"{off:.1%}")
        rows[1].append(f"{np.abs(filled(backbone, shown) - pictures).mean():.1f}")
    print(f"| relative error of the predictions | {' | '.join(rows[0])} |")
    print(f"| mean difference of the pictures, of 255 | {' | '.join(rows[1])} |\n", flush=True)


def step(backbone: InpaintBackbone, method: Method, told: dict[str, Tensor]) -> None:
    """Two steps of training; from the second on they take the same memory."""
    adapter = method.attach(backbone)
    optimizer = make(adapter.named_parameters(), ADAMW)
    for _ in range(2):
        noise, t = torch.randn_like(told["z_0"]), torch.rand(BATCH)
        loss = torch.stack(list(method.loss(backbone, told, noise, t).values())).sum(0).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    method.detach(backbone)


def measured(kind: Quantize, recompute: bool) -> int:
    """Bytes at the peak of a step, beside the loaded weights."""
    backbone, method = load(kind), find("dreammix", METHOD)
    shown = examples()[:BATCH]
    told = method.condition(backbone, shown)
    text = backbone.encode_text(tuple(e.prompt for e in shown))
    told |= {"text.context": text.context, "text.pooled": text.pooled}
    if recompute:
        backbone.denoiser.enable_gradient_checkpointing()
    gc.collect()  # or frees of what an earlier run allocated would count
    with allocations() as found:
        step(backbone, method, told)
    return max(found)


def memory() -> None:
    rehearsal = Rehearsal(
        lambda: InpaintBackbone.empty(NANO, precision=Precision(dtype=DTYPE)),
        find("dreammix", METHOD), optimizer=ADAMW, average=False,
    )  # fmt: skip
    print(f"| MiB beside the weights, batch {BATCH}: measured, predicted | {' | '.join(MODES)} |")
    print("|---" * (1 + len(MODES)) + "|")
    for recompute, words in ((False, "without"), (True, "with")):
        shown = []
        for kind in MODES:
            run = Run(
                batch=BATCH, pictures=1, devices=Devices(), device=CPU, recompute=recompute,
                precision=Precision(dtype=DTYPE, quantize=kind),
            )  # fmt: skip
            own = predict(rehearsal, run).phases["training"]
            plan = sum(size for name, size in own.items() if name not in ("base", "encoders"))
            shown.append(f"{measured(kind, recompute) / 2**20:.1f}, {plan / 2**20:.1f}")
        print(f"| {words} gradient checkpointing | {' | '.join(shown)} |", flush=True)


if __name__ == "__main__":
    errors()
    memory()
