"""How many pictures a second the models of BoundID's detections look at, in batches and one by one.

Batches are those of the runner (`runner.batch` of params.yaml). Its peers are the same models in
the same worker: called with one image at a time, as a plain loop would, and called with one
candidate at a time, whose dozen crops then are a small batch of their own. All run in turns in one
process, and what is compared is the ratio within each turn. Seconds are the processor's, so that
other work on the machine counts little.

    python -m benchmarks.data_engines
"""

import argparse
import os
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from scipy import stats

from insitu.params import Params, load
from insitu.records.engines import Candidate, Detections
from insitu.synthesis import bank, boundid
from insitu.synthesis.generators import WorldGenerator
from insitu.synthesis.judging import EmbeddingJudge
from insitu.synthesis.runner import batched, set_threads
from pipelines import _models

TARGET = 2.0
WHOLE = "whole worker"
TOGETHER, ALONE, BY_ROW = "batches", "one image", "one candidate"
Seconds = dict[str, float]


def use_one_core() -> None:
    """Keep this process, and the libraries inside it, on a single core."""
    set_threads(1)
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})


class Timed:
    """A detector or a judge whose calls are timed, each under the name of its stage."""

    def __init__(self, inner: Any, names: dict[str, str], spent: Seconds) -> None:
        self._inner, self._names, self._spent = inner, names, spent

    def __getattr__(self, method: str) -> Callable[..., Any]:
        call, name = getattr(self._inner, method), self._names[method]

        def timed(*args: Any, **options: Any) -> Any:
            start = time.process_time()
            found = call(*args, **options)
            self._spent[name] = self._spent.get(name, 0.0) + time.process_time() - start
            return found

        return timed


class Singly:
    """An identity encoder that sees one crop at a time."""

    def __init__(self, inner: Any) -> None:
        self._inner = inner

    def embed_crops(self, images: Sequence[Any], boxes: Sequence[Any]) -> torch.Tensor:
        pairs = zip(images, boxes, strict=True)
        return torch.cat([self._inner.embed_crops([image], [box]) for image, box in pairs])


def candidates(params: Params, count: int) -> list[Candidate]:
    """Pictures of the world, faults and all, as the stages before would hand them on."""
    own, faults = params.candidates, params.candidates.faults
    identities = bank.WorldBank(
        identities=max(40, count // 2), size=params.pairs.size, seed=0, shares=(0.0, 0.0)
    )
    worker = boundid.Candidates(
        WorldGenerator(size=own.size, rates=faults.rates(), degraded=faults.degraded)
    )
    return [v.record for v in worker(list(bank.pairs(identities, range(count), seed=0)))]


def workers(params: Params, spent: Seconds) -> dict[str, tuple[boundid.Detector, int]]:
    """A worker for each way to call one set of models, and how many rows it is given at once."""
    dino, clip = _models.dino(params), _models.clip(params)
    detector: Any = Timed(_models.detector(params), {"detect": "detector"}, spent)
    singly: Any = Singly(dino)
    ways = {TOGETHER: (dino, params.runner.batch), ALONE: (singly, 1), BY_ROW: (dino, 1)}
    stages = {"same": "identity judge", "quality": "quality judge"}
    return {
        way: (
            boundid.Detector(
                detector=detector,
                judge=Timed(EmbeddingJudge(dino=encoder, clip=clip), stages, spent),
                names=(),
                floor=params.detections.floor,
            ),
            batch,
        )
        for way, (encoder, batch) in ways.items()
    }


def look(
    worker: boundid.Detector, rows: Sequence[Candidate], batch: int, spent: Seconds
) -> tuple[Seconds, list[Detections]]:
    """CPU seconds by stage, and what was found."""
    spent.clear()
    start = time.process_time()
    found = [verdict.record for part in batched(rows, batch) for verdict in worker(part)]
    return {**spent, WHOLE: time.process_time() - start}, found


def ratio(slow: Sequence[float], fast: Sequence[float]) -> tuple[float, float, float]:
    """Geometric mean of the turns' ratios with its 95% interval (Student's t, of logarithms)."""
    logs = np.log(np.array(slow) / np.array(fast))
    half = stats.t.ppf(0.975, len(logs) - 1) * logs.std(ddof=1) / len(logs) ** 0.5
    mean, low, high = np.exp([logs.mean(), logs.mean() - half, logs.mean() + half])
    return float(mean), float(low), float(high)


def main() -> None:
    parser = argparse.ArgumentParser(description="Time the models of BoundID's detections.")
    parser.add_argument("--rows", type=int, default=128, help="how many candidates")
    parser.add_argument("--repeats", type=int, default=6, help="turns of every way")
    asked = parser.parse_args()
    if asked.rows < 1 or asked.repeats < 2:
        parser.error("--rows must be 1 or more and --repeats 2 or more, since there is an interval")

    params = load().model_copy(update={"device": "cpu"})
    use_one_core()
    spent: Seconds = {}
    rows, ways = candidates(params, asked.rows), workers(params, spent)
    times: dict[str, list[Seconds]] = {way: [] for way in ways}
    found: dict[str, list[Detections]] = {}
    for worker, batch in ways.values():  # loads what is loaded once
        look(worker, rows[: params.runner.batch], batch, spent)
    for turn in range(asked.repeats):
        for way in list(ways)[:: 1 if turn % 2 else -1]:
            seconds, found[way] = look(ways[way][0], rows, ways[way][1], spent)
            times[way].append(seconds)

    size = params.candidates.size
    print(f"{asked.rows} candidates of {size} x {size} pixels, {asked.repeats} turns, one thread,")
    print(f"batches of {params.runner.batch}: candidates a CPU second, ratio (95% interval)")
    print(f"{'':16}" + f"{TOGETHER:>8}" + "".join(f"{way:>30}" for way in (ALONE, BY_ROW)))
    low = 0.0
    for stage in times[TOGETHER][-1]:
        seconds_of = {way: [turn[stage] for turn in times[way]] for way in ways}
        line = f"{stage:16}{asked.rows / np.median(seconds_of[TOGETHER]):8.1f}"
        for way in (ALONE, BY_ROW):
            mean, least, most = ratio(seconds_of[way], seconds_of[TOGETHER])
            rate = asked.rows / np.median(seconds_of[way])
            line += f"{rate:10.1f} {mean:5.2f} ({least:.2f} to {most:.2f})"
            if (stage, way) == (WHOLE, ALONE):
                low = least
        print(line)
    verdict = "met" if low >= TARGET else "missed"
    print(f"target: the whole worker {TARGET:g} times as fast as one image at a time: {verdict}")
    same = sum(a.findings == b.findings for a, b in zip(found[TOGETHER], found[ALONE], strict=True))
    print(f"both find the same, to four digits, in {same} of {asked.rows} candidates")


if __name__ == "__main__":
    main()
