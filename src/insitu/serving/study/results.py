"""The results of a study, for a terminal and as JSON."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from insitu.errors import UserError
from insitu.evaluation.checkpoints import Figure
from insitu.serving.study import figures, folder
from insitu.serving.study import votes as stored
from insitu.serving.study.figures import NONE, Position, Preferences
from insitu.serving.study.folder import Question, Study
from insitu.serving.study.votes import Vote

FEW = 10
"""Voters or items below which the intervals are said to be doubtful."""


@dataclass(frozen=True, kw_only=True)
class Answered:
    """What was answered to one question.

    Attributes:
        found: shares of each way and, last, of no difference.
        agreement: Krippendorff's alpha, or None where it is not defined.
        places: the share of choices, without no difference, that fell on each position.
    """

    question: Question
    voters: int
    items: int
    votes: int
    found: Preferences
    agreement: float | None
    places: tuple[float, ...]


@dataclass(frozen=True, kw_only=True)
class Results:
    """`votes` count; `stored` also has those that voters changed later."""

    study: Study
    voters: int
    items: int
    votes: int
    stored: int
    answered: tuple[Answered, ...]
    positions: dict[str, Position]

    def facts(self) -> dict[str, Any]:
        """As plain JSON, four decimals."""
        ways = self.study.ways
        return {
            "title": self.study.title,
            "voters": self.voters,
            "items": self.items,
            "votes": self.votes,
            "stored": self.stored,
            "questions": {
                one.question.id: {
                    "text": one.question.text,
                    "voters": one.voters,
                    "items": one.items,
                    "votes": one.votes,
                    "preferred": _named(ways, one.found.shares),
                    "no difference": one.found.shares[-1].rounded(),
                    f"lead of {ways[0]} over": _named(ways[1:], one.found.leads),
                    "agreement": None if one.agreement is None else round(one.agreement, 4),
                    "chosen by position": [round(share, 4) for share in one.places],
                }
                for one in self.answered
            },
            "positions": {
                way: {
                    "mean": round(position.mean, 4),
                    "expected": position.expected,
                    "shown": position.shown,
                    "balanced": position.balanced,
                }
                for way, position in self.positions.items()
            },
        }

    def text(self) -> str:
        """Lines for a terminal."""
        ways = self.study.ways
        wide = max(map(len, (*ways, "no difference")))
        lines = [
            self.study.title,
            f"{self.voters} voters, {self.items} items, {self.votes} votes"
            f" ({self.stored - self.votes} more were changed later)",
        ]
        for one in self.answered:
            lines += ["", f"{one.question.id}: {one.question.text}"]
            names = (*ways, "no difference")
            for name, share in zip(names, one.found.shares, strict=True):
                lines.append(f"  {name:<{wide}}  {share}")
            for name, lead in zip(ways[1:], one.found.leads, strict=False):
                lines.append(f"  {ways[0]} leads {name} by {lead}")
            alpha = "not defined" if one.agreement is None else f"{one.agreement:.3f}"
            shares = ", ".join(f"{share:.2f}" for share in one.places)
            lines.append(
                f"  {one.voters} voters, {one.items} items, {one.votes} votes;"
                f" agreement (Krippendorff's alpha) {alpha}"
            )
            lines.append(f"  chosen by position, from the left: {shares or 'none'}")
        lines += ["", "Mean position of each way"]
        for way, at in self.positions.items():
            said = "balanced" if at.balanced else "NOT BALANCED: shuffling does not explain it"
            lines.append(f"  {way:<{wide}}  {at.mean:.2f} of {at.expected:.2f} expected, {said}")
        if min(self.voters, self.items) < FEW:
            lines += ["", f"With fewer than {FEW} voters or items intervals may be too narrow."]
        return "\n".join(lines)


def results(path: Path, votes: Path, *, seed: int = 0) -> Results:
    """What the votes of a study say; only the last vote of a voter on a question counts.

    Raises:
        UserError: the study or its votes cannot be read, or there is no vote.
    """
    study = folder.read(path)
    every = stored.read(votes)
    stored.check(every, study, votes)
    last = list(stored.latest(every).values())
    if not last:
        raise UserError(
            f"Results of the study {path} were asked for.",
            f"There is no vote in {votes}.",
            f"Collect some: insitu study serve {path}",
        )
    # A voter who answers two questions of an item has seen one order, not two.
    orders = {(vote.voter, vote.item): vote.shown for vote in last}
    answered = []
    for question in study.questions:
        own = [vote for vote in last if vote.question == question.id]
        if own:
            answered.append(_answered(question, own, study, seed))
    return Results(
        study=study,
        voters=len({vote.voter for vote in last}),
        items=len({vote.item for vote in last}),
        votes=len(last),
        stored=len(every),
        answered=tuple(answered),
        positions=figures.positions(orders.values(), study.ways),
    )


def _answered(question: Question, votes: Sequence[Vote], study: Study, seed: int) -> Answered:
    chosen_VI = _chosen(votes, study.ways)
    places = [vote.shown.index(vote.way) for vote in votes if vote.way is not None]
    counted = np.bincount(np.array(places, np.int64), minlength=len(study.ways))
    return Answered(
        question=question,
        voters=chosen_VI.shape[0],
        items=chosen_VI.shape[1],
        votes=len(votes),
        found=figures.preferences(chosen_VI, len(study.ways) + 1, seed=seed),
        agreement=figures.agreement(chosen_VI),
        places=tuple(float(count / len(places)) for count in counted) if places else (),
    )


def _chosen(votes: Sequence[Vote], ways: Sequence[str]) -> NDArray[np.int64]:
    """[V, I]: the way's index, `len(ways)` for no difference, NONE where there is no vote."""
    voters = {name: v for v, name in enumerate(sorted({vote.voter for vote in votes}))}
    items = {name: i for i, name in enumerate(sorted({vote.item for vote in votes}))}
    chosen_VI = np.full((len(voters), len(items)), NONE, np.int64)
    for vote in votes:
        category = len(ways) if vote.way is None else list(ways).index(vote.way)
        chosen_VI[voters[vote.voter], items[vote.item]] = category
    return chosen_VI


def _named(ways: Sequence[str], of_each: Sequence[Figure]) -> dict[str, dict[str, float | int]]:
    return {way: one.rounded() for way, one in zip(ways, of_each, strict=False)}
