"""Proves that the memory plan is within a tenth of what a run really allocates, that it counts a
storage once and only while it lives, that a plan for several devices or fewer bits is the sum of
what they hold, that the advice is the first change that fits, and that a run that cannot fit is
refused before it starts.

Needs the nano inpainting checkpoint; tiny random ones for the rest. Real runs are watched by
torch's profiler, which knows nothing of the plan.
"""

import gc
import io
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from rich.console import Console
from torch.profiler import ProfilerActivity, profile
from typer.testing import CliRunner

from insitu.backbones.precision import Precision
from insitu.backbones.unet import InpaintBackbone
from insitu.cli import app
from insitu.errors import UserError
from insitu.methods import VALIDATION, Example, Placement, Request, find
from insitu.params import Checkpoint
from insitu.training.encoding import Encoded, encode
from insitu.training.fit import fit
from insitu.training.memory import Run, cheaper, predict, require_room, room
from insitu.training.memory.live import Live, fake_mode, no_numbers
from insitu.training.memory.rehearsal import Frozen
from insitu.training.memory.report import render
from insitu.training.optimizers import Optimization
from insitu.training.recipe import Devices, Recipe, Watch
from insitu.training.times import Times
from tests.tiny import write_params

NANO = Path(__file__).resolve().parents[2] / "models" / "nano" / "sdxl-inpaint"
SETTINGS = {
    "rank": 4, "targets": ["to_k", "to_v"], "inside": 1.5, "outside": 0.7, "beta": 0.4, "steps": 1,
    "guidance_scale": 2.0, "context": 0.3,
}  # fmt: skip
ADAMW = Optimization(name="adamw", lr=1e-3)
FACTS = {"photos": "random"}
HERE = "insitu.training.memory.limits"
CPU, CUDA = torch.device("cpu"), torch.device("cuda")


def test_a_storage_counts_once_and_while_it_lives() -> None:
    with no_numbers(fake_mode()):
        known = torch.empty(1000)
        live = Live()
        live.leave_out([known])
        with live:
            known.view(10, 100)  # a view of what somebody else counts
            x = torch.empty(500)
            views = [x.view(5, 100), x[:7]]
            y = x * 2
            del x
            assert live.now == {"activations": 4000}, "the views hold x"
            del views
            assert live.now == {"activations": 2000}
            live.count([y], "named")
            y.double()
            assert live.now == {"activations": 0, "named": 2000}
            assert live.peak == {"activations": 4000, "named": 2000}
            w = torch.empty(100, requires_grad=True)
            loss = (w.exp() * 2).sum()  # exp's result is kept for its gradient, the product not
            assert live.now["activations"] == 400 + 400 + 4
            del loss
            assert live.now["activations"] == 400


def test_allocations_are_rounded_up_as_cuda_does() -> None:
    with no_numbers(fake_mode()), Live(512) as live:
        x = torch.empty(129)
        assert live.now == {"activations": 1024}
        del x


def test_code_that_asks_for_numbers_runs_and_draws_none() -> None:
    before = torch.get_rng_state()
    with no_numbers(fake_mode()):
        x = torch.randn(3, 2)
        assert float(x.sum()) == 1.0 and bool((x > 0).all())
        assert x.numpy().shape == (3, 2)
        layer = torch.nn.Linear(3, 2).to(torch.float64)
        assert layer.weight.dtype == torch.float64
    assert torch.equal(torch.get_rng_state(), before)


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


def load(device: torch.device, base: Path = NANO) -> InpaintBackbone:
    return InpaintBackbone.load(Checkpoint(path=str(base)), device=device)


def bytes_of(backbone: InpaintBackbone) -> int:
    parts = (p for p in backbone.pipeline.components.values() if isinstance(p, torch.nn.Module))
    return sum(
        t.untyped_storage().nbytes()
        for part in parts
        for t in (*part.parameters(), *part.buffers())
    )


GIB = 2**30
PART = Frozen(
    base=8 * GIB, blocks=6 * GIB, block=GIB // 2, text=2 * GIB, others=GIB, widened=0,
    widened_block=0, widened_layer=0,
)  # fmt: skip
INT8 = Frozen(
    base=5 * GIB, blocks=3 * GIB, block=GIB // 4, text=GIB, others=GIB, widened=6 * GIB,
    widened_block=GIB // 2, widened_layer=GIB // 8,
)  # fmt: skip
NF4 = Frozen(
    base=3 * GIB, blocks=GIB, block=GIB // 8, text=GIB // 2, others=GIB, widened=6 * GIB,
    widened_block=GIB // 2, widened_layer=GIB // 8,
)  # fmt: skip


class Invented:
    """A rehearsal with round figures: an example takes 4 GiB, what learns 1 GiB of each kind."""

    frozen: ClassVar = {"none": PART, "int8wo": INT8, "nf4": NF4}
    recomputes = True

    def training(self, examples: int, several_turns: bool, recompute: bool) -> dict[str, int]:
        learning = dict.fromkeys(("adapter", "gradients", "optimizer", "average"), GIB)
        return learning | {"activations": examples * GIB * (1 if recompute else 4)}

    def painting(self, pictures: int) -> dict[str, int]:
        return {"adapter": GIB, "activations": pictures * GIB}


class Keeping(Invented):
    """One of a base that cannot compute activations again."""

    recomputes = False


def run(**changed: Any) -> Run:
    values = {
        "batch": 4, "pictures": 1, "devices": Devices(), "precision": Precision(), "device": CUDA,
    } | changed  # fmt: skip
    return Run(**values)


def predicted(**changed: Any) -> dict[str, int]:
    """Whole GiB of training by kind, and of all."""
    plan = predict(Invented(), run(**changed))  # type: ignore[arg-type]
    found = plan.phases["training"]
    return {kind: size // GIB for kind, size in found.items()} | {"all": plan.peak // GIB}


def test_one_device_holds_everything() -> None:
    assert predicted() == {
        "base": 8, "encoders": 3, "adapter": 1, "gradients": 1, "optimizer": 1, "average": 1,
        "activations": 16, "all": 31,
    }  # fmt: skip


def test_two_devices_share_the_batch_and_ddp_adds_buckets() -> None:
    found = predicted(devices=Devices(count=2))
    assert (found["base"], found["activations"], found["buckets"], found["all"]) == (8, 8, 1, 24)


def test_fsdp_divides_what_it_shards_and_gathers_two_blocks() -> None:
    found = predicted(devices=Devices(count=4, strategy="fsdp"))
    assert (found["base"], found["encoders"], found["activations"]) == (2, 3, 4)
    assert found["gathered"] == 2 + 1, "what is in no block, and two blocks"
    assert found["optimizer"] == 0, "a quarter"
    assert found["all"] == 2 + 3 + 3 + 4 + 1


def test_fewer_bits_count_as_stored_and_widened_as_their_library_does() -> None:
    nf4 = predict(Invented(), run(precision=Precision(quantize="nf4", text=True)))  # type: ignore[arg-type]
    own = nf4.phases["training"]
    assert (own["base"], own["encoders"]) == (3 * GIB, GIB + GIB // 2)
    assert own["widened weights"] == GIB // 8
    for recompute, widened in ((False, 6 * GIB), (True, GIB // 2)):
        changed = run(precision=Precision(quantize="int8wo"), recompute=recompute)
        plan = predict(Invented(), changed)  # type: ignore[arg-type]
        assert plan.phases["training"]["widened weights"] == widened
        assert plan.phases["painting"]["widened weights"] == GIB // 8


@pytest.mark.parametrize(
    ("batch", "room_gib", "changes"),
    [
        (4, 26, {"devices.accumulate": 2}),  # 23 GiB, with a tenth to spare
        (4, 25, {"devices.accumulate": 4}),  # 19 GiB; two turns would fit without the tenth
        (4, 17, {"devices.strategy": "fsdp", "devices.count": 4}),  # 13; no other alone fits
        (3, 16, {"devices.accumulate": 3, "base.quantize": "nf4"}),  # 14.1; 3 is not to be shared
        (4, 4, None),  # the encoders alone are 3
    ],
)
def test_the_advice_is_the_first_change_that_fits(
    batch: int, room_gib: int, changes: dict[str, Any] | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("insitu.training.memory.plan.require", lambda precision, device: None)
    advice = cheaper(Keeping(), run(batch=batch), room_gib * GIB)  # type: ignore[arg-type]
    if changes is None:
        assert advice is None
    else:
        assert advice is not None and advice.changes == changes
        assert advice.plan.peak <= 0.9 * room_gib * GIB


def test_computing_activations_again_is_advised_first() -> None:
    advice = cheaper(Invented(), run(), 26 * GIB)  # type: ignore[arg-type]
    assert advice is not None and advice.changes == {"devices.recompute": True}
    assert advice.plan.peak == 19 * GIB
    already = cheaper(Invented(), run(recompute=True), 17 * GIB)  # type: ignore[arg-type]
    assert already is None or "devices.recompute" not in already.changes


def test_what_a_device_cannot_do_is_not_advised(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(precision: Precision, device: torch.device) -> None:
        if precision.quantize != "none":
            raise UserError("It is quantized.", "Not here.", "Store it whole.")

    monkeypatch.setattr("insitu.training.memory.plan.require", refuse)
    assert cheaper(Invented(), run(batch=3), 16 * GIB) is None  # type: ignore[arg-type]


def test_advice_names_keys_of_the_settings_file() -> None:
    advice = cheaper(Keeping(), run(), 26 * GIB)  # type: ignore[arg-type]
    assert advice is not None and advice.words() == "tune.devices.accumulate: 2"


def test_what_cannot_fit_is_refused_unless_forced(
    checkpoints: dict[str, Path],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    backbone = load(CPU, checkpoints["sdxl_inpaint"])
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


def test_the_command_plans_without_weights_and_tells_by_its_exit(
    checkpoints: dict[str, Path], tmp_path: Path
) -> None:
    params = tmp_path / "params.yaml"
    write_params(params, checkpoints)
    weights = checkpoints["sdxl_inpaint"] / "unet" / "diffusion_pytorch_model.safetensors"
    hidden = weights.rename(tmp_path / "hidden")
    try:
        arguments = ["--params", str(params), "--device-memory", "0.001", "--json"]
        result = CliRunner().invoke(app, ["plan", "dreammix", *arguments])
    finally:
        hidden.rename(weights)
    assert result.exit_code == 1, result.output
    told = json.loads(result.stdout)
    assert not told["fits"] and told["memory"] == int(0.001 * GIB)
    assert told["peak"] == max(sum(own.values()) for own in told["phases"].values())
    result = CliRunner().invoke(app, ["plan", "other", "--params", str(params)])
    assert result.exit_code == 2 and "dreammix" in result.stderr


def test_a_plan_is_shown_by_kind_with_what_to_change() -> None:
    plan = predict(Invented(), run())  # type: ignore[arg-type]
    advice = cheaper(Keeping(), run(), 26 * GIB)  # type: ignore[arg-type]
    console = Console(file=io.StringIO(), width=100)
    render(plan, 26 * GIB, advice, console)
    shown = console.file.getvalue()  # type: ignore[attr-defined]
    assert re.search(r"activations\W+16.00 GiB\W+1.00 GiB", shown)
    assert re.search(r"all\W+31.00 GiB\W+13.00 GiB", shown)
    assert "it does not fit" in shown and "tune.devices.accumulate: 2: 23.00 GiB" in shown
