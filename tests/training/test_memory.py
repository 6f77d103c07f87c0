"""Proves that the memory plan is within a tenth of what a run really allocates, and that a run that
cannot fit is refused before it starts.

Needs the nano inpainting checkpoint, and a tiny random one. Real runs are watched by torch's
profiler, which knows nothing of the plan.
"""

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.profiler import ProfilerActivity, profile

from insitu.backbones.unet import InpaintBackbone
from insitu.errors import UserError
from insitu.methods import VALIDATION, Example, Placement, Request, find
from insitu.training.encoding import Encoded, encode
from insitu.training.fit import fit
from insitu.training.memory import require_room, room
from insitu.training.optimizers import Optimization
from insitu.training.recipe import Devices, Recipe, Watch
from insitu.training.times import Times
from tests.training.planned import ADAMW, CPU, CUDA, FACTS, HERE, SETTINGS, load

CASES: list[dict[str, Any]] = [
    {"batch": 4, "accumulate": 2, "average": 0.9, "optimizer": "prodigy", "rank": 64},
    {"batch": 1, "pictures": 8},
]  # fmt: skip


@pytest.fixture(scope="module")
def encoded(tmp_path_factory: pytest.TempPathFactory) -> Encoded:
    folder, rng = tmp_path_factory.mktemp("encoded"), np.random.default_rng(0)
    mask = np.zeros((64, 64), np.uint8)
    mask[16:40] = 255
    examples = [
        Example(
            id=f"e{k}", image=rng.integers(0, 256, (64, 64, 3), np.uint8), mask=mask,
            prompt="a red mug", pool=VALIDATION if k > 4 else "subject",
        )
        for k in range(6)
    ]  # fmt: skip
    method, backbone = find("dreammix", SETTINGS), load(CPU)
    encode(method, backbone, examples, folder / "e", facts=FACTS, root=folder / "work")
    return Encoded.open(folder / "e", FACTS)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_the_peak_of_a_run_is_within_a_tenth(
    case: dict[str, Any], encoded: Encoded, tmp_path: Path
) -> None:
    backbone = load(CPU)
    weights = bytes_of(backbone)
    with allocations() as found:
        plan = train(case, backbone, encoded, tmp_path)
    frozen = plan.phases[plan.phase]["base"] + plan.phases[plan.phase]["encoders"]
    assert frozen == weights
    # Of what comes on top of them, too: at this size weights would hide much.
    assert plan.peak - frozen == pytest.approx(max(found), rel=0.1)


@pytest.mark.gpu
def test_the_peak_of_a_run_on_cuda_is_within_a_tenth(encoded: Encoded, tmp_path: Path) -> None:
    backbone = load(CUDA)
    torch.cuda.reset_peak_memory_stats()
    plan = train({"batch": 8}, backbone, encoded, tmp_path)
    assert plan.peak == pytest.approx(torch.cuda.max_memory_allocated(), rel=0.1)


def train(case: dict[str, Any], backbone: Any, encoded: Encoded, work: Path) -> Any:
    """Plan a run and do it."""
    method = find("dreammix", SETTINGS | {"rank": case.get("rank", 4)})
    prodigy = Optimization(name="prodigy", lr=1.0)
    recipe = Recipe(
        steps=3, batch=case["batch"], seed=0, shares={"subject": 1.0},
        optimizer=prodigy if "optimizer" in case else ADAMW, average=case.get("average"),
        times=Times(kind="uniform"),
    )  # fmt: skip
    devices = Devices(accumulate=case.get("accumulate", 1))
    photo = np.full((64, 64, 3), 90, np.uint8)
    request = Request(
        image=photo,
        placements=(Placement(box_xyxy01=(0.2, 0.2, 0.8, 0.8)),),
        prompt="a red mug",
        seed=0,
    )
    requests = [request] * case.get("pictures", 1)
    plan = require_room(
        method, backbone, ["64x64"], recipe=recipe, devices=devices, pictures=len(requests),
        force=False,
    )  # fmt: skip
    fit(
        method, backbone, encoded, requests, recipe=recipe, devices=devices,
        watch=Watch(validate=2, save=2), work=work,
    )  # fmt: skip
    return plan


@contextmanager
def allocations() -> Iterator[list[int]]:
    """Afterwards: bytes allocated on the CPU since the beginning, after each event."""
    running: list[int] = []
    gc.collect()  # or frees of what an earlier test allocated would count
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen:
        yield running
    events = [e for e in seen.profiler.kineto_results.events() if e.name() == "[memory]"]
    events.sort(key=lambda event: event.start_ns())
    running += np.cumsum([event.nbytes() for event in events]).tolist()


def bytes_of(backbone: InpaintBackbone) -> int:
    parts = (p for p in backbone.pipeline.components.values() if isinstance(p, torch.nn.Module))
    return sum(
        t.untyped_storage().nbytes()
        for part in parts
        for t in (*part.parameters(), *part.buffers())
    )


def test_what_cannot_fit_is_refused_unless_forced(
    checkpoints: dict[str, Path],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    backbone = load(CPU, checkpoints["inpaint"])
    recipe = Recipe(
        steps=1, batch=8, seed=0, shares={"subject": 1.0}, optimizer=ADAMW,
        times=Times(kind="uniform"),
    )  # fmt: skip
    asked: dict[str, Any] = {"recipe": recipe, "devices": Devices(), "pictures": 1}
    method = find("dreammix", SETTINGS)
    plan = require_room(method, backbone, ["16x16", "32x32"], **asked, force=False)
    activations = plan.phases["training"]["activations"]
    monkeypatch.setattr(f"{HERE}.room", lambda device: int(0.8 * activations))
    with pytest.raises(UserError, match=r"devices\.recompute: true.*devices\.force: true"):
        require_room(method, backbone, ["32x32"], **asked, force=False)
    capsys.readouterr()
    require_room(method, backbone, ["32x32"], **asked, force=True)
    assert capsys.readouterr().out.startswith("memory: ")


def test_a_cpus_room_is_the_less_of_machine_and_container(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "meminfo").write_text("MemTotal: 9 kB\nMemAvailable:    4000 kB\n")
    monkeypatch.setattr(f"{HERE}.MEMINFO", tmp_path / "meminfo")
    monkeypatch.setattr(f"{HERE}.CGROUP", tmp_path)
    assert room(CPU) == 4000 * 1024
    (tmp_path / "memory.max").write_text("max\n")
    assert room(CPU) == 4000 * 1024
    (tmp_path / "memory.max").write_text("3000000\n")
    (tmp_path / "memory.stat").write_text("anon 1000000\nfile 1900000\n")
    assert room(CPU) == 2000000
