"""The engine: bases, registered adapters on them, and requests that become pictures.

Any thread may ask; one thread, the engine's own, loads models and works with them. So an adapter
sits in its base alone until another one is asked for there. And a processor's cores are shared by
one team of threads: with a second team (another thread that computes) OpenMP no longer waits
actively, and small models take twice the time (`python -m benchmarks.serving`).
"""

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from insitu import progress
from insitu.edits import Words, named, replaced, require_known
from insitu.errors import UserError
from insitu.methods import Placement, Request
from insitu.perception.face_finder import FaceFinder
from insitu.registry.package import Card
from insitu.registry.store import CHAMPION, Entry
from insitu.requests import require_rest
from insitu.serving.catalog import Catalog
from insitu.serving.faces import LANDMARKS, with_landmarks
from insitu.serving.shelf import Shelf

Image = NDArray[np.uint8]
SUBJECT = "{subject}"


@dataclass(frozen=True, kw_only=True)
class Wish:
    """What is asked of a registered adapter, as it was given.

    Attributes:
        adapter: its registered name, `<method>` or `<method>.<subject>`.
        version: a number or an alias.
        image: the photo, uint8 [H, W, 3].
        placements: what goes where.
        prompt: what is to be seen; of a subject's adapter `{subject}` stands for the subject, and
            None is the subject alone.
        replace: words for how the subject looks that the prompt has others for; None = those of
            which it has another one of the same kind.
        also: other subjects whose champions act beside it, with their weights.
        weight: of the subject's own adapter; 1 = as it was measured.
        steps: of sampling; None = as it was measured.
    """

    adapter: str
    image: Image
    placements: tuple[Placement, ...]
    version: str = CHAMPION
    prompt: str | None = None
    seed: int = 0
    negative_prompt: str | None = None
    background: Any = "keep"
    style: Image | None = None
    replace: Sequence[str] | None = None
    also: Mapping[str, float] = field(default_factory=dict)
    weight: float = 1.0
    steps: int | None = None


@dataclass(frozen=True, kw_only=True, eq=False)
class Asked:
    """A request of which all is known: which version paints it, and with what beside it."""

    entry: Entry
    request: Request
    steps: int | None = None
    weight: float = 1.0
    beside: tuple[tuple[Entry, float], ...] = ()

    @property
    def loaded(self) -> tuple[Any, ...]:
        """What has to sit in the base: equal ones need no change."""
        return (
            self.entry.digest,
            self.weight,
            tuple((entry.digest, weight) for entry, weight in self.beside),
        )

    @property
    def alike(self) -> tuple[Any, ...]:
        """Requests with equal ones are painted in one batch."""
        request = self.request
        return (
            self.loaded, self.steps, request.image.shape, len(request.placements),
            request.background, request.style is None,
        )  # fmt: skip

    @property
    def nbytes(self) -> int:
        """Of its pictures."""
        pictures = [self.request.image, self.request.style]
        for placement in self.request.placements:
            pictures += [placement.mask, placement.reference]
        return sum(picture.nbytes for picture in pictures if picture is not None)


class Engine:
    """Paints requests with registered adapters on loaded bases.

    Attributes:
        alone: the thread that works with models.
    """

    def __init__(
        self,
        *,
        load: Callable[[], Mapping[str, Any]],
        catalog: Catalog,
        shelf: Shelf,
        vocabulary: Words | None = None,
        faces: Callable[[], FaceFinder] | None = None,
    ) -> None:
        """
        Args:
            load: makes the bases, backbones by the keys of `models` in params.yaml.
            vocabulary: all attribute words, by which edits of a subject are found.
            faces: finds faces, where a method needs to know where they are.
        """
        self.alone = ThreadPoolExecutor(1, thread_name_prefix="models")
        self.bases = self.alone.submit(load).result()
        self.catalog, self.shelf = catalog, shelf
        self._vocabulary: Words = vocabulary or {}
        self._faces = faces
        self._loaded: dict[str, tuple[tuple[Any, ...], Any]] = {}

    def ask(self, wish: Wish) -> Asked:
        """What a wish comes to; its adapter is fetched where it is not here.

        Raises:
            NotRegistered: there is no such adapter or version.
            Unreachable: it is not here and cannot be had.
            UserError: the adapter is of another base, or its method cannot do what is asked.
        """
        entry = self.catalog.resolve(wish.adapter, wish.version)
        held = self.shelf.get(entry)
        method, card = held.method(wish.steps), held.package.card
        held.package.require_base(self._base(method.base).digest)
        subject = None if card.subject is None else self._of_subject(wish, card)
        if subject is None:
            _require_no_subject(wish)
        request = Request(
            image=wish.image, placements=wish.placements, seed=wish.seed,
            prompt=(wish.prompt or "") if subject is None else subject[0],
            replaced=() if subject is None else subject[1],
            negative_prompt=wish.negative_prompt, background=wish.background, style=wish.style,
        )  # fmt: skip
        if self._faces is not None and LANDMARKS in method.accepts.needs:
            request = self.alone.submit(with_landmarks, request, self._faces).result()
        method.accepts.require(wish.adapter, request)
        if method.accepts.rest:
            require_rest(request)
        beside = tuple(
            (self.catalog.resolve(f"{card.method}.{name}", CHAMPION), weight)
            for name, weight in wish.also.items()
        )
        return Asked(
            entry=entry, request=request, steps=wish.steps, weight=wish.weight, beside=beside
        )

    def paint(
        self, asked: Sequence[Asked], watcher: progress.Watcher = lambda share: None
    ) -> list[Image]:
        """One picture a request, of requests that are `alike`.

        Args:
            watcher: told how far it is; what it raises ends the painting.

        Raises:
            UserError: one of them cannot be painted; none is, then.
        """
        return self.alone.submit(self._paint, asked, watcher).result()

    def _paint(self, asked: Sequence[Asked], watcher: progress.Watcher) -> list[Image]:
        method: Any = self.shelf.get(asked[0].entry).method(asked[0].steps)
        self._load(asked[0], method)
        backbone = self._base(method.base)
        try:
            with progress.watched(watcher):
                pictures: list[Image] = method.paint(backbone, [one.request for one in asked])
        except UserError:
            raise
        except Exception:  # nobody knows in what state it left the base
            self._loaded.pop(method.base)[1].detach(backbone)
            raise
        return pictures

    def unload(self) -> None:
        """Take every adapter out of its base."""

        def unload() -> None:
            for base, (_, method) in list(self._loaded.items()):
                method.detach(self._base(base))
                del self._loaded[base]

        self.alone.submit(unload).result()

    def _load(self, asked: Asked, method: Any) -> None:
        """Put its adapter in the base, unless it sits there."""
        base, backbone = method.base, self._base(method.base)
        before = self._loaded.get(base)
        if before is not None and before[0] == asked.loaded:
            return
        if before is not None:
            before[1].detach(backbone)
            del self._loaded[base]
        card, weights = self.shelf.get(asked.entry).package.card, self.shelf.weights(asked.entry)
        try:
            if card.subject is None:
                method.load(backbone, weights)
            else:
                method.load(backbone, weights, weight=asked.weight)
            for number, (entry, weight) in enumerate(asked.beside):
                other = self.shelf.weights(entry)
                method.load(backbone, other, f"beside{number}", weight=weight)
        except BaseException:
            method.detach(backbone)
            raise
        self._loaded[base] = (asked.loaded, method)

    def _base(self, base: str) -> Any:
        if base not in self.bases:
            raise UserError(
                f"An adapter on {base} was asked for.",
                "This server has not loaded that base.",
                "Add a method that works on it to serving.methods.",
            )
        return self.bases[base]

    def _of_subject(self, wish: Wish, card: Card) -> tuple[str, tuple[str, ...]]:
        """The prompt as the method is told it, and which of the subject's words it replaces."""
        words = SUBJECT if wish.prompt is None else wish.prompt
        if SUBJECT not in words:
            raise UserError(
                f"The prompt {words!r} was given.",
                "It does not say where the subject comes in, so its adapter would be idle.",
                "Write {subject} where the subject is meant: 'a {subject} in the snow'.",
            )
        own = card.attributes or {}
        if wish.replace is None:
            gone = replaced(words, own, self._vocabulary)
        else:
            require_known(wish.replace, own, str(card.subject))
            gone = tuple(wish.replace)
        name = named(str(card.identifier), str(card.class_word), gone)
        return words.replace(SUBJECT, f"a {name}" if words == SUBJECT else name), gone


def _require_no_subject(wish: Wish) -> None:
    if wish.replace or wish.also or wish.weight != 1:
        raise UserError(
            f"{wish.adapter} was asked with what is for subjects: replace, also or weight.",
            "It serves every subject: it has no attributes, and one adapter.",
            "Leave them out.",
        )
