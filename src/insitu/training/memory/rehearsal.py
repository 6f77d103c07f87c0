"""Training steps and pictures done by shape alone, and what lived at their peaks."""

import contextlib
import functools
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Any, get_args

import numpy as np
import torch
from torch import Tensor, nn

from insitu.backbones.precision import (
    TEXT,
    Precision,
    Quantize,
    quantized_layers,
    weights_bytes,
)
from insitu.methods import Example, Method, Placement, Request, find
from insitu.requests import EVERYWHERE
from insitu.training import averages, optimizers
from insitu.training.data import CHANCES
from insitu.training.memory.live import Live, fake_mode, no_numbers
from insitu.training.optimizers import Optimization

Bytes = dict[str, int]
ADAPTER, GRADIENTS, OPTIMIZER, AVERAGE, BATCH = (
    "adapter", "gradients", "optimizer", "average", "batch",
)  # fmt: skip
FACE = ((0.4, 0.4), (0.6, 0.4), (0.5, 0.5), (0.42, 0.6), (0.58, 0.6))
CUDA_BLOCK = 512
"""Bytes of which torch's CUDA allocator gives multiples."""


@dataclass(frozen=True, kw_only=True)
class Frozen:
    """Bytes of what does not learn, as one format of quantization has it.

    Attributes:
        base: the denoiser.
        blocks: sum of its blocks that FSDP gathers one at a time; block: the largest one.
        text: the large text encoder; 0 = there is none.
        others: the other parts of the pipeline.
        widened: all quantized weights in `dtype`, which they are computed in; widened_block: of the
            block that has most of them; widened_layer: the largest one.
    """

    base: int
    blocks: int
    block: int
    text: int
    others: int
    widened: int
    widened_block: int
    widened_layer: int


class Rehearsal:
    """A method on a base without weights, done by shape as often as is asked for.

    Args:
        empty: makes the backbone, as its class's `empty` does.
        average: averaged weights are kept.
        height, width: of the pictures learned from, in pixels; None = the base's size.
        cuda: allocations are CUDA's.

    Attributes:
        frozen: by format of quantization.
        recomputes: whether activations can be computed again in the backward pass.
    """

    def __init__(
        self,
        empty: Callable[[], Any],
        method: Method,
        *,
        optimizer: Optimization,
        average: bool,
        height: int | None = None,
        width: int | None = None,
        cuda: bool = False,
    ) -> None:
        self.method, self.average, self.cuda = method, average, cuda
        self._fake = fake_mode()
        with no_numbers(self._fake):
            self.backbone = empty()
            dtype = self.backbone.precision.dtype
            self.frozen = {kind: _frozen(self.backbone, kind, dtype) for kind in get_args(Quantize)}
            self.size = (height or self.backbone.size, width or self.backbone.size)
            self.example = self._example()
            self.adapter = method.attach(self.backbone)
            self.optimizer = optimizers.make(self.adapter.named_parameters(), optimizer)
            if average:
                averages.keep_average(self.optimizer, 0.5)
            for p in self.adapter.parameters():
                p.grad = torch.empty_like(p)
            self.optimizer.step()
        denoiser = self.backbone.denoiser
        self.recomputes = bool(getattr(denoiser, "_supports_gradient_checkpointing", False))
        self.training = functools.cache(self._training)
        self.painting = functools.cache(self._painting)

    def _training(self, examples: int, several_turns: bool, recompute: bool) -> Bytes:
        """Bytes by kind at the peak of a step, without frozen weights.

        It is a step from the second on, as Lightning takes it: the last step's gradients live
        until the backward pass, and turns add to those of the turn before. Validation does less.

        Args:
            examples: worked on at once, in a turn.
            several_turns: in a step.
        """
        denoiser = self.backbone.denoiser
        with self._live() as live:
            if recompute:
                denoiser.enable_gradient_checkpointing()
            told = {name: _many(one, examples) for name, one in self.example.items()}
            noise, t = torch.empty_like(told["z_0"]), torch.empty(examples)
            live.count([*told.values(), noise, t], BATCH)
            hooks = [
                p.register_post_accumulate_grad_hook(lambda p: live.count([_grad(p)], GRADIENTS))
                for p in self.adapter.parameters()
            ]
            terms = self.method.loss(self.backbone, told, noise, t)
            loss = torch.stack(list(terms.values())).sum(0).mean()
            if not several_turns:
                self.optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(self.adapter.parameters(), 1.0)
            self.optimizer.step()
            for hook in hooks:
                hook.remove()
            if recompute:
                denoiser.disable_gradient_checkpointing()
        return live.peak

    def _painting(self, pictures: int) -> Bytes:
        """Bytes by kind at the peak of painting requests while training, without frozen weights."""
        settings = asdict(self.method.settings)
        # All steps of sampling take the same memory.
        once = settings | {"steps": 1} if "steps" in settings else settings
        photo = np.zeros((*self.size, 3), np.uint8)
        request = Request(
            image=photo, placements=self._placements(), prompt=self.method.accepts.prompt, seed=0,
            background="keep" if self.method.accepts.keeps else "free",
        )  # fmt: skip
        with self._live() as live:
            kept: contextlib.AbstractContextManager[None] = contextlib.nullcontext()
            if self.average:
                kept = averages.averaged(self.optimizer, self.backbone.denoiser)
            with kept:
                find(self.method.name, once).paint(self.backbone, [request] * pictures)
        return live.peak

    @contextlib.contextmanager
    def _live(self) -> Iterator[Live]:
        live = Live(CUDA_BLOCK if self.cuda else 1)
        own = list(self.adapter.parameters())
        known = {id(p) for p in own}
        held = (t for part in _parts(self.backbone) for t in _held(part))
        live.leave_out(t for t in held if id(t) not in known)
        live.count(own, ADAPTER)
        live.count((_grad(p) for p in own), GRADIENTS)
        for state in self.optimizer.state.values():
            for name, value in state.items():
                if isinstance(value, Tensor):
                    live.count([value], AVERAGE if name == averages.AVERAGE else OPTIMIZER)
        with no_numbers(self._fake), live:
            yield live

    def _example(self) -> dict[str, Tensor]:
        """What the model is told of one example, in the shapes that encoding gives it."""
        mask = np.zeros(self.size, np.uint8)
        mask[: self.size[0] // 2] = 255
        image = np.zeros((*self.size, 3), np.uint8)
        example = Example(
            id="0", image=image, mask=mask, prompt="a", pool="", placements=self._placements()
        )
        told = self.method.condition(self.backbone, [example])
        text = self.backbone.encode_text(("a",))
        chances = {"chances": torch.empty(1, CHANCES), "progress": torch.empty(1)}
        texts = {f"text.{name}": value for name, value in asdict(text).items()}
        return told | texts | chances

    def _placements(self) -> tuple[Placement, ...]:
        """As many as the method takes, with all that it may be given."""
        accepts = self.method.accepts
        holds: dict[str, Any] = {
            "mask": np.full(self.size, 255, np.uint8),
            "reference": np.zeros((*self.size, 3), np.uint8),
            "prompt": "a",
            "landmarks_xy01": FACE,
            "reference_landmarks_xy01": FACE,
        }
        given = {name: holds[name] for name in accepts.needs | accepts.takes}
        box = (0.2, 0.2, 0.8, 0.8) if accepts.places else EVERYWHERE
        return (Placement(box_xyxy01=box, **given),) * accepts.placements[1]


def _frozen(backbone: Any, quantize: Quantize, dtype: torch.dtype) -> Frozen:
    plain, stored = Precision(dtype=dtype), Precision(dtype=dtype, quantize=quantize)
    base = backbone.denoiser
    text = getattr(backbone.pipeline, TEXT, None)
    repeated = set(getattr(base, "_repeated_blocks", None) or ())
    blocks = [part for part in base.modules() if type(part).__name__ in repeated]
    in_blocks = [weights_bytes(block, stored) for block in blocks]
    layers = _widened(base, stored)
    return Frozen(
        base=weights_bytes(base, stored),
        blocks=sum(in_blocks),
        block=max(in_blocks, default=0),
        text=weights_bytes(text, stored) if text is not None else 0,
        others=sum(
            weights_bytes(part, plain)
            for part in _parts(backbone)
            if part is not base and part is not text
        ),
        widened=sum(layers),
        widened_block=max((sum(_widened(block, stored)) for block in blocks), default=0),
        widened_layer=max(layers, default=0),
    )


def _widened(part: nn.Module, stored: Precision) -> list[int]:
    """Bytes of each quantized weight in the arithmetic's format."""
    width = stored.dtype.itemsize
    found = quantized_layers(part, stored.quantize)
    return [layer.weight.numel() * width for _, layer in found]


def _parts(backbone: Any) -> list[nn.Module]:
    """The pipeline's models."""
    return [part for part in backbone.pipeline.components.values() if isinstance(part, nn.Module)]


def _held(part: nn.Module) -> Iterator[Tensor]:
    yield from part.parameters()
    yield from part.buffers()


def _grad(p: Tensor) -> Tensor:
    assert p.grad is not None
    return p.grad


def _many(one: Tensor, count: int) -> Tensor:
    return torch.empty(count, *one.shape[1:], dtype=one.dtype)
