"""A checkpoint in figures: class, size, and the headline of the card beside its weights."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from insitu.digest import weight_files, weights_digest
from insitu.errors import UserError
from insitu.evaluation.gallery.page import Facts, Headline
from insitu.params import Checkpoint


def facts(
    name: str,
    checkpoint: Checkpoint,
    *modules: nn.Module,
    meanings: Mapping[str, str],
    model_class: str = "",
    figure: str | None = None,
    part: str = "",
) -> Facts:
    """Describe the loaded `modules` of a checkpoint.

    Args:
        meanings: figure's name in the card -> what it says, in words.
        model_class: what the checkpoint is loaded as, when that is not the first module's class.
        figure: the figure to show; by default the one that the card calls its headline.
        part: the subfolder that the modules come from, when they are not all of the checkpoint.

    Raises:
        UserError: there is a card, and it cannot be read.
    """
    folder = Path(checkpoint.path)
    local = not checkpoint.is_hub_id
    headline, reason = _headline(folder, figure, meanings) if local else (None, "no card")
    return Facts(
        name=name,
        model_class=model_class or type(modules[0]).__name__,
        parameters=sum(p.numel() for module in modules for p in module.parameters()),
        weights_bytes=_bytes(folder / part) if local else None,
        headline=headline,
        no_headline=reason,
    )


def threshold(checkpoint: Checkpoint, default: float) -> float:
    """The score above which the card says that an answer counts."""
    card, _ = _own_card(Path(checkpoint.path))
    return float(card.get("settings", {}).get("threshold", default))


def _headline(
    folder: Path, figure: str | None, meanings: Mapping[str, str]
) -> tuple[Headline | None, str]:
    card, reason = _own_card(folder)
    if not card:
        return None, reason
    try:
        name = figure or card["headline"]["name"]
        measured = card["figures"].get(name)
        if measured is None:
            return None, "not in the card"
        return Headline(
            meaning=meanings.get(name, name),
            value=float(measured["value"]),
            low=float(measured["low"]),
            high=float(measured["high"]),
            count=int(measured["n"]),
        ), ""
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise _unreadable(folder, f"it holds no such figure ({error!r})") from None


def _own_card(folder: Path) -> tuple[dict[str, Any], str]:
    """The card of the weights in a folder, or nothing and why there is none."""
    path = folder / "card.json"
    if not path.is_file():
        return {}, "no card"
    try:
        content = json.loads(path.read_bytes())
    except ValueError as error:
        raise _unreadable(folder, f"it is not JSON ({error})") from None
    if not isinstance(content, dict):
        raise _unreadable(folder, "it holds no JSON object")
    if content.get("weights_digest") != weights_digest(folder):
        return {}, "the card is of other weights"
    return content, ""


def _unreadable(folder: Path, why: str) -> UserError:
    return UserError(
        f"The card {folder / 'card.json'} was read.",
        f"Its headline cannot be shown: {why}.",
        "Write the card again with the checkpoint's recipe, or remove it.",
    )


def _bytes(folder: Path) -> int:
    return sum(file.stat().st_size for file in weight_files(folder))
