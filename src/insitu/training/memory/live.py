"""Counting bytes of tensors that hold no numbers, as they come and go."""

import contextlib
import warnings
import weakref
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

OTHER = "activations"
"""What nobody named: what is computed, and kept for the gradient or passing."""


def fake_mode() -> FakeTensorMode:
    """What tensors without numbers belong to; those of two do not mix."""
    return FakeTensorMode(allow_non_fake_inputs=True)


@contextlib.contextmanager
def no_numbers(fake: FakeTensorMode) -> Iterator[None]:
    """Within it tensors have shapes and dtypes and no numbers: work costs neither memory nor much
    time. Whatever asks for a number is told 1 (or true), for an array zeros, for the places of
    what is not zero two of them; so code that looks at its numbers runs, too.

    All are tensors of a CPU, also for a plan for CUDA: operators keep the same tensors there.
    """
    with (
        warnings.catch_warnings(),
        torch.random.fork_rng(devices=[]),
        fake,
        _Answers(fake),
        _Arrays(),
    ):
        warnings.simplefilter("ignore")  # of numbers that are out of range
        yield


class Live(TorchDispatchMode):
    """The bytes of all storages that an operator gave out and that still live, by kind.

    A storage counts once, whatever views there are of it, until its last tensor is gone, autograd's
    included.

    Attributes:
        now: bytes by kind.
        peak: `now` when its sum was greatest.
    """

    def __init__(self, round_to: int = 1) -> None:
        """Args: round_to: bytes that an allocation is a multiple of."""
        super().__init__()
        self.round_to = round_to
        self.now: dict[str, int] = {}
        self.peak: dict[str, int] = {}
        self._total = self._highest = 0
        self._held: dict[int, tuple[weakref.ref[Any], str, int]] = {}
        self._left_out: dict[int, Any] = {}

    def leave_out(self, tensors: Iterable[Tensor]) -> None:
        """Never count these; somebody else does."""
        for tensor in tensors:
            storage = tensor.untyped_storage()
            self._left_out[storage._cdata] = storage

    def count(self, tensors: Iterable[Tensor], kind: str) -> None:
        """From now on these are of this kind, whether they were counted before or not."""
        for tensor in tensors:
            self._forget(tensor.untyped_storage()._cdata)
            self._add(tensor, kind)

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor):
                self._add(leaf, OTHER)
        return result

    def _add(self, tensor: Tensor, kind: str) -> None:
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key in self._held or key in self._left_out:
            return
        size = -(-storage.nbytes() // self.round_to) * self.round_to
        # The wrapper lives as long as the storage that it wraps (torch preserves it).
        self._held[key] = (weakref.ref(storage, lambda _: self._forget(key)), kind, size)
        self.now[kind] = self.now.get(kind, 0) + size
        self._total += size
        if self._total > self._highest:
            self._highest, self.peak = self._total, dict(self.now)

    def _forget(self, key: int) -> None:
        if key in self._held:
            _, kind, size = self._held.pop(key)
            self.now[kind] -= size
            self._total -= size


class _Answers(TorchDispatchMode):
    """Answers what depends on numbers, and leaves out what only writes them."""

    def __init__(self, fake: FakeTensorMode) -> None:
        super().__init__()
        self._known = fake.fake_tensor_converter.meta_converter.tensor_memo
        aten = torch.ops.aten
        self._writes = {
            aten.uniform_.default, aten.normal_.default, aten.fill_.Scalar, aten.zero_.default,
        }  # fmt: skip

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        aten = torch.ops.aten
        if func in self._writes:
            return args[0]
        if func is aten._local_scalar_dense.default:
            kind = args[0].dtype
            return True if kind == torch.bool else 1.0 if kind.is_floating_point else 1
        if func is aten.nonzero.default:
            return torch.zeros(2, args[0].ndim, dtype=torch.long)
        if func is aten.equal.default:
            return True
        result = func(*args, **(kwargs or {}))
        # It refers to new tensors weakly, and `Module.to` takes only what nothing refers to so.
        self._known.clear()
        return result


class _Arrays(TorchFunctionMode):
    """Makes arrays of zeros of tensors without numbers, and deep copies that are safe to free:
    torch's own copies the mode, too, and what both refer to weakly is released twice.
    """

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        if func in (torch.Tensor.numpy, torch.Tensor.__array__):
            return np.zeros(tuple(args[0].shape), str(args[0].dtype).removeprefix("torch."))
        if func is torch.Tensor.__deepcopy__ and args[0].is_leaf:
            tensor, memo = args
            if id(tensor) not in memo:
                copied = tensor.detach().clone()
                if isinstance(tensor, nn.Parameter):
                    copied = nn.Parameter(copied)
                memo[id(tensor)] = copied.requires_grad_(tensor.requires_grad)
            return memo[id(tensor)]
        return func(*args, **(kwargs or {}))
