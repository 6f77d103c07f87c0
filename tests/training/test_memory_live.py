"""Proves that a storage counts once and only while it lives, and that no number is drawn. Needs
nothing.
"""

import copy

import torch
from torch._subclasses.fake_tensor import FakeTensor

from insitu.training.memory.live import Live, fake_mode, no_numbers


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


def test_copies_belong_to_the_same_mode() -> None:
    # torch's own would copy the mode, too, with the weak references that it releases at its end.
    fake = fake_mode()
    with no_numbers(fake):
        layer = torch.nn.Linear(3, 2)
        layer.bias.requires_grad_(False)
        copied, again = copy.deepcopy([layer, layer])
    assert copied is again and copied.weight is not layer.weight
    assert all(isinstance(p, FakeTensor) and p.fake_mode is fake for p in copied.parameters())
    assert isinstance(copied.weight, torch.nn.Parameter) and copied.weight.shape == (2, 3)
    assert copied.weight.requires_grad and not copied.bias.requires_grad
    assert copied.weight.untyped_storage()._cdata != layer.weight.untyped_storage()._cdata
