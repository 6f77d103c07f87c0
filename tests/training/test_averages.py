"""Proves that the averaged weights are torch's and diffusers', come and go without a trace, and are
saved, gathered and sharded again with the optimizer.

Needs gloo, for two ranks.
"""

import copy
import json
import os
from pathlib import Path

import pytest
import torch
from diffusers.training_utils import EMAModel
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from insitu.errors import UserError
from insitu.training.averages import averaged, keep_average
from insitu.training.optimizers import Optimization, make
from tests.training.runs import ended, forked

SETTINGS = {
    "adamw": Optimization(name="adamw", lr=0.05),
    "muon": Optimization(name="muon", lr=0.05),
    "prodigy": Optimization(name="prodigy", lr=1.0, d_coef=100.0),  # it soon takes large steps
}


def build() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 3)).double()


def optimizer_of(model: nn.Module, name: str = "adamw", decay: float = 0.9):
    optimizer = make(model.named_parameters(), SETTINGS[name])
    keep_average(optimizer, decay)
    return optimizer


def train(model: nn.Module, optimizer, steps: int, after=lambda: None) -> None:
    x = torch.linspace(-1, 1, 12, dtype=torch.float64).view(4, 3)
    for _ in range(steps):
        optimizer.zero_grad()
        (model(x) - x.flip(1)).square().mean().backward()
        optimizer.step()
        after()


def bits(model: nn.Module) -> list[Tensor]:
    return [p.detach().clone() for p in model.parameters()]


def same(ones: list[Tensor], others: list[Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(ones, others, strict=True))


@pytest.mark.parametrize("decay", [0.1, 0.6, 0.999])
@pytest.mark.parametrize("name", SETTINGS)
def test_the_average_is_that_of_diffusers(name: str, decay: float) -> None:
    model = build()
    optimizer = optimizer_of(model, name, decay)
    reference = EMAModel(model.parameters(), decay=decay)
    train(model, optimizer, 25, lambda: reference.step(model.parameters()))
    for p, expected in zip(model.parameters(), reference.shadow_params, strict=True):
        torch.testing.assert_close(optimizer.state[p]["ema"], expected, rtol=1e-12, atol=1e-12)
        assert not torch.equal(p, expected)


def test_a_decay_that_the_warm_up_has_passed_at_once_is_torchs() -> None:
    model = build()
    optimizer = optimizer_of(model, decay=0.1)
    reference = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.1))
    train(model, optimizer, 10, lambda: reference.update_parameters(model))
    with averaged(optimizer, model):
        assert same(bits(model), bits(reference.module))


def test_live_weights_come_back_bit_for_bit_also_after_an_exception() -> None:
    model = build()
    optimizer = optimizer_of(model)
    with averaged(optimizer, model):  # before the first step weights are their own average
        assert same(bits(model), bits(build()))
    train(model, optimizer, 3)
    live, state = bits(model), copy.deepcopy(optimizer.state_dict())
    with averaged(optimizer, model):
        assert not any(torch.equal(a, b) for a, b in zip(live, bits(model), strict=True))
    assert same(live, bits(model))
    with pytest.raises(RuntimeError, match="paint"), averaged(optimizer, model):
        raise RuntimeError("paint")
    assert same(live, bits(model))
    for key, values in optimizer.state_dict()["state"].items():
        assert all(torch.equal(values[k], state["state"][key][k]) for k in values)


@pytest.mark.parametrize("name", SETTINGS)
def test_a_weight_that_learns_late_joins_late(name: str) -> None:
    model = build()
    optimizer = optimizer_of(model, name)
    late = model[0].weight
    late.requires_grad_(False)
    train(model, optimizer, 2)
    assert not optimizer.state.get(late)
    late.requires_grad_(True)
    train(model, optimizer, 1)
    assert torch.equal(optimizer.state[late]["ema"], late)


@pytest.mark.parametrize("name", SETTINGS)
def test_an_average_continues_from_its_checkpoint(name: str) -> None:
    through = build()
    expected = optimizer_of(through, name)
    train(through, expected, 9)
    model = build()
    first = optimizer_of(model, name)
    train(model, first, 4)
    second = optimizer_of(model, name)
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    train(model, second, 5)
    with averaged(second, model), averaged(expected, through):
        assert same(bits(model), bits(through))
    bare = make(model.named_parameters(), SETTINGS[name])
    train(model, bare, 1)
    with pytest.raises(UserError, match="written without one"):
        second.load_state_dict(bare.state_dict())
    with pytest.raises(ValueError, match="keep_average"), averaged(bare, model):
        pass


def test_what_cannot_be_averaged_is_refused() -> None:
    with pytest.raises(UserError, match="bfloat16"):
        optimizer_of(build().bfloat16())
    for decay in (0.0, 1.0):
        with pytest.raises(UserError, match="below 1"):
            optimizer_of(build(), decay=decay)


def rank_main(rank: int, folder: Path) -> None:
    """Train sharded, gather, load into new shards, go on; write what differs from one process."""
    from torch.distributed import destroy_process_group, init_process_group
    from torch.distributed.checkpoint import state_dict as dcp
    from torch.distributed.fsdp import fully_shard

    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    address = f"file://{folder / 'rendezvous'}"
    init_process_group("gloo", init_method=address, rank=rank, world_size=2)
    options = dcp.StateDictOptions(full_state_dict=True)
    found = {}
    for name in SETTINGS:
        single = build()
        reference = optimizer_of(single, name)
        train(single, reference, 4)
        # Both ranks see all samples, so that the mean of their gradients is one process' gradient.
        model = fully_shard(build())
        optimizer = optimizer_of(model, name)
        train(model, optimizer, 4)
        saved = dcp.get_optimizer_state_dict(model, optimizer, options=options)
        weights = dcp.get_model_state_dict(model, options=options)
        gathered = max(
            float((saved["state"][key]["ema"] - reference.state[p]["ema"]).abs().max())
            for key, p in single.named_parameters()
        )
        again = fully_shard(build())
        continued = optimizer_of(again, name)
        dcp.set_model_state_dict(again, weights, options=options)
        dcp.set_optimizer_state_dict(again, continued, saved, options=options)
        for each, its in ((single, reference), (again, continued)):
            train(each, its, 3)
        x = torch.eye(3, dtype=torch.float64)
        live = again(x).detach()
        with averaged(continued, again), torch.no_grad():
            evaluated = again(x)
        with averaged(reference, single), torch.no_grad():
            expected = single(x)
        found[name] = {
            "gathered": gathered,
            "averaged": float((evaluated - expected).abs().max()),
            "moved": float((evaluated - live).abs().max()),
            "left": float((again(x) - live).abs().max()),
            "sharded": all(
                isinstance(continued.state[p]["ema"], DTensor)
                for group in continued.param_groups
                for p in group["params"]
            ),
            "updates": [group["ema_updates"] for group in continued.param_groups],
        }
    (folder / f"{rank}.json").write_text(json.dumps(found))
    destroy_process_group()


def test_shards_average_save_and_swap_as_one_process(tmp_path: Path) -> None:
    assert ended([forked(rank_main, rank, tmp_path) for rank in (0, 1)]) == [0, 0]
    for rank in (0, 1):
        for name, found in json.loads((tmp_path / f"{rank}.json").read_text()).items():
            assert found["gathered"] < 1e-9 and found["averaged"] < 1e-9, name
            assert found["moved"] > 1e-3 and found["left"] == 0, name
            assert found["sharded"] and set(found["updates"]) == {7}, name
