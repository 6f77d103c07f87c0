"""What decides the weights that come out, and what only decides how they are reached."""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from fnmatch import fnmatch
from typing import Any, Literal, Self

from insitu.errors import UserError
from insitu.training.optimizers import Optimization
from insitu.training.schedules import staged
from insitu.training.times import Times


@dataclass(frozen=True, kw_only=True)
class Stage:
    """A part of the training in which only some parameters learn.

    Attributes:
        until: share of the steps at which it ends, above 0, the last one's is 1.
        learning: patterns of parameters' names, as of files: `*to_k*`.
    """

    until: float
    learning: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """What decides the weights, apart from the examples, the method and the base.

    Attributes:
        steps: of the optimizer.
        batch: examples a step, over all devices and turns.
        seed: of everything random.
        shares: of a batch, by pool.
        optimizer: how parameters follow gradients.
        schedule, warmup, cooldown: of the rate, in each stage by itself; see `schedules`.
        clip: largest norm of the gradient; None = none.
        average: decay of the averaged weights (EMA), which are then validated, painted with and
            kept; None = off.
        times: how timesteps are drawn.
        min_snr: gamma of min-SNR weights (Hang et al. 2023) for bases that predict noise or
            velocity; None = every time counts alike.
        drop: probability of withholding each condition, by name.
        stages: which parameters learn when; empty = all, always.
    """

    steps: int
    batch: int
    seed: int
    shares: Mapping[str, float]
    optimizer: Optimization
    schedule: Literal["constant", "linear", "cosine"] = "constant"
    warmup: int = 0
    cooldown: float = 0.0
    clip: float | None = 1.0
    average: float | None = None
    times: Times
    min_snr: float | None = None
    drop: Mapping[str, float] = field(default_factory=dict)
    stages: tuple[Stage, ...] = ()

    def __post_init__(self) -> None:
        """Refuse a rate that cannot be, before a model is loaded."""
        self.factor()

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> Self:
        """From plain values, as `facts` gives them and JSON keeps them."""
        optimizer, stages = dict(values["optimizer"]), values["stages"]
        optimizer["betas"] = tuple(optimizer["betas"])
        parts = {
            "optimizer": Optimization(**optimizer),
            "times": Times(**values["times"]),
            "stages": tuple(Stage(until=s["until"], learning=tuple(s["learning"])) for s in stages),
        }
        return cls(**{**values, **parts})

    def facts(self) -> dict[str, Any]:
        """Plain values, for digests, cards and JSON."""
        return asdict(self)

    def factor(self) -> Callable[[int], float]:
        """What the rate is multiplied with at a step, 0 to 1."""
        return staged(
            self.schedule, [stage.until for stage in self.stages], steps=self.steps,
            warmup=self.warmup, cooldown=self.cooldown,
        )  # fmt: skip

    def learning(self, step: int, names: list[str]) -> set[str]:
        """The names of the parameters that learn in a step.

        Raises:
            UserError: a pattern matches no name.
        """
        if not self.stages:
            return set(names)
        stage = next(s for s in self.stages if step < s.until * self.steps or s is self.stages[-1])
        idle = [p for p in stage.learning if not any(fnmatch(name, p) for name in names)]
        if idle:
            raise UserError(
                f"The stage until {stage.until} lets {list(stage.learning)} learn.",
                f"{idle} match none of the {len(names)} parameters.",
                f"Use patterns of names such as {names[0]}.",
            )
        return {name for name in names if any(fnmatch(name, p) for p in stage.learning)}


@dataclass(frozen=True, kw_only=True)
class Devices:
    """Where it runs; the weights do not depend on it, but for the order of sums.

    Attributes:
        count: processes of each node, one a device.
        nodes: machines.
        strategy: ddp = each holds the base whole; fsdp = each holds a part of it (FSDP2).
        accumulate: turns in which a batch is worked on.
        recompute: activations in the backward pass rather than keep them (gradient checkpointing).
        force: run also where the memory plan says that it does not fit.
        rendezvous: host:port of the first node, for several.
    """

    count: int = 1
    nodes: int = 1
    strategy: Literal["ddp", "fsdp"] = "ddp"
    accumulate: int = 1
    recompute: bool = False
    force: bool = False
    rendezvous: str | None = None

    @property
    def ranks(self) -> int:
        return self.count * self.nodes


@dataclass(frozen=True, kw_only=True)
class Watch:
    """How often it is looked at and kept, in steps.

    Attributes:
        validate: validation losses and pictures; None = never, for short trainings like others.
        save: checkpoints.
        log: losses, norms and speed.
        plan: memory is planned before the first step, and what does not fit is refused.
    """

    validate: int | None
    save: int
    log: int = 10
    plan: bool = True
