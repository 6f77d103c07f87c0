"""What the gate says of a version, as it is kept on it."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """Whether it may become champion, and why or why not, a sentence each."""

    passed: bool
    reasons: tuple[str, ...]
