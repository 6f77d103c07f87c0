"""How many steps a second training takes from encoded examples, against a plain loop without them.

The plain loop is what a first script does: in every step it draws photos, encodes pictures, holed
pictures and prompts, adds noise, and steps the same LoRA with the same loss, batch, shapes, dtype
and optimizer. In between stand loops with one cache more each, so that the gain splits; last comes
`fit` itself, with all that it checks and logs. All run in turns in one process on one core, and
what is compared is the ratio within each turn. Seconds are the processor's, so that other work on
the machine counts little. `benchmarks.training_sizes` estimates the same for real sizes.

    python -m benchmarks.training            # the nano base, about 6 minutes
"""

import argparse
import contextlib
import logging
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from lightning.pytorch.loggers.logger import Logger
from scipy import stats
from torch import Tensor

from benchmarks.data_engines import use_one_core
from insitu.backbones.unet import InpaintBackbone
from insitu.methods import VALIDATION, Example, Method, Request, Told, find
from insitu.methods.dreammix.data import REGULAR, SUBJECT
from insitu.params import Params, load
from insitu.training import optimizers
from insitu.training.data import Minibatches, Share
from insitu.training.encoding import Encoded, encode
from insitu.training.fit import fit
from insitu.training.order import Order
from insitu.training.recipe import Devices, Recipe, Watch
from pipelines import _step

TARGET = 2.0
PLAIN, PICTURES, TEXTS, LOOP, FIT = (
    "plain loop", "+ pictures cached", "+ texts cached", "our batches and loss", "fit",
)  # fmt: skip
FACTS = {"photos": "random"}
LOG = 10
"""Steps between what `fit` logs, as `Watch` has it; the clock is read there."""
NEVER = 10**9
Step = Callable[[int], None]


@dataclass(frozen=True, kw_only=True)
class Bench:
    """What all ways have in common."""

    params: Params
    method: Method
    recipe: Recipe
    examples: Sequence[Example]
    encoded: Encoded
    encoding_s: float


def examples(params: Params, size: int) -> list[Example]:
    """Noise in the numbers that a drawn subject has: photos and regular pictures, each masked."""
    rng, own = np.random.default_rng(0), params.tune
    pools = [SUBJECT] * params.subjects.photos + [REGULAR] * params.regularization.images
    found = []
    for number, pool in enumerate(pools):
        image = rng.integers(0, 256, (size, size, 3), np.uint8)
        prompt = f"a {own.identifier} mug" if pool == SUBJECT else f"a {own.identifier} red mug"
        for index in range(own.masks):
            mask = np.zeros((size, size), np.uint8)
            mask[size // 4 :, : size // 2 + index % 8] = 255
            id = f"{number}#{index}"
            found.append(Example(id=id, image=image, mask=mask, prompt=prompt, pool=pool))
    held_out = replace(found[0], id="held out", pool=VALIDATION)
    return [*found, held_out]


def prepare(params: Params, batch: int, folder: Path) -> Bench:
    own, checkpoint = params.tune, params.models.inpaint
    method = find(own.method, own.dreammix.model_dump() | {"steps": 1})
    backbone = InpaintBackbone.load(checkpoint, device=torch.device("cpu"))
    shares = {SUBJECT: 1 - own.regular_share, REGULAR: own.regular_share}
    found, start = examples(params, backbone.size), time.process_time()
    encode(method, backbone, found, folder / "e", facts=FACTS, root=folder / "work")
    return Bench(
        params=params, method=method, examples=[e for e in found if e.pool != VALIDATION],
        recipe=replace(Recipe.of(own.recipe(shares=shares, seed=params.seed)), batch=batch),
        encoded=Encoded.open(folder / "e", FACTS), encoding_s=time.process_time() - start,
    )  # fmt: skip


class Loops:
    """One base with its adapter, stepped with more and more of what is fed to it kept."""

    def __init__(self, bench: Bench) -> None:
        self.bench, self.method, self.recipe = bench, bench.method, bench.recipe
        checkpoint = bench.params.models.inpaint
        self.backbone = InpaintBackbone.load(checkpoint, device=torch.device("cpu"))
        self.adapter = self.method.attach(self.backbone)
        self.optimizer = optimizers.make(self.adapter.named_parameters(), self.recipe.optimizer)
        self.rng = np.random.default_rng(1)
        recipe, encoded = self.recipe, bench.encoded
        order = Order(
            encoded.pools, encoded.buckets, shares=recipe.shares, batch=recipe.batch,
            steps=recipe.steps, seed=recipe.seed, blocks=encoded.blocks,
        )  # fmt: skip
        self.batches = Minibatches(
            encoded, order, times=recipe.times, drop=recipe.drop, seed=recipe.seed, share=Share()
        )
        self.kept = self._conditions(range(len(bench.examples)))
        self.prompts = sorted({example.prompt for example in bench.examples})
        self.texts = self._texts(self.prompts)

    def ways(self) -> dict[str, Step]:
        return {
            PLAIN: lambda _: self._plain(self._conditions, self._encoded),
            PICTURES: lambda _: self._plain(self._looked_up, self._encoded),
            TEXTS: lambda _: self._plain(self._looked_up, self._texts_looked_up),
            LOOP: self._ours,
        }

    def loss(self, told: Told, noise: Tensor, t: Tensor) -> Tensor:
        terms = self.method.loss(self.backbone, told, noise, t)
        return torch.stack(list(terms.values())).sum(0).mean()

    @torch.no_grad()
    def both_losses(self, index: int) -> tuple[float, float]:
        """A step's loss from the encoded files, and from its pictures and prompts themselves."""
        batches = Minibatches(
            self.bench.encoded, self.batches.order, times=self.recipe.times, drop={},
            seed=self.recipe.seed, share=Share(),
        )  # fmt: skip
        batch, ids = batches[index], [example.id for example in self.bench.examples]
        rows = [ids.index(id) for id in batch.ids]
        told = self._conditions(rows) | self._encoded(rows)
        return (
            float(self.loss(batch.told, batch.noise, batch.t)),
            float(self.loss(told, batch.noise, batch.t)),
        )

    def _plain(
        self, pictures: Callable[[Sequence[int]], Told], texts: Callable[[Sequence[int]], Told]
    ) -> None:
        rows = self.rng.integers(len(self.bench.examples), size=self.recipe.batch).tolist()
        told = pictures(rows) | texts(rows)
        self._step(self.loss(told, torch.randn_like(told["z_0"]), torch.rand(len(rows))))

    def _ours(self, index: int) -> None:
        batch = self.batches[index]
        self._step(self.loss(batch.told, batch.noise, batch.t))

    def _step(self, loss: Tensor) -> None:
        self.optimizer.zero_grad()
        loss.backward()
        if self.recipe.clip is not None:
            torch.nn.utils.clip_grad_norm_(self.adapter.parameters(), self.recipe.clip)
        self.optimizer.step()

    def _conditions(self, rows: Sequence[int]) -> Told:
        return self.method.condition(self.backbone, [self.bench.examples[row] for row in rows])

    def _looked_up(self, rows: Sequence[int]) -> Told:
        return {name: values[rows] for name, values in self.kept.items()}

    def _encoded(self, rows: Sequence[int]) -> Told:
        return self._texts([self.bench.examples[row].prompt for row in rows])

    def _texts(self, prompts: Sequence[str]) -> Told:
        # What is under the backbone's own cache.
        text = self.backbone.encode_text.__wrapped__(tuple(prompts))
        return {"text.context": text.context, "text.pooled": text.pooled}

    def _texts_looked_up(self, rows: Sequence[int]) -> Told:
        places = [self.prompts.index(self.bench.examples[row].prompt) for row in rows]
        return {name: values[places] for name, values in self.texts.items()}


class Clock(Logger):
    """Reads the clock at each step that `fit` logs."""

    def __init__(self) -> None:
        super().__init__()
        self.read: dict[int, float] = {}

    name = version = property(lambda self: "clock")

    def log_hyperparams(self, *args: object, **kwargs: object) -> None: ...

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        if "loss" in metrics:
            self.read[int(step or 0)] = time.process_time()


def time_fit(bench: Bench, backbone: InpaintBackbone, steps: int, work: Path) -> float:
    """CPU seconds a step of `fit`, between the first and the last step that it logs."""
    clock, photo = Clock(), np.full((backbone.size, backbone.size, 3), 90, np.uint8)
    request = Request(image=photo, box_xyxy01=(0.2, 0.2, 0.8, 0.8), prompt="a mug", seed=0)
    with contextlib.redirect_stdout(sys.stderr), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that a handful of steps have no effect, for one
        fit(
            bench.method, backbone, bench.encoded, [request],
            recipe=replace(bench.recipe, steps=steps + LOG), devices=Devices(),
            watch=Watch(validate=steps + LOG, save=NEVER, log=LOG), work=work, logger=clock,
        )  # fmt: skip
    first, last = min(clock.read), max(clock.read)
    assert last - first == steps, clock.read
    return (clock.read[last] - clock.read[first]) / steps


def measure(bench: Bench, turns: int, steps: int, folder: Path) -> dict[str, list[float]]:
    """CPU seconds a step of every way in every turn."""
    loops, checkpoint = Loops(bench), bench.params.models.inpaint
    losses = loops.both_losses(0)
    # Or two different things would be timed; pictures encoded in other batches round otherwise.
    assert np.isclose(*losses, rtol=1e-4), losses
    other = InpaintBackbone.load(checkpoint, device=torch.device("cpu"))
    ways = loops.ways()
    for step in ways.values():  # sets up what is set up once
        step(0)
    times: dict[str, list[float]] = {way: [] for way in (*ways, FIT)}
    for turn in range(turns):
        for way in list(times)[:: 1 if turn % 2 else -1]:
            if way == FIT:
                times[way].append(time_fit(bench, other, steps, folder / f"fit-{turn}"))
                continue
            start = time.process_time()
            for index in range(steps):
                ways[way](turn * steps + index)
            times[way].append((time.process_time() - start) / steps)
    return times


def ratio(slow: Sequence[float], fast: Sequence[float]) -> tuple[float, float, float]:
    """Median of the turns' ratios with its 95% interval (percentile bootstrap over the turns)."""
    ratios = np.array(slow) / np.array(fast)
    found = stats.bootstrap(
        (ratios,), np.median, method="percentile", rng=np.random.default_rng(0)
    ).confidence_interval
    return float(np.median(ratios)), float(found.low), float(found.high)


def show(bench: Bench, times: Mapping[str, Sequence[float]]) -> None:
    batch, steps = bench.recipe.batch, bench.recipe.steps
    middle = {way: float(np.median(seconds)) for way, seconds in times.items()}
    print(f"{'':22}{'ms a step':>10}{'examples/s':>12}  times as fast as the plain loop")
    for way, seconds in times.items():
        line = f"{way:22}{middle[way] * 1e3:10.1f}{batch / middle[way]:12.1f}"
        if way != PLAIN:
            most_likely, low, high = ratio(times[PLAIN], seconds)
            line += f"  {most_likely:.2f} ({low:.2f} to {high:.2f})"
        print(line)
    # The last line is of `fit`.
    print(f"target: fit {TARGET:g} times as fast: {'met' if low >= TARGET else 'missed'}")
    pictures, texts = middle[PLAIN] - middle[PICTURES], middle[PICTURES] - middle[TEXTS]
    print(
        f"of the plain loop's step, {pictures / middle[PLAIN]:.0%} encodes pictures,"
        f" {texts / middle[PLAIN]:.0%} texts; {middle[TEXTS] / middle[PLAIN]:.0%} is U-Net and"
        " optimizer, which no cache saves"
    )
    whole = steps * middle[PLAIN] / (steps * middle[FIT] + bench.encoding_s)
    print(
        f"{len(bench.encoded)} examples are encoded in {bench.encoding_s:.1f} s, once: with that,"
        f" {steps} steps are {whole:.2f} times as fast",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description="Time training against a plain loop.")
    parser.add_argument("--turns", type=int, default=6, help="of every way")
    parser.add_argument("--steps", type=int, default=10, help="of a way in a turn")
    parser.add_argument("--batch", type=int, nargs="+", default=[4, 8])
    asked = parser.parse_args()
    if asked.turns < 2 or asked.steps < LOG or asked.steps % LOG:
        parser.error(f"--turns must be 2 or more and --steps a multiple of {LOG}")
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    _step.quiet()
    params = load().model_copy(update={"device": "cpu"})
    use_one_core()
    for batch in asked.batch:
        with tempfile.TemporaryDirectory() as folder:
            bench = prepare(params, batch, Path(folder))
            times = measure(bench, asked.turns, asked.steps, Path(folder))
        print(f"\nbatch {batch}, {asked.turns} turns of {asked.steps} steps, one thread")
        show(bench, times)


if __name__ == "__main__":
    main()
