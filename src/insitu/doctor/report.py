"""What `insitu doctor` reports; the field names are those of its JSON."""

from collections.abc import Callable
from typing import TypeVar

from pydantic import BaseModel, ConfigDict, Field

from insitu.errors import UserError

T = TypeVar("T")


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True)


class Problem(_Part):
    """Something wrong, in the three parts of `UserError`."""

    given: str
    why: str
    todo: str


class Device(_Part):
    """Where models would run."""

    requested: str = Field(description="`device` of the settings; auto when they are refused.")
    type: str = Field(description="cpu or cuda.")
    name: str
    cores: int = Field(description="CPU cores that this process may use.")


class Headline(_Part):
    """The figure a checkpoint's card opens with."""

    name: str
    value: float
    interval: tuple[float, float] = Field(description="95% interval, low and high.")


class CheckpointReport(_Part):
    """One checkpoint of the settings; what could not be found out is None."""

    name: str
    path: str
    revision: str | None
    exists: bool
    model_class: str | None = None
    weights_bytes: int | None = None
    weights_digest: str | None = None
    has_card: bool = False
    headline: Headline | None = None


class Report(_Part):
    """Everything that was found; `ok` when there is no problem."""

    ok: bool
    python: str
    libraries: dict[str, str | None] = Field(description="Version; None when not installed.")
    params_file: str
    device: Device
    checkpoints: tuple[CheckpointReport, ...]
    problems: tuple[Problem, ...]


class Findings:
    """Collects problems, so that one does not hide the next."""

    def __init__(self) -> None:
        self.problems: list[Problem] = []

    def attempt(self, question: Callable[[], T]) -> T | None:
        """The answer, or None after noting why there is none."""
        try:
            return question()
        except UserError as error:
            self.problems.append(Problem(given=error.given, why=error.why, todo=error.todo))
            return None
