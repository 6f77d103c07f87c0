"""A checkpoint's card: `card.json` for programs, `README.md` rendered from it for people."""

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from insitu.digest import weight_files, weights_digest
from insitu.evaluation.checkpoints import Figure
from insitu.world import WORLD_VERSION


def write_card(
    folder: Path,
    *,
    model_class: str,
    data: str,
    steps: Mapping[str, int] | int,
    seconds: float,
    figures: Mapping[str, Figure],
    headline: str,
    limits: Sequence[str],
    failures: Sequence[str],
    recipe: str,
    licence: str = "Apache-2.0",
    settings: Mapping[str, Any] | None = None,
) -> None:
    """Write the card of the weights that lie in `folder`.

    Args:
        model_class: transformers or diffusers class that `from_pretrained` gives.
        data: what it was trained on, one or two sentences.
        steps: optimizer steps, in all or by phase.
        seconds: training time in all.
        figures: held-out figures by name.
        headline: the name of the figure to show first.
        limits: what it is not for, a sentence each.
        failures: how it fails where it does, a sentence each.
        recipe: the command that trains it, from `models/nano`.
        settings: further facts that a user of the weights needs, e.g. a threshold.
    """
    first = figures[headline]
    card = {
        "headline": {
            "name": headline,
            "value": round(first.value, 4),
            "interval": [round(first.low, 4), round(first.high, 4)],
        },
        "model_class": model_class,
        "weights_digest": weights_digest(folder),
        "weights_bytes": sum(path.stat().st_size for path in weight_files(folder)),
        "world_version": WORLD_VERSION,
        "data": data,
        "recipe": recipe,
        "steps": dict(steps) if isinstance(steps, Mapping) else steps,
        "training_minutes": round(seconds / 60, 1),
        "figures": {name: figure.rounded() for name, figure in figures.items()},
        "settings": dict(settings or {}),
        "limits": list(limits),
        "failures": list(failures),
        "licence": licence,
    }
    _replace(folder / "card.json", json.dumps(card, indent=2, ensure_ascii=False) + "\n")
    _replace(folder / "README.md", render(folder.name, card))


def render(name: str, card: Mapping[str, Any]) -> str:
    """Return the card as Markdown."""
    rows = [
        f"| {figure} | {m['value']:.3f} | {m['low']:.3f} to {m['high']:.3f} | {m['n']} |"
        for figure, m in card["figures"].items()
    ]
    steps = card["steps"]
    if isinstance(steps, dict):
        steps = ", ".join(f"{phase} {count}" for phase, count in steps.items())
    settings = [f"- {key}: {value}" for key, value in card["settings"].items()]
    lines = [
        f"# nano {name}",
        "",
        f"A small `{card['model_class']}` of the procedural world, version "
        f"{card['world_version']}; {card['weights_bytes'] / 1e6:.1f} MB, {card['licence']}.",
        "",
        "## Held-out figures",
        "",
        "| figure | value | 95% interval | cases |",
        "|---|---|---|---|",
        *rows,
        "",
        "![Held-out examples](grid.png)",
        "",
        "## Training",
        "",
        f"{card['data']} Steps: {steps}; {card['training_minutes']} minutes. Recipe: "
        f"`{card['recipe']}` in `models/nano`.",
        "",
        *(["## Settings", "", *settings, ""] if settings else []),
        "## Limits",
        "",
        *[f"- {limit}" for limit in card["limits"]],
        "",
        "## Failures seen",
        "",
        *[f"- {failure}" for failure in card["failures"]],
    ]
    return "\n".join(lines) + "\n"


def _replace(path: Path, text: str) -> None:
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_text(text, encoding="utf-8")
    os.replace(temporary, path)
