"""Proves that tuning, killed at any step and started again, ends with the same weights, and that a
work folder has one holder.

Needs the nano inpainting checkpoint; each run is a process of its own, since kill -9 is meant.
"""

import os
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from lightning.pytorch.loggers.logger import DummyLogger

from insitu.errors import UserError
from insitu.training.checkpoint_io import SafetensorsIO
from insitu.training.data import Sample, SubjectData
from insitu.training.module import Tuning
from insitu.work import work_folder

NANO = Path(__file__).resolve().parents[2] / "models" / "nano" / "sdxl-inpaint"
SCRIPT = """
import os, signal, sys
from pathlib import Path
import torch
from insitu.backbones.unet import InpaintBackbone
from insitu.methods import find
from insitu.params import Checkpoint
from insitu.records.engines import Lineage, RegularPhoto
from insitu.synthesis import subjects
from insitu.training import module, tune

torch.set_num_threads(1)
base, folder, die_at = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])
step = module.Tuning.training_step

def dying(self, draw, index):
    if self.global_step == die_at:
        os.kill(os.getpid(), signal.SIGKILL)
    return step(self, draw, index)

module.Tuning.training_step = dying
settings = dict(rank=2, targets=["to_k", "to_v"], inside=1.5, outside=0.7, beta=0.4, steps=2,
                guidance_scale=2.0, context=0.3)
plan = tune.Plan(steps=7, batch=2, lr=1e-3, cooldown=0.5, drop=0.5, grow=0.3, identifier="sks",
                 regular_share=0.5, context=0.3, seed=4,
                 validate_every=4, save_every=2)
photos = list(subjects.drawn(0, photos=2, size=96, seed=0))
regular = [
    RegularPhoto(id=f"r/{k}", subject=p.subject, class_word=p.class_word, attributes=("red",),
                 image=p.image, box=p.box, mask=p.image, prompt=f"a red {p.class_word}",
                 lineage=Lineage(sources=(), models=()))
    for k, p in enumerate(photos)
]
backbone = InpaintBackbone.load(Checkpoint(path=base), device=torch.device("cpu"))
package = tune.tune(photos, folder / "adapter", regular=regular, plan=plan,
                    method=find("dreammix", settings), backbone=backbone, root=folder / "work")
print(package.digest)
"""


def run(folder: Path, die_at: int = -1) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", SCRIPT, str(NANO), str(folder), str(die_at)]
    return subprocess.run(command, capture_output=True, text=True, env=os.environ)


def test_a_killed_run_continues_to_the_same_weights(tmp_path: Path) -> None:
    whole = run(tmp_path / "whole")
    assert whole.returncode == 0, whole.stderr
    for die_at in (5, 3):  # in this order: the second interruption comes before the checkpoint
        killed = run(tmp_path / "torn", die_at)
        assert killed.returncode == (-signal.SIGKILL if die_at == 5 else 0)
        if die_at == 5:
            assert not (tmp_path / "torn" / "adapter").exists()
    assert killed.stdout.splitlines()[-1] == whole.stdout.splitlines()[-1]
    curves = [
        (tmp_path / n / "adapter" / "validation.jsonl").read_text() for n in ("whole", "torn")
    ]
    assert curves[0] == curves[1] and curves[0].count("\n") == 1


@given(st.integers(1, 50), st.floats(0, 1))
def test_the_rate_holds_and_then_falls_evenly(steps: int, cooldown: float) -> None:
    method = SimpleNamespace(attach=lambda backbone: torch.nn.Linear(1, 1))
    module = Tuning(method, None, make_data(), steps=steps, lr=0.5, cooldown=cooldown)
    found = module.configure_optimizers()
    optimizer, schedule = found["optimizer"], found["lr_scheduler"]["scheduler"]
    rates = []
    for _ in range(steps):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    held = int(steps * (1 - cooldown))
    assert rates[: held + 1] == [0.5] * min(held + 1, steps)
    falls = [a - b for a, b in zip(rates[held + 1 :], rates[held + 2 :], strict=False)]
    assert all(fall == pytest.approx(falls[0]) and fall > 0 for fall in falls)
    assert rates[-1] <= 0.5 / max(1.0, cooldown * steps) + 1e-9


def test_a_checkpoint_comes_back_as_it_was(tmp_path: Path) -> None:
    io, path = SafetensorsIO(), tmp_path / "a" / "last.ckpt"
    tree = {
        "state_dict": {"w": torch.randn(3, 2), "n": torch.tensor(7)},
        "list": [1, 2.5, None, True, "x", (1, "y"), [], {}],
        0: {"inf": float("inf"), "path": Path("a/b"), "step": torch.tensor(3.0)},
    }
    io.save_checkpoint(tree, path)
    back = io.load_checkpoint(path)
    assert torch.equal(back["state_dict"]["w"], tree["state_dict"]["w"])
    assert back["list"] == tree["list"] and isinstance(back["list"][5], tuple)
    assert back[0]["inf"] == float("inf") and back[0]["path"] == Path("a/b")
    assert [p.name for p in path.parent.iterdir()] == ["last.ckpt"]
    with pytest.raises(TypeError, match="DummyLogger"):
        io.save_checkpoint({"logger": DummyLogger()}, path)
    path.write_bytes(path.read_bytes()[:50])
    with pytest.raises(UserError, match="not one of ours"):
        io.load_checkpoint(path)


def test_a_work_folder_has_one_holder_at_a_time(tmp_path: Path) -> None:
    with work_folder("tune", "a" * 64, root=tmp_path) as folder:
        (folder / "half").write_text("done")
        with (
            pytest.raises(UserError, match="Another process"),
            work_folder("tune", "a" * 64, root=tmp_path),
        ):
            pass
        with work_folder("tune", "b" * 64, root=tmp_path) as other:
            assert other != folder
    with work_folder("tune", "a" * 64, root=tmp_path) as again:
        assert (again / "half").read_text() == "done"


def make_data(**changed: object) -> SubjectData:
    import numpy as np

    image = np.zeros((32, 32, 3), np.uint8)
    samples = [
        Sample(id=f"s/{i}", image=image + i, box_xyxy01=(0.2, 0.2, 0.8, 0.8), prompt="a", regular=r)
        for i, r in enumerate((False, False, True, True))
    ]
    values = {
        "batch": 4, "regular_share": 0.5, "drop": 0.0, "grow": 0.2, "latent_shape": (4, 8, 8),
        "seed": 0,
    } | changed  # fmt: skip
    return SubjectData(samples, **values)


def test_a_batch_depends_on_seed_and_step_alone() -> None:
    one, two = make_data(), make_data()
    two.draw(3), two.draw(9)
    for step in (0, 5):
        a, b = one.draw(step), two.draw(step)
        assert torch.equal(a.noise, b.noise) and torch.equal(a.t, b.t)
        assert (a.batch.masks == b.batch.masks).all() and (a.batch.images == b.batch.images).all()
    assert not torch.equal(one.draw(0).noise, one.draw(1).noise)
    assert not torch.equal(one.draw(0).noise, make_data(seed=1).draw(0).noise)
    assert not torch.equal(one.draw(0).noise[0], one.draw(0).noise[1])


def test_every_batch_shows_the_subject_and_regular_ones_at_their_share() -> None:
    regular = [make_data().draw(step).batch.regular for step in range(300)]
    assert not any(row[0] for row in regular)
    share = sum(row[1:].sum() for row in regular) / (300 * 3)
    assert 0.44 < share < 0.56
    assert not any(make_data(regular_share=0.0).draw(step).batch.regular.any() for step in range(9))


@given(st.floats(0, 1))
def test_prompts_are_dropped_at_their_share_and_nothing_else_changes(drop: float) -> None:
    whole, dropping = make_data(), make_data(drop=drop)
    prompts = []
    for step in range(40):
        a, b = whole.draw(step), dropping.draw(step)
        assert torch.equal(a.noise, b.noise) and torch.equal(a.t, b.t)
        assert (a.batch.images == b.batch.images).all()
        prompts += b.batch.prompts
    assert set(prompts) <= {"", "a"}
    assert prompts.count("") / len(prompts) == pytest.approx(drop, abs=0.16)
    assert all("" not in draw.batch.prompts for draw in dropping.validation())


def test_validation_is_the_same_every_time_and_never_regular() -> None:
    first, second = make_data().validation(), make_data().validation()
    assert len(first) == 5
    for a, b in zip(first, second, strict=True):
        assert torch.equal(a.noise, b.noise) and torch.equal(a.t, b.t)
        assert not a.batch.regular.any() and len(a.batch.prompts) == 2
