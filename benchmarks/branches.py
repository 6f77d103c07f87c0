"""What the branch engine saves: cached conditions, one pass for all identities, closed blocks.

Inpaint-Anywhere on the nano base, references as large as the picture as in the paper, 25 steps. All
ways paint in turns in one process on one core; ratios are within a turn, and their medians are
printed with 95% intervals (bootstrap over the turns). Attention is timed at FLUX.1-dev's shapes for
512 x 512 pixels, against one attention over the whole sequence with a mask. Seconds are the
processor's, so that other work on the machine counts little.

    python -m benchmarks.branches            # about 6 minutes
"""

import argparse
import contextlib
import functools
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from scipy import stats
from torch.nn.functional import scaled_dot_product_attention

from benchmarks.data_engines import use_one_core
from insitu import world
from insitu.backbones import bases
from insitu.backbones.branches import Cache
from insitu.backbones.branches.attention import attend
from insitu.backbones.branches.layout import spans
from insitu.backbones.flux import FluxBackbone
from insitu.methods import Example, Placement, Request, Told, find, pinned
from insitu.methods.anyphoto.placing import placed
from insitu.methods.inpaint_anywhere import make
from insitu.methods.inpaint_anywhere.layout import layout
from insitu.methods.inpaint_anywhere.method import InpaintAnywhere
from insitu.params import Params, load
from pipelines import _step

Way = Callable[[], object]
BOXES = ((0.0, 0.0, 0.5, 0.5), (0.5, 0.0, 1.0, 0.5), (0.0, 0.5, 0.5, 1.0), (0.5, 0.5, 1.0, 1.0))
RATIOS = {
    "conditions cached, two identities": ("uncached 2", "cached 2", 2.0),
    "one pass against two, both cached": ("two passes", "cached 2", 1.6),
    "one pass, cached, against two, uncached": ("two passes uncached", "cached 2", 3.0),
    "a second identity": ("cached 2", "cached 1", None),
    "a third identity": ("cached 3", "cached 2", None),
    "a fourth identity": ("cached 4", "cached 3", None),
    "attention by views, FLUX.1-dev at 512": ("dense", "views", None),
    "a training step from what was encoded": ("step and encoders", "step", None),
    "AnyPhoto's pruned canvases, two faces": ("whole canvases", "pruned canvases", None),
}


def main(turns: int) -> None:
    _step.quiet()
    use_one_core()
    seconds = measured(ways(), turns)
    for name, values in seconds.items():
        print(f"{name:<22}{np.median(values):8.3f} s")
    print()
    for name, (slow, fast, target) in RATIOS.items():
        ratio = np.array(seconds[slow]) / np.array(seconds[fast])
        low, high = interval(ratio)
        asked = (
            ""
            if target is None
            else f", asked {target}: {'met' if np.median(ratio) >= target else 'missed'}"
        )
        print(f"{name}: {np.median(ratio):.2f} ({low:.2f} to {high:.2f}){asked}")


def ways() -> dict[str, Way]:
    params = load()
    base: FluxBackbone = bases.load("flux", params.models.flux, device=torch.device("cpu"))
    own = params.inpaint_anywhere.model_dump(exclude={"train"})
    one = make({**own, "most": 4, "reference_size": 0})
    each = InpaintAnywhere(replace(one.settings, passes="each"))
    torch.manual_seed(0)
    for p in one.attach(base).parameters():
        p.data.normal_(0, 0.02)
    found: dict[str, Way] = {}
    for count in range(1, 5):
        found[f"cached {count}"] = functools.partial(one.paint, base, [request(count)])
    found["uncached 2"] = lambda: uncached(lambda: one.paint(base, [request(2)]))
    found["two passes"] = lambda: each.paint(base, [request(2)])
    found["two passes uncached"] = lambda: uncached(lambda: each.paint(base, [request(2)]))
    return found | steps(base, one) | attention() | canvases(params)


def request(count: int) -> Request:
    """A held-out scene with identities at its corners."""
    photo, *references = (
        world.render(world.sample_scene(world.rng_for("benchmark", k), count=1), 64).image
        for k in range(count + 1)
    )
    placements = tuple(
        Placement(box_xyxy01=box, reference=reference)
        for box, reference in zip(BOXES, references, strict=False)
    )
    words = " and ".join(f"[V{k + 1}]" for k in range(count))
    return Request(image=photo, placements=placements, prompt=f"{words} on the grass", seed=0)


def uncached(paint: Way) -> None:
    with patch.object(Cache, "holds", lambda self, following: False):
        paint()


def steps(base: FluxBackbone, method: InpaintAnywhere, batch: int = 4) -> dict[str, Way]:
    """Forward and backward of two identities: from what is kept, or with the encoders each time."""
    asked = request(2)
    examples = [
        Example(
            id=str(k), image=asked.image, mask=np.full(asked.image.shape[:2], 255, np.uint8),
            prompt=asked.prompt, placements=asked.placements, pool="boundid",
        )
        for k in range(batch)
    ]  # fmt: skip

    def told() -> Told:
        text = base._encode_text(tuple(example.prompt for example in examples))
        with torch.no_grad():
            seen = method.condition(base, examples)
        return seen | {"text.tokens": text.tokens, "text.pooled": text.pooled}

    def step(given: Told) -> None:
        with torch.enable_grad():
            terms = method.loss(base, given, torch.randn_like(given["z_0"]), torch.rand(batch))
            sum(term.mean() for term in terms.values()).backward()

    kept = told()
    return {"step": lambda: step(kept), "step and encoders": lambda: step(told())}


def canvases(params: Params) -> dict[str, Way]:
    """Two people in one picture, each on a canvas of its own: its tokens under the face, or all."""
    base: FluxBackbone = bases.load("flux", params.models.flux, device=torch.device("cpu"))
    own = pinned("anyphoto", params.anyphoto.model_dump(exclude={"train"}), params.models)
    rng = world.rng_for("benchmark", "faces")
    scene = world.render(world.sample_scene(rng, count=2, people=True, style="photo"), 64)
    places = [thing.landmarks_xy01 for thing in scene.things]
    references = []
    for thing in scene.things:
        photo = world.portrait(thing.thing, rng, 64)
        references.append((photo.image, photo.things[0].landmarks_xy01))
    asked = Request(
        image=scene.image, prompt="two people on the grass", seed=0, background="free",
        placements=tuple(
            Placement(
                box_xyxy01=(0.0, 0.0, 1.0, 1.0), landmarks_xy01=points(at), reference=image,
                reference_landmarks_xy01=points(known),
            )
            for at, (image, known) in zip(places, references, strict=True)
        ),
    )  # fmt: skip
    found: dict[str, Way] = {}
    for name, location in (("pruned canvases", "pruned"), ("whole canvases", "canvas")):
        method = find("anyphoto", own | {"location": location})
        seen = placed(base, method._analyser(base), method._rules(base), asked)
        print(f"{name}: {sum(len(face.places) for face in seen)} tokens of faces")
        found[name] = functools.partial(anyphoto, method, base, asked)
    return found


def anyphoto(method: Any, base: FluxBackbone, asked: Request) -> None:
    method.attach(base)
    try:
        method.paint(base, [asked])
    finally:
        method.detach(base)


def points(landmarks: Any) -> tuple[tuple[float, float], ...]:
    return tuple((float(x), float(y)) for x, y in landmarks)


def attention() -> dict[str, Way]:
    """Two identities at FLUX.1-dev's shapes: 512 words, 32 x 32 tokens a picture, 24 x 128 wide."""
    boxes = torch.tensor([BOXES[:2]])
    made = layout(
        boxes, torch.ones(1, 2, dtype=torch.bool), cells=(64, 64), reference_cells=64, words=512,
        adapters=((), ()), shifted=True, placed=True, group="identity+position",
    )  # fmt: skip
    where = spans(made.branches)
    total = sum(branch.length for branch in made.branches)
    mask = torch.zeros(total, total, dtype=torch.bool)
    for query, seen in made.sees.items():
        for key in seen:
            mask[where[query], where[key]] = True
    print(f"{total} tokens; {float(mask.float().mean()):.0%} of the blocks are open\n")
    q, k, v = torch.randn(3, 1, total, 24, 128)
    views = made.views(made.branches, made.branches)
    heads = [x.transpose(1, 2) for x in (q, k, v)]
    return {
        "dense": lambda: scaled_dot_product_attention(*heads, mask),
        "views": lambda: attend(q, k, v, views),
    }


def measured(every: Mapping[str, Way], turns: int) -> dict[str, list[float]]:
    seconds: dict[str, list[float]] = {name: [] for name in every}
    for turn in range(turns + 1):
        for name, way in every.items():
            with timed() as clock:
                way()
            if turn:  # the first warms up
                seconds[name].append(clock[0])
    return seconds


@contextlib.contextmanager
def timed() -> Iterator[list[float]]:
    start, clock = time.process_time(), [0.0]
    with torch.no_grad():
        yield clock
    clock[0] = time.process_time() - start


def interval(values: np.ndarray) -> tuple[float, float]:
    drawn = stats.bootstrap((values,), np.median, random_state=0, method="percentile")
    low, high = drawn.confidence_interval
    return float(low), float(high)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--turns", type=int, default=6)
    main(parser.parse_args().turns)
