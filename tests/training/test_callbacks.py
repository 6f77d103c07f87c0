"""Proves that what is looked at while training is right: pictures below their requests, scores as
evaluation has them, norms on one device and on two, speed without painting, averaged weights.

Needs tiny random checkpoints. Two processes are real ones, with gloo.
"""

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import lightning
import numpy as np
import pytest
import torch
from lightning.pytorch.loggers.logger import Logger
from safetensors.torch import load_file
from torch import Tensor, distributed
from torch.distributed.device_mesh import init_device_mesh
from torch.utils.data import DataLoader

from insitu.backbones.loading import load_pretrained
from insitu.backbones.sharding import shard, whole
from insitu.evaluation.metrics import Photo
from insitu.methods import Placement, Request, find
from insitu.methods.dreammix.method import DreamMix
from insitu.params import Checkpoint
from insitu.perception.clip import ClipScorer
from insitu.perception.dino import IdentityEncoder, crop_square
from insitu.training.benchmark import Benchmark
from insitu.training.callbacks import OUTLINE, Curve, Meter, Pictures, below_requests, curve
from insitu.training.checkpoint_io import SafetensorsIO
from insitu.training.encoding import Encoded
from insitu.training.fit import ADAPTER, CURVE, LAST, fit
from insitu.training.progress import quiet
from insitu.training.recipe import Devices, Watch
from tests.training.runs import FACTS, RECIPE, SETTINGS, base, encoded, ended, forked, load
from tests.training.runs import request as asked

__all__ = ["base", "encoded"]

BOX = (0.25, 0.5, 0.75, 1.0)


class Rows(Logger):
    """What is logged, by step."""

    def __init__(self) -> None:
        super().__init__()
        self.rows: dict[int, dict[str, float]] = {}

    name = version = property(lambda self: "rows")

    def log_hyperparams(self, *args: object, **kwargs: object) -> None: ...

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        assert step is not None
        self.rows.setdefault(step, {}).update(metrics)


def flat(shade: int, height: int, width: int) -> np.ndarray:
    return np.full((height, width, 3), shade, np.uint8)


def make_request(shade: int, height: int, width: int) -> Request:
    return Request(
        image=flat(shade, height, width),
        placements=(Placement(box_xyxy01=BOX),),
        prompt="a mug",
        seed=0,
    )


def test_each_picture_stands_below_its_request_with_the_box_outlined() -> None:
    requests = [make_request(50, 40, 40), make_request(90, 20, 40)]
    shown = np.asarray(below_requests(requests, [flat(150, 40, 40), flat(210, 20, 40)], height=80))
    assert shown.shape == (160, 80 + 160, 3)
    for left, width, photo, painted in ((0, 80, 50, 150), (80, 160, 90, 210)):
        middle = left + width // 2
        assert (shown[10, middle] == photo).all() and (shown[60, middle] == photo).all()
        assert (shown[80:, left : left + width] == painted).all()
        top = shown[:80, left : left + width]
        rows, columns = np.nonzero((top == OUTLINE).all(-1))
        assert rows.min() == pytest.approx(40, abs=1) and rows.max() == 79
        assert columns.min() == pytest.approx(width / 4, abs=1)
        assert columns.max() == pytest.approx(width * 3 / 4, abs=1)


def test_scores_are_the_mean_cosines_of_the_boxes_and_survive_a_file(
    checkpoints: dict[str, Path], tmp_path: Path
) -> None:
    rng = np.random.default_rng(0)
    pictures = [rng.integers(0, 256, (32, 32, 3), np.uint8) for _ in range(5)]
    photos = [Photo(image=p, box_xyxy01=(0.0, 0.0, 0.5, 0.5)) for p in pictures[:3]]
    named = {name: {"path": str(checkpoints[name]), "revision": None} for name in ("clip", "dino")}
    requests = [make_request(50, 32, 32)] * 2
    benchmark = Benchmark(photos, named)
    found = benchmark(requests, pictures[3:])
    expected = {}
    for name, kind in (("dino", IdentityEncoder), ("clip_i", ClipScorer)):
        model = load_pretrained(kind, Checkpoint(path=str(checkpoints[name.removesuffix("_i")])))
        seen = model.embed_images([crop_square(p, BOX, 16, 0.0) for p in pictures[3:]])
        known = model.embed_images([crop_square(p.image, p.box_xyxy01, 16, 0.0) for p in photos])
        expected[name] = float((seen @ known.T).mean())
    assert found == pytest.approx(expected, abs=1e-5)
    assert len({round(value, 4) for value in found.values()} - {0.0, 1.0}) == 2
    benchmark.save(tmp_path)
    assert Benchmark.load(tmp_path)(requests, pictures[3:]) == pytest.approx(found, abs=1e-6)


@pytest.mark.parametrize("first", [True, False])
def test_scores_stand_in_the_log_and_in_the_curve(tmp_path: Path, first: bool) -> None:
    requests, painted, scored = [make_request(50, 8, 8)], [flat(9, 8, 8)], []

    def score(*given: Any) -> dict[str, float]:
        scored.append(given)
        return {"dino": 0.25}

    logger = Rows()
    pictures = Pictures(lambda: painted, requests, tmp_path / "pictures", score)
    lines = Curve(tmp_path / CURVE, pictures)
    module = SimpleNamespace(bands={0.1: 0.5, 0.9: 1.5})
    for step, sanity in ((0, True), (20, False)):
        trainer: Any = SimpleNamespace(
            sanity_checking=sanity, is_global_zero=first, global_step=step, loggers=[logger]
        )
        for callback in (pictures, lines):
            callback.on_validation_end(trainer, module)
    if not first:
        assert scored == [] and logger.rows == {} and list(tmp_path.iterdir()) == []
        return
    assert scored == [(requests, painted)] and logger.rows == {19: {"benchmark/dino": 0.25}}
    assert [p.name for p in (tmp_path / "pictures").iterdir()] == ["step-000020.png"]
    losses = {"validation_loss": 1.0, "t0.1": 0.5, "t0.9": 1.5}
    assert curve(tmp_path / CURVE) == [{"step": 0} | losses, {"step": 20, "dino": 0.25} | losses]


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


class Line(lightning.LightningModule):
    """A step takes 10 s of the clock and two turns, a validation 1,000 s; keeps its weights."""

    def __init__(self, clock: Clock) -> None:
        super().__init__()
        self.adapter = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Linear(4, 2))
        self.clock = clock
        self.kept: list[np.ndarray] = []

    def training_step(self, batch: Tensor, index: int) -> Tensor:
        self.clock.now += 5
        if index % 2 == 0:
            self.kept.append(self.weights())
        return self.adapter(batch).square().mean()

    def validation_step(self, batch: Tensor, index: int) -> None:
        self.clock.now += 1000

    def weights(self) -> np.ndarray:
        return np.concatenate([p.detach().numpy().ravel() for p in self.adapter.parameters()])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


@pytest.mark.filterwarnings("ignore")
def test_speed_and_norms_are_in_the_steps_that_are_logged(tmp_path: Path) -> None:
    """Also after validations, whose time is nobody's."""
    clock, logger = Clock(), Rows()
    module = Line(clock)
    data: DataLoader[Any] = DataLoader(torch.randn(48, 3), batch_size=1)
    with quiet():
        lightning.Trainer(
            max_steps=24, accelerator="cpu", logger=logger, enable_progress_bar=False,
            enable_model_summary=False, enable_checkpointing=False, callbacks=[Meter(6, 4, clock)],
            log_every_n_steps=4, num_sanity_val_steps=0, val_check_interval=16,
            check_val_every_n_epoch=None, limit_val_batches=1, accumulate_grad_batches=2,
            default_root_dir=tmp_path,
        ).fit(module, data, data)  # fmt: skip
    module.kept.append(module.weights())
    rows = {k: row for k, row in logger.rows.items() if "norm/adapter" in row}
    assert sorted(rows) == [3, 7, 11, 15, 19, 23]
    for step, row in rows.items():
        before, after = module.kept[step], module.kept[step + 1]
        assert row["norm/adapter"] == pytest.approx(np.linalg.norm(after), rel=1e-5)
        assert row["norm/update"] == pytest.approx(np.linalg.norm(after - before), rel=1e-4)
        assert row["examples_per_second"] == pytest.approx(0.6)
        assert row["lr"] == pytest.approx(0.1) and row["memory_mib"] > 10


def spread(folder: Path, rank: int) -> None:
    """One rank's step with half of an adapter: what the meter says, and the whole one's norms."""
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", f"file://{folder}/store", rank=rank, world_size=2)
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(3, 5), torch.nn.Linear(5, 3))
    shard(model, init_device_mesh("cpu", (2,)))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    told: dict[str, Any] = {}
    module = SimpleNamespace(adapter=model, device=torch.device("cpu"), log_dict=told.update)
    trainer: Any = SimpleNamespace(global_step=0, optimizers=[optimizer])
    meter, before = Meter(1, 1), all_of(model)
    meter.on_train_batch_start(trainer, module, None, 0)
    model(torch.ones(2, 3)).square().sum().backward()
    meter.on_before_optimizer_step(trainer, module, None)
    optimizer.step()
    trainer.global_step = 1
    meter.on_train_batch_end(trainer, module, None, None, 0)
    after = all_of(model)
    expected = {"norm/adapter": float(after.norm()), "norm/update": float((after - before).norm())}
    found = {name: float(told[name]) for name in expected}
    (folder / f"{rank}.json").write_text(json.dumps([found, expected]))
    distributed.destroy_process_group()


def all_of(model: torch.nn.Module) -> Tensor:
    return torch.cat([whole(p).ravel() for p in model.parameters()]).double()


def test_norms_of_a_spread_adapter_are_the_whole_ones_on_all_ranks(tmp_path: Path) -> None:
    assert ended([forked(spread, tmp_path, rank) for rank in (0, 1)]) == [0, 0]
    for rank in (0, 1):
        found, expected = json.loads((tmp_path / f"{rank}.json").read_text())
        assert found == pytest.approx(expected, rel=1e-5)
        assert min(expected.values()) > 0.01


class Watched(DreamMix):
    """Keeps what it painted with."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.states: list[dict[str, Tensor]] = []

    def paint(self, backbone: Any, requests: Any) -> Any:
        self.states.append(self.state(backbone))
        return super().paint(backbone, requests)


def test_averaged_weights_paint_and_are_not_trained_on(
    base: str,
    encoded: Path,
    tmp_path: Path,
) -> None:
    method = Watched(find("dreammix", SETTINGS).settings)
    fit(
        method, load(base), Encoded.open(encoded, FACTS), [asked()],
        recipe=replace(RECIPE, average=0.9, steps=4), devices=Devices(),
        watch=Watch(validate=4, save=4, log=1), work=tmp_path,
    )  # fmt: skip
    at_validation, at_the_end = method.states
    kept = load_file(tmp_path / ADAPTER)
    for name, value in kept.items():
        assert torch.equal(at_validation[name], value) and torch.equal(at_the_end[name], value)
    # Training goes on from the weights themselves.
    saved = SafetensorsIO().load_checkpoint(tmp_path / LAST)["state_dict"]
    trained = [value for name, value in saved.items() if "lora_B" in name]
    assert trained
    for value in trained:
        assert not any(torch.equal(one, value) for one in kept.values())
