"""How good a picture looks to CLIP's aesthetic head."""

from collections.abc import Sequence

from insitu.evaluation.metrics.cases import Case
from insitu.evaluation.metrics.scores import Parts, Scale, Scores, score
from insitu.perception.clip import ClipScorer


class Aesthetic:
    """The aesthetic head's logistic score of the whole picture, 0..1; within one head only.

    Logits have no worst value for a failed picture, so it is the logistic function of the logit.
    """

    scale = Scale(
        name="aesthetic", low=0, high=1, higher_is_better=True, unit="logistic score of the head"
    )

    def __init__(self, clip: ClipScorer) -> None:
        """`clip` has an aesthetic head; `ClipScorer.aesthetic` raises UserError otherwise."""
        self.clip = clip

    def __call__(self, cases: Sequence[Case]) -> Scores:
        return score(self.scale, cases, self._measure)

    def _measure(self, cases: list[Case]) -> list[Parts]:
        logits = self.clip.aesthetic([case.picture for case in cases])
        return [(float(value),) for value in logits.double().sigmoid()]
