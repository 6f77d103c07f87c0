"""Proves that tuning, killed at any step and started again, ends with the same weights, and that a
work folder has one holder.

Needs the nano inpainting checkpoint; each run is a process of its own, since kill -9 is meant.
"""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from lightning.pytorch.loggers.logger import DummyLogger

from insitu.errors import UserError
from insitu.training.checkpoint_io import SafetensorsIO
from insitu.work import work_folder

NANO = Path(__file__).resolve().parents[2] / "models" / "nano" / "sdxl-inpaint"
SCRIPT = """
import os, signal, sys
from pathlib import Path
import torch
from insitu.backbones.loading import base_digest
from insitu.backbones.unet import InpaintBackbone
from insitu.methods import Request, find
from insitu.methods.dreammix import data
from insitu.params import Checkpoint
from insitu.records.engines import Lineage, RegularPhoto
from insitu.registry.package import Base
from insitu.synthesis import subjects
from insitu.training import encoding, module, tune
from insitu.training.recipe import Devices, Recipe, Watch
from insitu.training.optimizers import Optimization
from insitu.training.times import Times

torch.set_num_threads(1)
path, folder, die_at = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])
step = module.Training.training_step

def dying(self, draw, index):
    if self.global_step == die_at:
        os.kill(os.getpid(), signal.SIGKILL)
    return step(self, draw, index)

module.Training.training_step = dying
settings = dict(rank=2, targets=["to_k", "to_v"], inside=1.5, outside=0.7, beta=0.4, steps=2,
                guidance_scale=2.0, context=0.3)
photos = list(subjects.drawn(0, photos=2, size=96, seed=0))
regular = [
    RegularPhoto(id=f"r/{k}", subject=p.subject, class_word=p.class_word, attributes=("red",),
                 image=p.image, box=p.box, mask=p.image, prompt=f"a red {p.class_word}",
                 lineage=Lineage(sources=(), models=()))
    for k, p in enumerate(photos)
]
checkpoint = Checkpoint(path=path)
backbone = InpaintBackbone.load(checkpoint, device=torch.device("cpu"))
method = find("dreammix", settings)
views = data.Views(size=backbone.size, context=0.3, masks=3, grow=0.3, identifier="sks", seed=4)
facts = {"photos": "p"}
encoding.encode(method, backbone, data.examples(photos, regular, views), folder / "encoded",
                facts=facts, root=folder / "work")
setup = tune.Setup(
    method=method, base=Base(path=path, revision=None, weights_digest=base_digest(checkpoint)),
    precision={"dtype": "float32"}, device="cpu",
    recipe=Recipe(steps=7, batch=2, seed=4, shares={"subject": 0.5, "regular": 0.5},
                  optimizer=Optimization(name="adamw", lr=1e-3, weight_decay=0.0), cooldown=0.5,
                  times=Times(kind="uniform"), drop={"text": 0.5}),
    devices=Devices(), watch=Watch(validate=4, save=2), backbone=lambda: backbone,
)
request = Request(image=photos[0].image.array(), box_xyxy01=photos[0].box.xyxy01, seed=4,
                  prompt=f"a sks {photos[0].class_word}")
subject = tune.Subject(name="a", class_word="mug", identifier="sks", encoded=folder / "encoded",
                       facts=facts, requests=[request])
package = tune.tune(subject, folder / "adapter", setup, root=folder / "work")
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
    assert curves[0] == curves[1] and curves[0].count("\n") == 2


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
