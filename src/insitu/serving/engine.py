"""The engine: one base, the champions on it, one picture at a time.

An alias is resolved for every request, so that a promotion is served without a restart; packages
are kept by digest, which never changes its meaning.
"""

import tempfile
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.torch import load_file

from insitu.edits import Words, named, replaced, require_known
from insitu.errors import UserError
from insitu.methods import Placement, Request, find
from insitu.registry.package import Package
from insitu.registry.store import CHAMPION, Entry, Store
from insitu.requests import require_rest

Image = NDArray[np.uint8]


@dataclass(frozen=True, kw_only=True)
class Placed:
    """The picture, and which adapter painted it."""

    image: Image
    entry: Entry


class Engine:
    """Paints requests with registered adapters on one loaded base."""

    def __init__(
        self, *, backbone: Any, store: Store, method: str, vocabulary: Words | None = None
    ) -> None:
        """`vocabulary` = all attribute words, by which edits of a subject are found."""
        self.backbone, self.store, self.method = backbone, store, method
        self.vocabulary: Words = vocabulary or {}
        self._folder = tempfile.TemporaryDirectory(prefix="insitu-adapters-")
        self._loaded: dict[str, tuple[Any, dict[str, Any]]] = {}
        # The adapter sits in the base while it paints: two at once would paint with both.
        self._painting = threading.Lock()

    def place(
        self,
        *,
        subject: str,
        image: Image,
        box_xyxy01: tuple[float, float, float, float],
        prompt: str | None,
        seed: int,
        version: str = CHAMPION,
        replace: Sequence[str] | None = None,
        also: Mapping[str, float] | None = None,
        weight: float = 1.0,
    ) -> Placed:
        """Put a subject into a photo.

        Args:
            prompt: what is to be seen in the box; `{subject}` stands for the subject. By default
                the subject alone.
            version: of the subject's adapter, a number or an alias.
            replace: words for how the subject looks that the prompt has others for; None = those
                of which it has another one of the same kind.
            also: other subjects whose champions act beside it, with their weights.
            weight: of the subject's own adapter; 1 = as it was measured.

        Raises:
            UserError: no such subject or version, an adapter of another base, a box that cannot
                be painted, a prompt without `{subject}`, or an attribute that it does not have.
        """
        entry = self.store.entry(f"{self.method}.{subject}", version)
        words = "{subject}" if prompt is None else prompt
        if "{subject}" not in words:
            raise UserError(
                f"The prompt {words!r} was given.",
                "It does not say where the subject comes in, so its adapter would be idle.",
                "Write {subject} where the subject is meant: 'a {subject} in the snow'.",
            )
        with self._painting:
            package = self._package(entry)
            method, state = self._loaded[entry.digest]
            card, own = package.card, package.card.attributes or {}
            if replace is None:
                gone = replaced(words, own, self.vocabulary)
            else:
                require_known(replace, own, subject)
                gone = tuple(replace)
            name = named(str(card.identifier), str(card.class_word), gone)
            request = Request(
                image=image,
                placements=(Placement(box_xyxy01=box_xyxy01),),
                prompt=words.replace("{subject}", f"a {name}" if words == "{subject}" else name),
                seed=seed,
                replaced=gone,
            )
            require_rest(request)
            beside = self._beside(also or {})
            method.load(self.backbone, state, weight=weight)
            try:
                for number, (other, its) in enumerate(beside):
                    method.load(self.backbone, other, f"beside{number}", weight=its)
                picture = method.paint(self.backbone, [request])[0]
            finally:
                method.detach(self.backbone)
        return Placed(image=picture, entry=entry)

    def _beside(self, also: Mapping[str, float]) -> list[tuple[dict[str, Any], float]]:
        """Weights of other subjects' champions, each with its own weight."""
        entries = [self.store.entry(f"{self.method}.{name}", CHAMPION) for name in also]
        for entry in entries:
            self._package(entry)
        return [
            (self._loaded[entry.digest][1], its)
            for entry, its in zip(entries, also.values(), strict=True)
        ]

    def _package(self, entry: Entry) -> Package:
        folder = Path(self._folder.name) / entry.digest
        if entry.digest in self._loaded:
            return Package.open(folder / "adapter")
        package = self.store.fetch(entry, folder)
        package.require_base(self.backbone.digest)
        method = find(package.card.method, package.card.settings["method"])
        self._loaded[entry.digest] = (method, load_file(package.weights))
        return package
