"""The engine: one base, the champions on it, one picture at a time.

An alias is resolved for every request, so that a promotion is served without a restart; packages
are kept by digest, which never changes its meaning.
"""

import tempfile
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.torch import load_file

from insitu.errors import UserError
from insitu.methods import Method, Placement, Request, find
from insitu.registry.package import Package
from insitu.registry.store import CHAMPION, Entry, Store

Image = NDArray[np.uint8]


@dataclass(frozen=True, kw_only=True)
class Placed:
    """The picture, and which adapter painted it."""

    image: Image
    entry: Entry


class Engine:
    """Paints requests with registered adapters on one loaded base."""

    def __init__(self, *, backbone: Any, store: Store, method: str) -> None:
        self.backbone, self.store, self.method = backbone, store, method
        self._folder = tempfile.TemporaryDirectory(prefix="insitu-adapters-")
        self._loaded: dict[str, tuple[Method, dict[str, Any]]] = {}
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
    ) -> Placed:
        """Put a subject into a photo.

        Args:
            prompt: what is to be seen in the box; `{subject}` stands for the subject. By default
                the subject alone.
            version: of the subject's adapter, a number or an alias.

        Raises:
            UserError: no such subject or version, an adapter of another base, a box that cannot
                be painted, or a prompt without `{subject}`.
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
            name = f"{package.card.identifier} {package.card.class_word}"
            request = Request(
                image=image,
                placements=(Placement(box_xyxy01=box_xyxy01),),
                prompt=words.replace("{subject}", f"a {name}" if words == "{subject}" else name),
                seed=seed,
            )
            method.load(self.backbone, state)
            try:
                picture = method.paint(self.backbone, [request])[0]
            finally:
                method.detach(self.backbone)
        return Placed(image=picture, entry=entry)

    def _package(self, entry: Entry) -> Package:
        folder = Path(self._folder.name) / entry.digest
        if entry.digest in self._loaded:
            return Package.open(folder / "adapter")
        package = self.store.fetch(entry, folder)
        package.require_base(self.backbone.digest)
        method = find(package.card.method, package.card.settings["method"])
        self._loaded[entry.digest] = (method, load_file(package.weights))
        return package
