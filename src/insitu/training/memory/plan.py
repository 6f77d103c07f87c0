"""The peak memory of a run, predicted from shapes, and the cheapest change that makes it fit."""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from insitu.backbones.precision import LIBRARY, Precision, require
from insitu.errors import UserError
from insitu.training.memory.rehearsal import (
    ADAPTER,
    AVERAGE,
    GRADIENTS,
    OPTIMIZER,
    Bytes,
    Frozen,
    Rehearsal,
)
from insitu.training.recipe import Devices

SPARE = 0.1
"""Predictions are within this share of what is measured; advice leaves as much free."""
LEARNING = (ADAPTER, GRADIENTS, OPTIMIZER, AVERAGE)


@dataclass(frozen=True, kw_only=True)
class Run:
    """What the memory of a run depends on, apart from method, base and optimizer.

    Attributes:
        batch: examples a step, over all devices and turns.
        pictures: painted at every validation.
        device: what kind of device it runs on.
        recompute: gradient checkpointing.
    """

    batch: int
    pictures: int
    devices: Devices
    precision: Precision
    device: torch.device
    recompute: bool = False

    @property
    def examples(self) -> int:
        """Worked on at once by a device."""
        return self.batch // (self.devices.ranks * self.devices.accumulate)


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Bytes by kind at the peak of training and of painting, on each device."""

    phases: Mapping[str, Bytes]

    @property
    def phase(self) -> str:
        """The one with the highest peak."""
        return max(self.phases, key=lambda name: sum(self.phases[name].values()))

    @property
    def kinds(self) -> list[str]:
        """Of all phases, the largest first."""
        sizes: dict[str, int] = {}
        for own in self.phases.values():
            sizes |= {kind: max(size, sizes.get(kind, 0)) for kind, size in own.items()}
        return sorted(sizes, key=lambda kind: -sizes[kind])

    @property
    def peak(self) -> int:
        """Bytes."""
        return sum(self.phases[self.phase].values())


def predict(rehearsal: Rehearsal, run: Run) -> Plan:
    """The peaks of a run; nothing is allocated.

    Frozen weights count as `precision` stores them. Activations are those of the unquantized base,
    which they equal; to them come weights widened to `dtype`: bitsandbytes' one layer at a time;
    torchao's stay until the backward pass, so when training all of them, or a block's where
    activations are computed again. With FSDP2 each device holds its part of the denoiser and of
    what learns, whole what belongs to no repeated block, and two blocks: the one at work and the
    next. DDP has every gradient twice, in its buckets.
    """
    phases = {
        "training": rehearsal.training(run.examples, run.devices.accumulate > 1, run.recompute),
        "painting": rehearsal.painting(run.pictures),
    }
    found = {}
    for name, own in phases.items():
        widened = _widened(rehearsal.frozen[run.precision.quantize], run, name == "training")
        found[name] = _on_device(rehearsal, run, own | {"widened weights": widened})
    return Plan(
        phases={n: {k: size for k, size in own.items() if size} for n, own in found.items()}
    )


def loaded(rehearsal: Rehearsal, precision: Precision) -> Bytes:
    """Bytes of the frozen weights as a device has them after loading."""
    stored = rehearsal.frozen[precision.quantize]
    text = rehearsal.frozen[precision.quantize if precision.text else "none"].text
    return {"base": stored.base, "encoders": stored.others + text}


def _widened(frozen: Frozen, run: Run, training: bool) -> int:
    if not training or LIBRARY.get(run.precision.quantize) != "torchao":
        return frozen.widened_layer
    return max(frozen.widened_block, frozen.widened_layer) if run.recompute else frozen.widened


def _on_device(rehearsal: Rehearsal, run: Run, own: Bytes) -> Bytes:
    frozen, ranks = rehearsal.frozen[run.precision.quantize], run.devices.ranks
    found = loaded(rehearsal, run.precision) | own
    if run.devices.strategy == "fsdp" and ranks > 1:
        found["base"] = -(-frozen.base // ranks)
        found["gathered"] = frozen.base - frozen.blocks + 2 * frozen.block
        found |= {kind: -(-own.get(kind, 0) // ranks) for kind in LEARNING}
    elif ranks > 1:
        found["buckets"] = own.get(GRADIENTS, 0)
    return found


@dataclass(frozen=True, kw_only=True)
class Advice:
    """A change of settings that fits.

    Attributes:
        changes: new values by key below the group of settings, such as `devices.accumulate`.
    """

    changes: Mapping[str, Any]
    plan: Plan

    def words(self, group: str = "tune") -> str:
        """As it is written in params.yaml."""
        return ", ".join(f"{group}.{key}: {_yaml(value)}" for key, value in self.changes.items())


def cheaper(rehearsal: Rehearsal, run: Run, memory: int) -> Advice | None:
    """The first change that fits with a tenth to spare; None = none of them does.

    In this order, first one change, then several: compute activations again (if the settings have
    it), more turns, int8wo, nf4 (what this device and installation can do), FSDP2 over more
    devices. A quantized base is not spread: the libraries' tensors cannot be.

    Args:
        memory: of each device, in bytes.
    """
    kinds = (_recompute(rehearsal, run), _turns(run), _stored(run), _spread(run))
    for changes in _combined([list(kind) for kind in kinds]):
        changed = _changed(run, changes)
        if changed is None:
            continue
        plan = predict(rehearsal, changed)
        if plan.peak <= (1 - SPARE) * memory:
            return Advice(changes=changes, plan=plan)
    return None


def _combined(kinds: Sequence[Sequence[dict[str, Any]]]) -> Iterator[dict[str, Any]]:
    """One change of one kind, of each in turn; then one of each of two kinds, and so on."""
    for count in range(1, len(kinds) + 1):
        for several in itertools.combinations(kinds, count):
            for parts in itertools.product(*several):
                yield {key: value for part in parts for key, value in part.items()}


def _recompute(rehearsal: Rehearsal, run: Run) -> Iterator[dict[str, Any]]:
    if rehearsal.recomputes and not run.recompute:
        yield {"devices.recompute": True}


def _turns(run: Run) -> Iterator[dict[str, Any]]:
    """Ever more turns, as long as a turn has an example for every device."""
    now = run.devices.accumulate
    for turns in range(now + 1, run.batch + 1):
        if run.batch % turns == 0:
            yield {"devices.accumulate": turns}


def _stored(run: Run) -> Iterator[dict[str, Any]]:
    if run.precision.quantize == "none":
        yield from ({"base.quantize": kind} for kind in ("int8wo", "nf4"))


def _spread(run: Run) -> Iterator[dict[str, Any]]:
    """Over 2, 4 or 8 devices of each node; CPUs of a machine share one memory."""
    if run.device.type == "cuda":
        now = run.devices.count if run.devices.strategy == "fsdp" else 1
        for count in (2, 4, 8):
            if count > now and count >= run.devices.count:
                yield {"devices.strategy": "fsdp", "devices.count": count}


def _changed(run: Run, changes: Mapping[str, Any]) -> Run | None:
    """The run with other settings, None where they contradict each other or cannot be had."""
    own = {key.removeprefix("devices."): v for key, v in changes.items() if "devices." in key}
    recompute = own.pop("recompute", run.recompute)
    devices = replace(run.devices, **own)
    quantize = changes.get("base.quantize", run.precision.quantize)
    precision = replace(run.precision, quantize=quantize)
    if run.batch % (devices.ranks * devices.accumulate):
        return None
    if quantize != "none" and devices.strategy == "fsdp":
        return None
    try:
        require(precision, run.device)
    except UserError:
        return None
    return replace(run, devices=devices, precision=precision, recompute=recompute)


def _yaml(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
