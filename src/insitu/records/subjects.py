"""Reference photos of subjects: what tuning learns from."""

import re
from dataclasses import dataclass

from insitu.records.types import Box, Image, Record


@dataclass(frozen=True, kw_only=True)
class SubjectPhoto(Record):
    """One photo of one subject.

    Attributes:
        subject: the subject's name, a folder-like word.
        class_word: what kind of thing it is, e.g. "mug".
        description: the subject in words, all attributes that words can tell, e.g. "a red and
            white striped mug"; what an untuned model is asked for instead.
        image: the photo.
        box: where the subject is in it.
        box_from: truth (drawn), given (by the user), detector, or photo (nothing was found: all
            of it but a margin).
        source: the file's name, or how it was drawn.
    """

    subject: str
    class_word: str
    description: str
    image: Image
    box: Box
    box_from: str
    source: str

    @property
    def attributes(self) -> tuple[str, ...]:
        """The words before the class word in "a [attributes] [class]"; none in other sentences."""
        found = re.fullmatch(rf"an? (.+) {re.escape(self.class_word)}", self.description)
        return tuple(found[1].split()) if found else ()
