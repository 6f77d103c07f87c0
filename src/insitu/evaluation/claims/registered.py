"""`claims.yaml`: what papers claim, by what comparison it is checked; registered beforehand."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from insitu.errors import UserError

FILE = Path("claims.yaml")
SHARED = "shared"
"""The start that arms have by default."""
Name = Annotated[str, Field(min_length=1, max_length=60)]
Id = Annotated[str, Field(pattern=r"^[a-z0-9_]+\.[a-z0-9_]+$")]
Level = Annotated[float, Field(gt=0, lt=1)]
Settings = dict[str, Any]


class Part(BaseModel):
    """A part of the file: frozen, and with no key that is not declared."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Rule(Part):
    """When a claim is decided; see `rule`."""

    level: Level = Field(description="Of all of a paper's claims together.")
    power: Level = Field(description="That a study is to have whose size is told.")


class Arm(Part):
    """A way of doing it: a training, or the painting with one.

    Attributes:
        like: the arm whose adapter it paints with; None = one of its own.
        trained: false = with an adapter that has learned nothing.
        start: the method's start that its trainings begin with, where there are starts; None = they
            begin with the base.
        set: settings of the method that differ, by dotted names in its block of params.yaml.
        data: settings of data engines that differ, by dotted names.
        paint: settings of the method that differ when it paints only.
        seeds: of its trainings, where they are others than all arms'.
    """

    like: Name | None = None
    trained: bool = True
    start: Name | None = SHARED
    set: Settings = Field(default_factory=dict)
    data: Settings = Field(default_factory=dict)
    paint: Settings = Field(default_factory=dict)
    seeds: tuple[int, ...] | None = None

    @model_validator(mode="after")
    def _has_one_adapter(self) -> Self:
        if self.like is not None and (self.set or self.data or not self.trained):
            raise ValueError(
                "an arm `like` another has that one's adapter: only `paint` may differ"
            )
        return self


class Test(Part):
    """One difference that a claim is about, first minus second.

    Attributes:
        metric: of the scores.
        of, over: the arms.
        on: the benchmark; None = the method's first. `over_on`: that of `over`, where it is
            another one with as many requests for the same things.
        effect: the smallest that counts; below 0 = less is claimed.
        margin: in its place: `of` is at most so much lower than `over`.
        ratio: of the logarithms, for times.
        reported: what the paper has of the two.
    """

    metric: Name
    of: Name
    over: Name
    on: Name | None = None
    over_on: Name | None = None
    effect: float | None = None
    margin: Annotated[float, Field(gt=0)] | None = None
    ratio: bool = False
    reported: tuple[float, float] | None = None

    @model_validator(mode="after")
    def _says_what_counts(self) -> Self:
        if (self.effect is None) == (self.margin is None) or self.effect == 0:
            raise ValueError("a test has an effect other than 0, or a margin, and not both")
        return self


class Claim(Part):
    """What a paper says, and the differences by which it is checked; all have to be so."""

    id: Id
    at: Name = Field(description="Where the paper says it: a table, a figure, a section.")
    says: str = Field(min_length=10)
    quick: bool = Field(default=False, description="It is of those that --quick checks.")
    note: str = ""
    tests: Annotated[tuple[Test, ...], Field(min_length=1)]


class Curve(Part):
    """Metrics over a number: arms by their x."""

    title: Name
    x: Name
    metrics: Annotated[tuple[Name, ...], Field(min_length=1)]
    on: Name | None = None
    arms: dict[float, Name]


class Grid(Part):
    """Pictures of the report: what arms painted for a benchmark, the worst first."""

    on: Name
    metric: Name
    arms: Annotated[tuple[Name, ...], Field(min_length=1, max_length=4)]


class Benchmark(Part):
    """Which requests are painted.

    Attributes:
        of: the description file in `benchmarks/sets`, without its ending; rows = held-out rows of
            the method's data sets.
        requests: at most; of a method that is tuned, of each subject.
        metrics: what is measured.
        pictures: of each request, whose mean is its score.
        groups: of requests that alone are taken; None = all.
    """

    of: Name
    requests: Annotated[int, Field(ge=2, le=100_000)]
    metrics: Annotated[tuple[Name, ...], Field(min_length=1)]
    pictures: Annotated[int, Field(ge=1, le=16)] = 1
    groups: tuple[Name, ...] | None = None


class Replication(Part):
    """How a paper's claims are checked.

    Attributes:
        paper: its title.
        limits: of the replication, such as what cannot share a start.
        starts: trainings that arms begin with, by name: settings that differ from params.yaml;
            `shared` is the default. None = all arms begin with the base.
        train: settings of every arm's training that differ.
        subjects: that are tuned, each with requests of its own; None = one adapter serves all.
    """

    paper: str = Field(min_length=3)
    limits: str = ""
    starts: dict[Name, Settings] = Field(default_factory=dict)
    train: Settings = Field(default_factory=dict)
    subjects: Annotated[int, Field(ge=2, le=100)] | None = None
    benchmarks: Annotated[dict[Name, Benchmark], Field(min_length=1)]
    arms: Annotated[dict[Name, Arm], Field(min_length=2)]
    claims: Annotated[tuple[Claim, ...], Field(min_length=1)]
    curves: tuple[Curve, ...] = ()
    grids: tuple[Grid, ...] = ()

    @model_validator(mode="after")
    def _names_are_known(self) -> Self:
        for name, arm in self.arms.items():
            if arm.like is not None and (
                arm.like not in self.arms or self.arms[arm.like].like is not None
            ):
                raise ValueError(f"the arm {name!r} is like {arm.like!r}, which has no adapter")
            if arm.start not in (None, SHARED, *self.starts):
                raise ValueError(f"the arm {name!r} begins with {arm.start!r}, which is no start")
        for claim in self.claims:
            for test in claim.tests:
                _known(claim.id, {test.of, test.over}, self.arms)
                _known(claim.id, {test.on, test.over_on} - {None}, self.benchmarks)
                for _, name in self.sides(test):
                    measured = dict.fromkeys((*self.benchmarks[name].metrics, "seconds"))
                    _known(claim.id, {test.metric}, measured)
        for curve in self.curves:
            _known(curve.title, set(curve.arms.values()), self.arms)
            _known(curve.title, {curve.on} - {None}, self.benchmarks)
        for grid in self.grids:
            _known("a grid", grid.arms, self.arms)
            _known("a grid", {grid.on}, self.benchmarks)
        return self

    def start(self, arm: str) -> str | None:
        """The start that an arm's trainings begin with."""
        chosen = self.arms[self.adapter(arm)].start
        return chosen if chosen in self.starts else None

    def adapter(self, arm: str) -> str:
        """The arm whose adapter an arm paints with."""
        return self.arms[arm].like or arm

    def benchmark(self, on: str | None) -> str:
        """The one that is named, or the first."""
        return on or next(iter(self.benchmarks))

    def sides(self, test: Test) -> tuple[tuple[str, str], tuple[str, str]]:
        """Arm and benchmark of both sides of a test."""
        first = self.benchmark(test.on)
        return (test.of, first), (test.over, test.over_on or first)


def _known(where: str, asked: Any, known: Mapping[str, object]) -> None:
    unknown = sorted(name for name in asked if name not in known)
    if unknown:
        raise ValueError(f"{where} names {unknown[0]!r}, and there are: {', '.join(known)}")


class Registered(Part):
    """The whole file."""

    rule: Rule
    seeds: Annotated[tuple[int, ...], Field(min_length=2)]
    methods: Annotated[dict[str, Replication], Field(min_length=1)]

    @model_validator(mode="after")
    def _ids_are_their_own(self) -> Self:
        for method, own in self.methods.items():
            for claim in own.claims:
                if not claim.id.startswith(f"{method}."):
                    raise ValueError(f"the claim {claim.id} stands under {method}")
        ids = self.ids()
        twice = sorted({i for i in ids if ids.count(i) > 1})
        if twice:
            raise ValueError(f"two claims are called {twice[0]}")
        return self

    def ids(self, *, quick: bool = False) -> list[str]:
        """Of all claims in their order, or of those that --quick checks."""
        return [c.id for own in self.methods.values() for c in own.claims if c.quick or not quick]

    def claim(self, id: str) -> Claim:
        """Raises UserError for one that is not registered."""
        for own in self.methods.values():
            for claim in own.claims:
                if claim.id == id:
                    return claim
        raise UserError(
            f"The claim {id!r} was asked for.",
            "No such claim is registered.",
            f"Use one of: {', '.join(self.ids())}.",
        )


def load(path: Path = FILE) -> Registered:
    """Read and check the file.

    Raises:
        UserError: it is missing, not YAML, or contradicts itself.
    """
    try:
        content = YAML(typ="safe", pure=True).load(path.read_text(encoding="utf-8"))
        found: Registered = Registered.model_validate(content, strict=False)
    except OSError as error:
        why = f"It cannot be read: {error.strerror}."
    except YAMLError as error:
        why = f"It is not plain YAML: {' '.join(str(error).split())}."
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        why = f"{where or 'The whole'}: {first['msg']} ({error.error_count()} problems)."
    else:
        return found
    raise UserError(
        f"The claims file {path} was given.",
        why,
        "Correct it, or run from the repository's root.",
    )
