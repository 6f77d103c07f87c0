"""Rows of the data engines: pairs, candidates, BoundID, entities, quadruples, groups."""

from dataclasses import dataclass

from insitu.records.types import Box, Image, Record


@dataclass(frozen=True, kw_only=True)
class Lineage:
    """What a row was made from.

    Attributes:
        sources: the rows or files it was made from, each `id@digest`, the digest's first 16 digits.
        models: the models that drew or judged it, each with what pins it.
    """

    sources: tuple[str, ...]
    models: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Reference:
    """Two pictures of one identity from the subject bank.

    Attributes:
        identity: its name in the bank.
        category: what a detector is asked for.
        description: the identity in words.
        image: the picture that conditions the generator and, in training, the model.
        other: another picture of it, which only judges see.
        box, other_box: where it is in each of them.
    """

    identity: str
    category: str
    description: str
    image: Image
    box: Box
    other: Image
    other_box: Box


@dataclass(frozen=True, kw_only=True)
class Pair(Record):
    """Distinct identities that are to stand in one picture, and the prompt for it.

    Attributes:
        references: of each identity, two at least.
        prompt: of the whole picture, with the descriptions in it.
        split: train, validation or test; no identity is in two of them.
        seed: of the picture.
    """

    references: tuple[Reference, ...]
    prompt: str
    split: str
    seed: int
    lineage: Lineage


@dataclass(frozen=True, kw_only=True)
class PlantedFault:
    """A fault that the world put into a picture: its kind, and the thing's index, or None."""

    kind: str
    thing: int | None


@dataclass(frozen=True, kw_only=True)
class Candidate(Record):
    """A pair with the picture that a generator made of it.

    Attributes:
        image: the picture.
        faults: what is wrong with it, as far as its maker knows; None from a real generator.
    """

    references: tuple[Reference, ...]
    prompt: str
    split: str
    image: Image
    faults: tuple[PlantedFault, ...] | None
    lineage: Lineage


@dataclass(frozen=True, kw_only=True)
class Finding:
    """What was found of one identity in a candidate.

    Attributes:
        box: the best place for it, None if its category is nowhere.
        detection: the detector's score there, 0..1; 0 without a box.
        similarity: the judge's score that it is this identity, at most 1; 0 without a box.
        covered: the share of the box that lies in the other identities' boxes, 0..1.
    """

    box: Box | None
    detection: float
    similarity: float
    covered: float


@dataclass(frozen=True, kw_only=True)
class Detections(Record):
    """What models say about the candidate of the same id; filters read nothing else.

    Attributes:
        findings: of each identity, in the order of the references.
        quality: the judge's score of the whole picture, in its own unit.
    """

    findings: tuple[Finding, ...]
    quality: float
    lineage: Lineage


@dataclass(frozen=True, kw_only=True)
class BoundId(Record):
    """One row of BoundID (Inpaint-Anywhere, section "BoundID").

    Attributes:
        image: x_gt.
        references: x_k, in the order of `boxes`.
        boxes: b_k, grown; None where an identity was not found (rejected rows only).
        found: the boxes before they grew.
        masked: x_m, the picture with the boxes blanked.
        prompt: of the whole picture.
        findings, quality: what the filters saw.
        faults: see `Candidate`.
    """

    image: Image
    masked: Image
    references: tuple[Reference, ...]
    boxes: tuple[Box | None, ...]
    found: tuple[Box | None, ...]
    prompt: str
    split: str
    findings: tuple[Finding, ...]
    quality: float
    faults: tuple[PlantedFault, ...] | None
    lineage: Lineage


@dataclass(frozen=True, kw_only=True)
class Entity:
    """An entity of a picture: its tag, its own prompt and its box."""

    word: str
    prompt: str
    box: Box


@dataclass(frozen=True, kw_only=True)
class EntityPicture(Record):
    """One row of EliGen's data (section 4.1): a picture, its prompt, and what is where.

    Attributes:
        asked: the caption that the picture was drawn from.
        prompt: what the captioner says of it; the global prompt in training.
    """

    image: Image
    asked: str
    prompt: str
    entities: tuple[Entity, ...]
    split: str
    lineage: Lineage


@dataclass(frozen=True, kw_only=True)
class Quadruple(Record):
    """One row of LAR-Gen's data (section 5): an object in a picture.

    Attributes:
        image: the source image.
        mask: gray, 255 = the object.
        box: of the object.
        subject: the object cut out by its box.
        text: the regional caption, of the object alone.
        global_text: the caption of the whole picture, for the ablation.
        tag: the word that it was found by.
        area: the mask's share of the picture.
        agreement: how well the mask fills the box it was asked for, 0..1.
    """

    image: Image
    mask: Image
    box: Box
    subject: Image
    text: str
    global_text: str
    tag: str
    area: float
    agreement: float
    split: str
    lineage: Lineage


@dataclass(frozen=True, kw_only=True)
class Face:
    """A face with a name.

    Attributes:
        identity: whose it is in the reference bank.
        box: of the face.
        landmarks: x, y of left eye, right eye, nose, left and right mouth corner, in 0..1.
        person: gray, 255 = the person.
        score: the weighted match that named it, 0..1.
        similarity: of its embedding to the bank's nearest of that identity.
    """

    identity: str
    box: Box
    landmarks: tuple[float, ...]
    person: Image
    score: float
    similarity: float


@dataclass(frozen=True, kw_only=True)
class Group(Record):
    """One row of AnyPhoto's data (appendix A.3): people with names at places."""

    image: Image
    faces: tuple[Face, ...]
    prompt: str
    split: str
    lineage: Lineage


@dataclass(frozen=True, kw_only=True)
class BankFace(Record):
    """A reference picture of an identity: several for each make up the face bank."""

    identity: str
    image: Image
    box: Box
    landmarks: tuple[float, ...]
    embedding: tuple[float, ...]
    split: str
    lineage: Lineage


@dataclass(frozen=True, kw_only=True)
class RegularPhoto(Record):
    """A picture of a subject's class with attributes (DreamMix, ADM), painted by the untuned base.

    Attributes:
        subject: for whose tuning it is.
        attributes: the words it was painted with.
        box: where it was painted.
        mask: gray, 255 = the thing, by the segmenter.
        prompt: what the base was asked for; training adds the identifier.
    """

    subject: str
    class_word: str
    attributes: tuple[str, ...]
    image: Image
    box: Box
    mask: Image
    prompt: str
    lineage: Lineage
