"""Proves that each optimizer is its reference on one process, and the same on two, also sharded.

Needs prodigyopt as a reference, and gloo, for two ranks.
"""

import copy
import json
import math
import os
import sys
from pathlib import Path

import prodigyopt
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.optim.lr_scheduler import LambdaLR

from insitu.errors import UserError
from insitu.training.optimizers import Optimization, Prodigy, United, make
from tests.training.runs import ended, forked

D_COEF = 100.0  # prodigy soon takes large steps
SETTINGS = {
    "adamw": Optimization(name="adamw", lr=1e-2, weight_decay=0.1),
    "muon": Optimization(name="muon", lr=1e-2, weight_decay=0.1),
    "prodigy": Optimization(name="prodigy", lr=1.0, weight_decay=0.1, d_coef=D_COEF),
}
STEPS = 8


def build() -> nn.Module:
    """A kernel, matrices and vectors; on 2 ranks some shards are uneven, and one is empty.

    In float64, so that the order of a sum cannot tip a number over in muon's rounding to bfloat16.
    """
    torch.manual_seed(0)
    layers = nn.Conv2d(1, 2, 3), nn.Flatten(), nn.Linear(8, 5), nn.Tanh(), nn.Linear(5, 1)
    return nn.Sequential(*layers).double()


def samples() -> tuple[Tensor, Tensor]:
    source = torch.Generator().manual_seed(1)
    x = torch.randn(6, 1, 4, 4, generator=source, dtype=torch.float64)
    return x, 3 * x.mean((1, 2, 3), keepdim=True).flatten(1) + 1


def train(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    part: slice = slice(None),
    steps: int = STEPS,
) -> None:
    x, y = (tensor[part] for tensor in samples())
    for _ in range(steps):
        optimizer.zero_grad()
        nn.functional.mse_loss(model(x), y).backward()
        optimizer.step()


def whole(model: nn.Module) -> dict[str, Tensor]:
    tensors = {name.removeprefix("module."): p.detach() for name, p in model.named_parameters()}
    return {
        n: (t.full_tensor() if isinstance(t, DTensor) else t.clone()) for n, t in tensors.items()
    }


def rank_main(rank: int, folder: Path) -> None:
    """Train half of the samples each, in both strategies; write what this rank ends with."""
    from torch.distributed import destroy_process_group, init_process_group
    from torch.distributed.fsdp import fully_shard
    from torch.nn.parallel import DistributedDataParallel

    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    address = f"file://{folder / 'rendezvous'}"
    init_process_group("gloo", init_method=address, rank=rank, world_size=2)
    estimates: dict[str, object] = {}
    for strategy, wrap in {"ddp": DistributedDataParallel, "fsdp2": fully_shard}.items():
        for name, settings in SETTINGS.items():
            model = wrap(build())
            optimizer = make(model.named_parameters(), settings)
            train(model, optimizer, slice(3 * rank, 3 * rank + 3))
            save_file(whole(model), folder / f"{strategy}-{name}-{rank}.safetensors")
            estimates[f"{strategy}-{name}"] = optimizer.param_groups[0].get("d")
            if strategy == "fsdp2":
                states = [v for p in model.parameters() for v in optimizer.state[p].values()]
                big = [v for v in states if v.ndim]
                estimates[f"sharded-{name}"] = all(isinstance(v, DTensor) for v in big) and len(big)
    try:
        make(model.named_parameters(), Optimization(name="adamw8bit", lr=1e-3))
    except UserError as error:
        estimates["adamw8bit"] = str(error)
    (folder / f"estimates-{rank}.json").write_text(json.dumps(estimates))
    destroy_process_group()


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ranks")
    assert ended([forked(rank_main, rank, folder) for rank in (0, 1)]) == [0, 0]
    return folder


@pytest.mark.parametrize("strategy", ["ddp", "fsdp2"])
@pytest.mark.parametrize("name", SETTINGS)
def test_two_ranks_with_half_the_batch_are_one_with_all_of_it(
    ranks: Path, strategy: str, name: str
) -> None:
    model = build()
    start = whole(model)
    optimizer = make(model.named_parameters(), SETTINGS[name])
    train(model, optimizer)
    expected = whole(model)
    first, second = (load_file(ranks / f"{strategy}-{name}-{r}.safetensors") for r in (0, 1))
    for key, value in expected.items():
        assert (value - start[key]).abs().max() > 1e-3  # the steps were no trifle
        assert torch.equal(first[key], second[key])
        torch.testing.assert_close(first[key], value, rtol=0, atol=1e-9)
    d = optimizer.param_groups[0].get("d")
    found = [json.loads((ranks / f"estimates-{r}.json").read_text()) for r in (0, 1)]
    assert found[0][f"{strategy}-{name}"] == found[1][f"{strategy}-{name}"]
    if name == "prodigy":
        assert d > 1e-4 and found[0][f"{strategy}-{name}"] == pytest.approx(d, rel=1e-9)


def test_sharded_parameters_have_sharded_state_and_no_8_bits(ranks: Path) -> None:
    found = json.loads((ranks / "estimates-0.json").read_text())
    assert found["sharded-adamw"] == 6 * 2 and found["sharded-prodigy"] == 6 * 4
    assert found["sharded-muon"] == 2 * 1 + 4 * 2
    assert "are sharded" in found["adamw8bit"]


@pytest.mark.parametrize("warmup", [1, 6])
def test_prodigy_is_prodigyopt(warmup: int) -> None:
    ours, theirs = build(), build()
    mine = make(ours.named_parameters(), SETTINGS["prodigy"])
    assert isinstance(mine, Prodigy)
    groups = [
        {"params": [p for p in theirs.parameters() if (p.ndim > 1) is decayed], "weight_decay": wd}
        for decayed, wd in ((True, 0.1), (False, 0.0))
    ]
    reference = prodigyopt.Prodigy(
        groups, d_coef=D_COEF, use_bias_correction=True, safeguard_warmup=True
    )
    for model, optimizer in ((ours, mine), (theirs, reference)):
        schedule = LambdaLR(optimizer, lambda step: min(1.0, (step + 1) / warmup))
        for _ in range(STEPS):
            train(model, optimizer, steps=1)
            schedule.step()
    d = mine.param_groups[0]["d"]
    assert d > 1e-3 and d == pytest.approx(reference.param_groups[0]["d"], rel=1e-9)
    for ours_p, theirs_p in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(ours_p, theirs_p, rtol=0, atol=1e-9)


def test_muon_is_torchs_muon_on_matrices_and_adamw_on_the_rest() -> None:
    ours, theirs = build(), build()
    train(ours, make(ours.named_parameters(), SETTINGS["muon"]))
    matrices = [p for p in theirs.parameters() if p.ndim == 2]
    muon = torch.optim.Muon(
        matrices, lr=1e-2, weight_decay=0.1, momentum=0.95, adjust_lr_fn="match_rms_adamw"
    )
    adamw = torch.optim.AdamW(
        [
            {"params": [p for p in theirs.parameters() if p.ndim == 4], "weight_decay": 0.1},
            {"params": [p for p in theirs.parameters() if p.ndim == 1], "weight_decay": 0.0},
        ],
        lr=1e-2,
    )
    x, y = samples()
    for _ in range(STEPS):
        theirs.zero_grad()
        nn.functional.mse_loss(theirs(x), y).backward()
        muon.step()
        adamw.step()
    for ours_p, theirs_p in zip(ours.parameters(), theirs.parameters(), strict=True):
        assert torch.equal(ours_p, theirs_p)


@pytest.mark.parametrize("name", SETTINGS)
def test_a_run_continues_from_its_state_as_if_never_stopped(name: str) -> None:
    through, stopped = build(), build()
    optimizer = make(through.named_parameters(), SETTINGS[name])
    train(through, optimizer)
    first = make(stopped.named_parameters(), SETTINGS[name])
    train(stopped, first, steps=5)
    saved, weights = copy.deepcopy(first.state_dict()), copy.deepcopy(stopped.state_dict())
    train(stopped, first, steps=1)  # what is saved no longer moves
    again = build()
    again.load_state_dict(weights)
    second = make(again.named_parameters(), SETTINGS[name])
    second.load_state_dict(saved)
    train(again, second, steps=STEPS - 5)
    for one, other in zip(through.parameters(), again.parameters(), strict=True):
        assert torch.equal(one, other)


def test_the_united_optimizer_is_one_to_schedules_hooks_and_closures() -> None:
    model = build()
    optimizer = make(model.named_parameters(), SETTINGS["muon"])
    assert isinstance(optimizer, United) and len(optimizer.parts) == 2
    calls: list[bool] = []
    for loaded in (False, True):
        if loaded:  # loading makes new groups, of which the parts must know
            optimizer.load_state_dict(copy.deepcopy(optimizer.state_dict()))
        rate = 0.0 if loaded else 0.5
        schedule = LambdaLR(optimizer, lambda step, rate=rate: rate)
        calls.clear()
        hooks = [
            optimizer.register_step_pre_hook(lambda *_: calls.append(True)),
            optimizer.register_step_post_hook(lambda *_: calls.append(False)),
        ]
        before = whole(model)
        assert {group["lr"] for group in optimizer.param_groups} == {rate * 1e-2}

        def closure() -> float:
            optimizer.zero_grad()
            x, y = samples()
            loss = nn.functional.mse_loss(model(x), y)
            loss.backward()
            return float(loss.detach())

        assert optimizer.step(closure) > 0
        assert calls == [True, False]
        for name, p in whole(model).items():
            assert torch.equal(p, before[name]) is loaded  # at a rate of 0 nothing moves
        for hook in hooks:
            hook.remove()
        del schedule
    assert all(p.grad is not None for p in model.parameters())
    optimizer.zero_grad()
    assert all(p.grad is None for p in model.parameters())


@pytest.mark.parametrize("name", SETTINGS)
def test_biases_are_not_decayed_and_frozen_weights_not_stepped(name: str) -> None:
    ends = []
    for weight_decay in (0.0, 0.9):
        model = build()
        model[0].requires_grad_(False)
        settings = Optimization(name=name, lr=0.5, weight_decay=weight_decay)
        optimizer = make(model.named_parameters(), settings)
        train(model, optimizer, steps=1)
        ends.append(whole(model))
    for key, value in build().named_parameters():
        assert torch.equal(ends[0][key], value) is key.startswith("0.")
        assert torch.equal(ends[0][key], ends[1][key]) is (value.ndim == 1 or key.startswith("0."))


def test_muon_alone_and_a_rate_of_0_for_prodigy() -> None:
    layer = nn.Linear(4, 4, bias=False)
    assert len(make(layer.named_parameters(), SETTINGS["muon"]).param_groups) == 1
    model = build()
    optimizer = make(model.named_parameters(), SETTINGS["prodigy"])
    for group in optimizer.param_groups:
        group["lr"] = 0.0
    start = whole(model)
    train(model, optimizer, steps=2)
    assert all(torch.equal(p, start[name]) for name, p in whole(model).items())
    assert optimizer.param_groups[0]["k"] == 0 and optimizer.param_groups[0]["d"] == 1e-6


@pytest.mark.parametrize(
    ("values", "why"),
    [
        ({"name": "sgd"}, "not known"),
        ({"lr": 0.0}, "lr is 0.0. It must be above 0"),
        ({"lr": math.nan}, "above 0"),
        ({"eps": 0.0}, "eps is 0.0"),
        ({"betas": (0.9, 1.0)}, "below 1"),
        ({"weight_decay": -0.1}, "at least 0"),
        ({"momentum": 0.9}, "Only muon has a momentum"),
        ({"name": "muon", "momentum": 1.0}, "below 1"),
        ({"d_coef": 2.0}, "Only prodigy has a d_coef"),
        ({"name": "prodigy", "lr": 1.0, "d_coef": 0.0}, "d_coef is 0.0"),
        ({"name": "prodigy"}, "finds the rate itself"),
    ],
)
def test_contradictions_are_refused(values: dict, why: str) -> None:
    with pytest.raises(UserError, match=why):
        Optimization(**{"name": "adamw", "lr": 1e-3} | values)


@pytest.mark.parametrize(
    ("name", "model", "why"),
    [
        ("adamw", nn.Linear(2, 2).requires_grad_(False), "Nothing would be trained"),
        ("muon", nn.LayerNorm(4), "None of them is a matrix"),
    ],
)
def test_parameters_that_cannot_be_stepped_are_refused(
    name: str, model: nn.Module, why: str
) -> None:
    with pytest.raises(UserError, match=why):
        make(model.named_parameters(), SETTINGS[name])


def test_8_bits_without_their_library_say_what_to_install(monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    with pytest.raises(UserError, match="pip install bitsandbytes"):
        make(build().named_parameters(), Optimization(name="adamw8bit", lr=1e-3))


def test_8_bits_come_close_to_32_and_continue_from_their_state() -> None:
    pytest.importorskip("bitsandbytes")
    x = torch.randn(16, 64, generator=torch.Generator().manual_seed(2))

    def step(model: nn.Module, optimizer: torch.optim.Optimizer, times: int) -> None:
        for _ in range(times):
            optimizer.zero_grad()
            (model(x) - x.roll(1, 1)).square().mean().backward()
            optimizer.step()

    ends = []
    for name in ("adamw", "adamw8bit"):
        torch.manual_seed(0)
        model = nn.Linear(64, 64)
        start = whole(model)["weight"]
        optimizer = make(model.named_parameters(), Optimization(name=name, lr=1e-2))
        step(model, optimizer, 5)
        ends.append(whole(model)["weight"] - start)
    assert optimizer.state[model.weight]["state1"].dtype == torch.uint8
    difference = (ends[1] - ends[0]).norm() / ends[0].norm()
    assert 0 < difference < 0.1
    again = copy.deepcopy(model)
    continued = make(again.named_parameters(), Optimization(name="adamw8bit", lr=1e-2))
    continued.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    step(model, optimizer, 3)
    step(again, continued, 3)
    assert torch.equal(model.weight, again.weight) and torch.equal(model.bias, again.bias)
