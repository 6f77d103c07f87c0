"""A blind preference study: its folder, the served page, stored votes, what they say."""

from insitu.serving.study.folder import (
    BEST_OVERALL,
    IDENTITY_AND_PROMPT,
    VOTES,
    Item,
    Question,
    Shown,
    Study,
    read,
    write,
)

__all__ = [
    "BEST_OVERALL", "IDENTITY_AND_PROMPT", "VOTES", "Item", "Question", "Shown", "Study",
    "read", "write",
]  # fmt: skip
