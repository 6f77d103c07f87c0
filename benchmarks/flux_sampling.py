"""What nano FLUX obeys under other ways of sampling: schedulers, guidance, prompt lengths.

Every setting is one that the plain pipeline takes: a scheduler with its configuration, or arguments
of the call. All draw the same held-out captions with the same noise, so that two of them differ in
single cases: those that one gets right and the other does not (McNemar's exact test). The card's
own captions are seed 0; settings are chosen on others.

    python -m benchmarks.flux_sampling --only one-pass two-passes-2 --kinds two
"""

import argparse
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import torch
from diffusers import FluxPipeline
from numpy.typing import NDArray
from scipy.stats import binomtest

from insitu import world
from insitu.evaluation.checkpoints import flux, proportion
from insitu.evaluation.checkpoints.judging import Judges
from insitu.synthesis.runner import set_threads
from insitu.world.captions import article

NANO = Path(__file__).resolve().parents[1] / "models" / "nano"
BASE = flux.Sampling()
EULER = "FlowMatchEulerDiscreteScheduler"
BATCH = 16
Images = Sequence[NDArray[np.uint8]]


@dataclass(frozen=True, kw_only=True)
class Setting:
    """A way of sampling, as far as it differs from `BASE`.

    Attributes:
        scheduler: a class of diffusers; `config`: what differs from the checkpoint's own.
        call: arguments of the pipeline; a negative prompt stands for one for every caption.
        tokens: least T5 tokens of a prompt; a longer one has as many as it needs.
    """

    scheduler: str = EULER
    config: Mapping[str, Any] = field(default_factory=dict)
    call: Mapping[str, Any] = field(default_factory=dict)
    tokens: int = BASE.max_sequence_length

    def passes(self) -> int:
        """Forward passes of the transformer for one picture."""
        doubled = self.call.get("true_cfg_scale", 1.0) > 1
        return int(self.call.get("num_inference_steps", BASE.steps)) * (2 if doubled else 1)


def euler(**config: Any) -> Setting:
    return Setting(config=config)


def call(**arguments: Any) -> Setting:
    return Setting(call=arguments)


SETTINGS = {
    "one-pass": Setting(),
    "own-length": Setting(tokens=1),
    "shift-0.6": euler(shift=0.6),
    "shift-1.5": euler(shift=1.5),
    "shift-2": euler(shift=2.0),
    "shift-3": euler(shift=3.0),
    "shift-4": euler(shift=4.0),
    "dynamic-shift": euler(use_dynamic_shifting=True),
    "karras": euler(use_karras_sigmas=True),
    "exponential": euler(use_exponential_sigmas=True),
    "beta": euler(use_beta_sigmas=True),
    "stochastic": euler(stochastic_sampling=True),
    "unipc": Setting(
        scheduler="UniPCMultistepScheduler",
        config={"use_flow_sigmas": True, "prediction_type": "flow_prediction"},
    ),
    "steps-35": call(num_inference_steps=35),
    "steps-50": call(num_inference_steps=50),
    "guidance-2": call(guidance_scale=2.0),
    "guidance-3": call(guidance_scale=3.0),
    "guidance-5": call(guidance_scale=5.0),
    "guidance-6": call(guidance_scale=6.0),
    "two-passes-1.5": call(true_cfg_scale=1.5, negative_prompt=""),
    "two-passes-2": call(true_cfg_scale=2.0, negative_prompt=""),
    "two-passes-3": call(true_cfg_scale=3.0, negative_prompt=""),
    "two-passes-only": call(guidance_scale=1.0, true_cfg_scale=3.5, negative_prompt=""),
}


@torch.no_grad()
def draw(
    pipeline: FluxPipeline, captions: Sequence[str], setting: Setting, seed: int
) -> list[NDArray[np.uint8]]:
    """One picture a caption, uint8 [H, W, 3], from the same noise as `flux.sample`."""
    torch.manual_seed(seed)  # a stochastic scheduler asks torch itself for noise
    own = pipeline.scheduler
    made = getattr(diffusers, setting.scheduler)
    start = own.config if setting.scheduler == EULER else {}
    pipeline.scheduler = made.from_config(start, **setting.config)
    call = {"num_inference_steps": BASE.steps, "guidance_scale": BASE.guidance_scale}
    images: dict[int, NDArray[np.uint8]] = {}
    try:
        for length, rows in _by_length(pipeline, captions, setting.tokens).items():
            for first in range(0, len(rows), BATCH):
                part = rows[first : first + BATCH]
                arguments = call | dict(setting.call)
                if "negative_prompt" in arguments:
                    arguments["negative_prompt"] = [arguments["negative_prompt"]] * len(part)
                drawn = pipeline(
                    [captions[i] for i in part],
                    max_sequence_length=length,
                    height=BASE.size,
                    width=BASE.size,
                    generator=[torch.Generator().manual_seed(seed * 100_003 + i) for i in part],
                    output_type="np",
                    **arguments,
                ).images
                images |= dict(zip(part, np.rint(drawn * 255).astype(np.uint8), strict=True))
    finally:
        pipeline.scheduler = own
    return [images[i] for i in range(len(captions))]


def _by_length(pipeline: FluxPipeline, captions: Sequence[str], least: int) -> dict[int, list[int]]:
    """Captions' numbers by the T5 tokens that they are called with."""
    rows: dict[int, list[int]] = defaultdict(list)
    for i, caption in enumerate(captions):
        rows[max(least, len(pipeline.tokenizer_2(caption).input_ids))].append(i)
    return rows


def one(judges: Judges, images: Images, scenes: Sequence[world.Scene]) -> list[bool]:
    """Whether CLIP names the category that was asked for."""
    named = judges.categories(images, judges.main_boxes(images))
    return [name == _categories(scene)[0] for name, scene in zip(named, scenes, strict=True)]


def two(judges: Judges, images: Images, scenes: Sequence[world.Scene]) -> list[bool]:
    """Whether the detector finds both things."""
    queries = [[article(category) for category in _categories(scene)] for scene in scenes]
    return [all(scores) for scores in judges.present(images, queries)]


def _categories(scene: world.Scene) -> list[str]:
    return [thing.category for thing in scene.things if isinstance(thing, world.Subject)]


KINDS = {"one": ("category", one), "two": ("two subjects", two)}


def row(name: str, right: NDArray[np.bool_], base: NDArray[np.bool_], passes: int) -> str:
    """A line of the table: value, interval, cases gained and lost against the first setting."""
    figure = proportion(right)
    gained, lost = int((right & ~base).sum()), int((base & ~right).sum())
    p = binomtest(gained, gained + lost).pvalue if gained + lost else 1.0
    return (
        f"| {name} | {passes} | {figure.value:.1%} ({figure.low:.1%} to {figure.high:.1%}) "
        f"| +{gained} -{lost} | {p:.2f} |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", choices=SETTINGS, default=list(SETTINGS))
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS))
    parser.add_argument("--count", type=int, default=100, help="captions of each kind")
    parser.add_argument("--seed", type=int, default=2, help="of captions and noise; the card has 0")
    chosen = parser.parse_args()
    set_threads(1)
    judges = Judges.from_pretrained(NANO / "clip", NANO / "detector")
    pipeline = FluxPipeline.from_pretrained(NANO / "flux", dtype=torch.float32)
    pipeline.set_progress_bar_config(disable=True)
    asked = flux.held_out(chosen.count, chosen.seed)
    for kind in chosen.kinds:
        figure, judge = KINDS[kind]
        print(f"\n| {figure} | passes | right, of {chosen.count} | against first | p |")
        print("|---" * 5 + "|", flush=True)
        captions = [world.caption(scene, detail="pattern") for scene in asked[kind]]
        base = None
        for name in chosen.only:
            images = draw(pipeline, captions, SETTINGS[name], chosen.seed)
            right = np.array(judge(judges, images, asked[kind]))
            base = right if base is None else base
            print(row(name, right, base, SETTINGS[name].passes()), flush=True)


if __name__ == "__main__":
    main()
