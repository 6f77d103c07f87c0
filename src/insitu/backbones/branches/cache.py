"""Keys and values of branches that do not change from step to step."""

from collections.abc import Sequence

from torch import Tensor

Following = Sequence[Tensor | str | float | None]
"""What keys and values follow from."""


class Cache:
    """Kept by a caller over the steps of sampling, or longer; it is filled by the first pass.

    It holds for the very inputs that it was filled from, by identity and version or, where a tensor
    is another one, by its values. With anything else it is filled anew, so a changed prompt,
    reference, box or adapter never meets old keys.

    Attributes:
        hits, fills: passes that found it filled, and that filled it.
    """

    def __init__(self) -> None:
        self.blocks: list[dict[str, Tensor]] = []
        self.hits = self.fills = 0
        self._from: list[tuple[Tensor | str | float | None, int]] | None = None

    def holds(self, following: Following) -> bool:
        """Whether it was filled from the same."""
        known = self._from
        same = known is not None and len(known) == len(following)
        if same and known is not None:
            same = all(_same(now, *then) for now, then in zip(following, known, strict=True))
        self.hits += same
        return same

    def begin(self, following: Following, blocks: int) -> None:
        """Forget what it holds; `blocks` are filled next."""
        self._from = [(each, _version(each)) for each in following]
        self.blocks = [{} for _ in range(blocks)]
        self.fills += 1


def _version(each: Tensor | str | float | None) -> int:
    """Torch counts the changes in place of each tensor, but not of those made for inference."""
    return each._version if isinstance(each, Tensor) and not each.is_inference() else 0


def _same(
    now: Tensor | str | float | None, then: Tensor | str | float | None, version: int
) -> bool:
    if now is then:
        return _version(now) == version
    if isinstance(now, Tensor) and isinstance(then, Tensor):
        if then.shape != now.shape or then.dtype != now.dtype or _version(then) != version:
            return False
        return bool((now == then).all())
    return type(now) is type(then) and now == then
