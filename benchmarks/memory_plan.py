"""Is the memory plan right? Peaks of real runs on the nano base, beside what was predicted of them.

Measured independently of the plan's own counting: the allocations and frees that torch's profiler
sees during `fit` on a CPU, summed up, on top of the bytes of the loaded weights.

    python -m benchmarks.memory_plan          # the nano base, 12 runs, a few minutes
    python -m benchmarks.memory_plan sdxl     # what SDXL inpainting would take, by shape alone
"""

import contextlib
import gc
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKL, EulerDiscreteScheduler, StableDiffusionXLInpaintPipeline
from torch.profiler import ProfilerActivity, profile
from transformers import AutoTokenizer, CLIPTextConfig, CLIPTextModel

from benchmarks.weights import sdxl_text, sdxl_unet
from insitu.backbones.precision import Precision
from insitu.backbones.unet import InpaintBackbone
from insitu.methods import VALIDATION, Example, Request, find
from insitu.params import Checkpoint
from insitu.training.encoding import Encoded, encode
from insitu.training.fit import fit
from insitu.training.memory import Plan, Rehearsal, Run, predict
from insitu.training.optimizers import Optimization
from insitu.training.recipe import Devices, Recipe, Watch
from insitu.training.times import Times

NANO = Checkpoint(path="models/nano/sdxl-inpaint")
CPU = torch.device("cpu")
METHOD: dict[str, Any] = {
    "rank": 4, "targets": ["to_k", "to_v", "to_out.0"], "inside": 1.5, "outside": 0.7, "beta": 0.4,
    "steps": 2, "guidance_scale": 4.0, "context": 0.3,
}  # fmt: skip
FACTS = {"photos": "random"}
DEFAULT = {
    "batch": 4, "rank": 4, "optimizer": "adamw", "average": None, "accumulate": 1, "pictures": 1,
    "recompute": False, "dtype": "float32",
}  # fmt: skip
CASES: list[dict[str, Any]] = [
    {}, {"batch": 1}, {"batch": 8}, {"rank": 16}, {"optimizer": "prodigy"}, {"optimizer": "muon"},
    {"average": 0.9}, {"batch": 8, "accumulate": 2}, {"rank": 64, "average": 0.9},
    {"recompute": True}, {"batch": 1, "pictures": 8}, {"dtype": "bfloat16"},
]  # fmt: skip


def recipe(case: dict[str, Any]) -> Recipe:
    rate = 1.0 if case["optimizer"] == "prodigy" else 1e-3
    return Recipe(
        steps=4, batch=case["batch"], seed=0, shares={"subject": 1.0},
        optimizer=Optimization(name=case["optimizer"], lr=rate),
        average=case["average"], times=Times(kind="uniform"), drop={"text": 0.1},
    )  # fmt: skip


def measured(case: dict[str, Any], folder: Path) -> tuple[int, int]:
    """Bytes of the loaded weights, and the most that a run allocated on top of them."""
    backbone = InpaintBackbone.load(
        NANO, device=CPU, precision=Precision.of({"dtype": case["dtype"]})
    )
    method = find("dreammix", METHOD | {"rank": case["rank"]})
    target = folder / case["dtype"]
    if not target.exists():
        encode(method, backbone, _examples(backbone.size), target, facts=FACTS, root=folder / "w")
    photo = np.full((backbone.size, backbone.size, 3), 90, np.uint8)
    request = Request(image=photo, box_xyxy01=(0.2, 0.2, 0.8, 0.8), prompt="a red mug", seed=0)
    weights = sum(
        t.untyped_storage().nbytes()
        for part in backbone.pipeline.components.values()
        if isinstance(part, torch.nn.Module)
        for t in (*part.parameters(), *part.buffers())
    )
    if case["recompute"]:
        backbone.denoiser.enable_gradient_checkpointing()
    gc.collect()  # or frees of what an earlier run allocated would count
    with (
        tempfile.TemporaryDirectory() as work,
        contextlib.redirect_stdout(sys.stderr),
        allocations() as found,
    ):
        fit(
            method, backbone, Encoded.open(target, FACTS), [request] * case["pictures"],
            recipe=recipe(case), devices=Devices(accumulate=case["accumulate"]),
            watch=Watch(validate=2, save=2), work=Path(work),
        )  # fmt: skip
    return weights, max(found)


@contextlib.contextmanager
def allocations() -> Iterator[list[int]]:
    """Afterwards: bytes allocated on the CPU since the beginning, after each event."""
    running: list[int] = []
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen:
        yield running
    events = seen.profiler.kineto_results.events()
    memory = [event for event in events if event.name() == "[memory]"]
    memory.sort(key=lambda event: event.start_ns())
    running += np.cumsum([event.nbytes() for event in memory]).tolist()


def predicted(case: dict[str, Any]) -> Plan:
    own, precision = recipe(case), Precision.of({"dtype": case["dtype"]})
    rehearsal = Rehearsal(
        lambda: InpaintBackbone.empty(NANO, precision=precision),
        find("dreammix", METHOD | {"rank": case["rank"]}),
        optimizer=own.optimizer, average=own.average is not None,
    )  # fmt: skip
    run = Run(
        batch=own.batch, pictures=case["pictures"], devices=Devices(accumulate=case["accumulate"]),
        precision=precision, device=CPU, recompute=case["recompute"],
    )  # fmt: skip
    return predict(rehearsal, run)


def _examples(size: int) -> list[Example]:
    rng, mask = np.random.default_rng(0), np.zeros((size, size), np.uint8)
    mask[size // 4 : size // 2] = 255
    return [
        Example(
            id=f"e{k}", image=rng.integers(0, 256, (size, size, 3), np.uint8), mask=mask,
            prompt="a red mug", pool="subject" if k < 12 else VALIDATION,
        )
        for k in range(14)
    ]  # fmt: skip


def nano() -> None:
    print("| run | phase | predicted | measured | ratio | without weights |")
    print("|---" * 6 + "|")
    with tempfile.TemporaryDirectory() as folder:
        for change in CASES:
            case = DEFAULT | change
            plan = predicted(case)
            weights, on_top = measured(case, Path(folder))
            frozen = sum(plan.phases[plan.phase].get(kind, 0) for kind in ("base", "encoders"))
            both = weights + on_top
            said = ", ".join(f"{k} {v}" for k, v in change.items()) or "batch 4, rank 4, adamw"
            print(
                f"| {said} | {plan.phase} | {plan.peak / 2**20:.2f} | {both / 2**20:.2f}"
                f" | {plan.peak / both:.3f} | {(plan.peak - frozen) / on_top:.3f} |", flush=True,
            )  # fmt: skip
    print("\nMiB of 2^20 bytes, on a CPU, in float32 where nothing else is said.")


def sdxl_pipeline() -> Any:
    """SDXL inpainting at its published sizes, in bfloat16, without numbers."""
    small = CLIPTextConfig(
        hidden_size=768, intermediate_size=3072, num_hidden_layers=12, num_attention_heads=12,
        projection_dim=768, hidden_act="quick_gelu",
    )  # fmt: skip
    vae = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(128, 256, 512, 512), layers_per_block=2, latent_channels=4,
        sample_size=1024, scaling_factor=0.13025,
    )  # fmt: skip
    # Only the number of tokens counts: 77 in both.
    tokenizer = AutoTokenizer.from_pretrained(f"{NANO.path}/tokenizer", model_max_length=77)
    pipeline = StableDiffusionXLInpaintPipeline(
        vae=vae, unet=sdxl_unet(), text_encoder=CLIPTextModel(small), text_encoder_2=sdxl_text(),
        tokenizer=tokenizer, tokenizer_2=tokenizer, scheduler=EulerDiscreteScheduler(),
        add_watermarker=False,
    )  # fmt: skip
    pipeline.set_progress_bar_config(disable=True)
    return pipeline.to(torch.bfloat16)


def sdxl() -> None:
    precision = Precision(dtype=torch.bfloat16)
    rehearsal = Rehearsal(
        lambda: InpaintBackbone(sdxl_pipeline(), checkpoint=NANO, digest="", precision=precision),
        find("dreammix", METHOD), optimizer=Optimization(name="adamw", lr=1e-4), average=False,
        cuda=True,
    )  # fmt: skip
    print("| run | kind | training | painting |")
    print("|---" * 4 + "|")
    for words, batch, recompute, quantize, pictures in (
        ("batch 1", 1, False, "none", 1),
        ("batch 4", 4, False, "none", 4),
        ("batch 4, recomputed", 4, True, "none", 4),
        ("batch 1, recomputed, nf4", 1, True, "nf4", 1),
    ):
        run = Run(
            batch=batch, pictures=pictures, devices=Devices(), recompute=recompute,
            precision=Precision(dtype=torch.bfloat16, quantize=quantize),
            device=torch.device("cuda"),
        )  # fmt: skip
        phases = predict(rehearsal, run).phases
        for kind in dict.fromkeys(kind for own in phases.values() for kind in own):
            sizes = [f"{phases[name].get(kind, 0) / 2**30:.3f}" for name in phases]
            print(f"| {words} | {kind} | {' | '.join(sizes)} |")
        totals = [f"**{sum(own.values()) / 2**30:.2f}**" for own in phases.values()]
        print(f"| {words} | all | {' | '.join(totals)} |", flush=True)
    print("\nGiB of 2^30 bytes, of torch's allocator; CUDA itself takes about half a GiB more.")


if __name__ == "__main__":
    if sys.argv[1:] == ["sdxl"]:
        sdxl()
    else:
        nano()
