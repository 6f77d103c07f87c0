"""Settings of training that every method shares: what decides the weights, and where it runs."""

from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from insitu.errors import UserError
from insitu.params.base import Settings

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Share = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
Decay = Annotated[float, Field(ge=0, lt=1)]
Count = Annotated[int, Field(ge=1, le=1024)]


class Optimizer(Settings):
    """How parameters follow gradients."""

    name: Literal["adamw", "muon", "prodigy", "adamw8bit"] = Field(
        description="adamw; muon (of matrices, AdamW of the rest); prodigy, which finds its rate;"
        " adamw8bit, with states in 8 bits (bitsandbytes)."
    )
    lr: Positive = Field(description="Learning rate, above 0; of prodigy a factor, best 1.")
    betas: Annotated[tuple[Decay, Decay], Field(strict=False)] = Field(
        description="Decays of the gradient's and the squared gradient's means, 0 to below 1."
    )
    weight_decay: Annotated[float, Field(ge=0, le=10)] = Field(
        description="Share of the weights that a step at a rate of 1 takes away, 0 to 10."
    )


class Schedule(Settings):
    """How the rate changes."""

    name: Literal["constant", "linear", "cosine"] = Field(
        description="constant, until the cooldown; linear or cosine, from the start to 0."
    )
    warmup: Annotated[int, Field(ge=0)] = Field(description="Steps in which the rate rises.")
    cooldown: Share = Field(
        description="Share of the steps, the last ones, over which the rate falls to 0, 0 to 1."
    )


class Times(Settings):
    """How timesteps are drawn; 1 is noise."""

    kind: Literal["uniform", "logit_normal"] = Field(
        description="uniform, or the sigmoid of a normal variable."
    )
    mean: Annotated[float, Field(ge=-10, le=10)] = Field(
        description="Of the normal; 0 for uniform."
    )
    std: Positive = Field(description="Of the normal, above 0; 1 for uniform.")
    shift: Positive | Literal["tokens"] = Field(
        description="s of s t / (1 + (s - 1) t); 1 = none; tokens = by picture size, as FLUX."
    )


class Drop(Settings):
    """How often a condition is withheld, so that guidance knows what it is without."""

    text: Share = Field(description="Share of prompts replaced by the empty one, 0 to 1.")
    condition: Share = Field(
        description="Share of examples without the method's own conditions (references, faces,"
        " entities), 0 to 1."
    )


class Stage(Settings):
    """A part of the training in which only some parameters learn."""

    until: Annotated[float, Field(gt=0, le=1)] = Field(
        description="Share of the steps at which it ends; the last one's is 1."
    )
    learning: Annotated[tuple[str, ...], Field(min_length=1, strict=False)] = Field(
        description="Patterns of parameters' names, such as '*to_k*'."
    )


class Devices(Settings):
    """Where it runs."""

    count: Count = Field(description="Processes of each node, one a device.")
    nodes: Count = Field(description="Machines that share the repository's folder.")
    strategy: Literal["ddp", "fsdp"] = Field(
        description="ddp: each device holds the base; fsdp: each holds a part of it."
    )
    accumulate: Count = Field(description="Turns in which a batch is worked on.")
    recompute: bool = Field(
        description="Compute activations again in the backward pass: less memory, more time."
    )
    force: bool = Field(description="Run also where the memory plan says that it does not fit.")
    rendezvous: Annotated[str, Field(pattern=r"^[^:\s]+:\d+$")] | None = Field(
        description="host:port where several nodes meet, on the first one; null for one node."
    )

    @model_validator(mode="after")
    def _meet(self) -> Self:
        if self.nodes > 1 and self.rendezvous is None:
            raise UserError(
                f"devices.nodes is {self.nodes}, and devices.rendezvous is null.",
                "Several nodes have to know where to meet.",
                "Set rendezvous to host:port of the first node.",
            )
        return self


class Base(Settings):
    """How the frozen base is held in memory."""

    quantize: Literal["none", "nf4", "int8", "int8wo", "fp8"] = Field(
        description="Format of its linear layers' weights; nf4 and int8 on cuda only."
    )
    text: bool = Field(description="Do the same to the large text encoder.")


class Training(Settings):
    """What every method is trained with."""

    steps: Annotated[int, Field(ge=1, le=1_000_000)] = Field(description="Optimizer steps.")
    batch: Count = Field(description="Examples a step, over all devices and turns, 1 to 1024.")
    optimizer: Optimizer = Field(description="How parameters follow gradients.")
    schedule: Schedule = Field(description="How the rate changes.")
    clip: Positive | None = Field(description="Largest norm of a gradient; null = none.")
    average: Annotated[float, Field(gt=0, lt=1)] | None = Field(
        description="Decay of the averaged weights (EMA), which are then kept; null = off."
    )
    times: Times = Field(description="How timesteps are drawn.")
    min_snr: Positive | None = Field(
        description="gamma of min-SNR loss weights; null = every time counts alike."
    )
    drop: Drop = Field(description="Probability of withholding each condition.")
    stages: tuple[Stage, ...] = Field(
        strict=False, description="Which parameters learn when; empty = all, always."
    )
    devices: Devices = Field(description="Where it runs.")
    base: Base = Field(description="How the frozen base is held.")
    validate_every: Annotated[int, Field(ge=1)] = Field(
        description="Steps between validations on fixed noise and timesteps, and pictures."
    )
    save_every: Annotated[int, Field(ge=1)] = Field(description="Steps between checkpoints.")
    seed: Annotated[int, Field(ge=0, lt=2**63)] | None = Field(
        description="Of the training alone: first weights, order, noise; null = `seed`."
    )
    start: str | None = Field(
        description="Folder of an adapter package whose weights it starts from, as far as both"
        " have the same parts; null = from nothing."
    )

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.validate_every > self.steps:
            raise UserError(
                f"validate_every is {self.validate_every}, with {self.steps} steps.",
                "It would end before its first validation, and nobody would see its loss.",
                "Lower validate_every to at most steps.",
            )
        parts = self.devices.count * self.devices.nodes * self.devices.accumulate
        if self.batch % parts:
            raise UserError(
                f"The batch is {self.batch}, with {self.devices.count * self.devices.nodes} devices"
                f" and {self.devices.accumulate} turns.",
                f"{self.batch} is no multiple of {parts}; uneven parts would weigh examples"
                " unevenly.",
                f"Make the batch a multiple of {parts}, or use fewer devices or turns.",
            )
        ends = [stage.until for stage in self.stages]
        if ends and (ends != sorted(set(ends)) or ends[-1] != 1):
            raise UserError(
                f"The stages end at {ends}.",
                "Each must end after the one before, and the last one at 1.",
                "Give shares of the steps in rising order, the last one 1.",
            )
        return self

    def recipe(self, *, shares: dict[str, float], seed: int) -> dict[str, Any]:
        """What decides the weights, as plain values by name; `seed` where it has none itself."""
        names = ("steps", "batch", "clip", "average", "min_snr", "drop", "times")
        own = self.model_dump(include=set(names))
        schedule = self.schedule.model_dump()
        return own | {
            "schedule": schedule.pop("name"), **schedule, "shares": shares,
            "seed": seed if self.seed is None else self.seed,
            "optimizer": self.optimizer.model_dump(),
            "stages": [stage.model_dump() for stage in self.stages],
        }  # fmt: skip
