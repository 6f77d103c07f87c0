"""Attributes that a region shows: are they those asked for, or another entity's?

CLIP chooses zero-shot among the attribute's vocabulary, the category given: "a red mug", "a blue
mug", ... for the colour of a mug.
"""

from collections.abc import Mapping, Sequence

from torch import Tensor

from insitu.edits import article
from insitu.errors import UserError
from insitu.evaluation.metrics.cases import Case, Remembered, missing
from insitu.evaluation.metrics.regions import Regions, entities
from insitu.evaluation.metrics.scores import Parts, Scale, Scores, score
from insitu.perception.clip import ClipScorer

Values = Mapping[str, str]


class AttributeReader:
    """The values that CLIP sees in each entity's region, for the attributes asked of it."""

    def __init__(
        self, clip: ClipScorer, regions: Regions, vocabulary: Mapping[str, Sequence[str]]
    ) -> None:
        """`regions` holds the same `clip`; `vocabulary` has the values of each attribute."""
        self.clip, self.regions, self.vocabulary = clip, regions, vocabulary
        self.cases: Remembered[Case, list[Values]] = Remembered(self._read)
        """For each case, the values seen in its entities, by attribute."""
        self._prompts: Remembered[tuple[str, str], Tensor] = Remembered(self._embed)

    def _read(self, cases: list[Case]) -> list[list[Values]]:
        asked = [
            (entity.category, name)
            for case in cases
            for entity in entities(case)
            for name in self._checked(entity.attributes)
        ]
        prompts = dict(zip(asked, self._prompts(asked), strict=True))
        return [
            [
                {
                    name: self.vocabulary[name][
                        int((prompts[entity.category, name] @ one).argmax())
                    ]
                    for name in entity.attributes
                }
                for entity, one in zip(case.entities, own, strict=True)
            ]
            for case, own in zip(cases, self.regions.cases(cases), strict=True)
        ]

    def _embed(self, asked: list[tuple[str, str]]) -> list[Tensor]:
        """Text embeddings [V, D] of an attribute's values in a category."""
        texts = [
            article(f"{value} {category}")
            for category, name in asked
            for value in self.vocabulary[name]
        ]
        sizes = [len(self.vocabulary[name]) for _, name in asked]
        return list(self.clip.embed_texts(texts).split(sizes))

    def _checked(self, attributes: Values) -> Values:
        if not attributes:
            raise missing("attributes", "nothing says how the entity is to look")
        for name, value in attributes.items():
            if value not in self.vocabulary.get(name, ()):
                raise UserError(
                    f"The {name} {value!r} was asked for.",
                    "CLIP chooses among the vocabulary's words, and this is none of them.",
                    f"Add it to the vocabulary, or ask for one of: "
                    f"{', '.join(self.vocabulary.get(name, ())) or ', '.join(self.vocabulary)}.",
                )
        return attributes


class AttributeAccuracy:
    """Share of an entity's attributes that its region shows as asked, 0..1."""

    scale = Scale(
        name="attribute_accuracy", low=0, high=1, higher_is_better=True, unit="share of attributes"
    )

    def __init__(self, reader: AttributeReader) -> None:
        self.reader = reader

    def __call__(self, cases: Sequence[Case]) -> Scores:
        return score(self.scale, cases, self._measure, each_entity=True)

    def _measure(self, cases: list[Case]) -> list[Parts]:
        return [
            tuple(
                _share([seen[name] == value for name, value in entity.attributes.items()])
                for entity, seen in zip(case.entities, own, strict=True)
            )
            for case, own in zip(cases, self.reader.cases(cases), strict=True)
        ]


class AttributeLeakage:
    """Share of the picture's attributes that show what was asked of another entity, 0..1.

    Counted over the attributes in which an entity differs from some other one of the picture; one
    that shows neither its own value nor another entity's is wrong, but has not leaked.
    """

    scale = Scale(
        name="attribute_leakage", low=0, high=1, higher_is_better=False, unit="share of attributes"
    )

    def __init__(self, reader: AttributeReader) -> None:
        self.reader = reader

    def __call__(self, cases: Sequence[Case]) -> Scores:
        return score(self.scale, cases, self._measure)

    def _measure(self, cases: list[Case]) -> list[Parts]:
        return [
            (_share(_leaks(case, seen)),)
            for case, seen in zip(cases, self.reader.cases(cases), strict=True)
        ]


def _leaks(case: Case, seen: Sequence[Values]) -> list[bool]:
    found = []
    for entity, own in zip(case.entities, seen, strict=True):
        for name, value in entity.attributes.items():
            others = {e.attributes[name] for e in case.entities if name in e.attributes} - {value}
            if others:
                found.append(own[name] in others)
    if not found:
        raise missing(
            "entities that differ in an attribute", "nothing can leak where all are asked alike"
        )
    return found


def _share(hits: Sequence[bool]) -> float:
    return sum(hits) / len(hits)
