"""The page of a package: what it is, what came of it, how to use it; its head is Hugging Face's."""

import json
from collections.abc import Mapping
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.compat import StringIO

from insitu.registry.package import Package

README = "README.md"


def text(package: Package, figures: Mapping[str, Any]) -> str:
    """Markdown with a head in YAML.

    Args:
        figures: metric -> the adapter's figure, its base's, their difference.
    """
    card = package.card
    head = {
        "base_model": card.base.path,
        "base_model_relation": "adapter",
        "library_name": "insitu",
        "tags": ["insitu", card.method, "image-inpainting"],
    }
    what = (
        f"An adapter of {card.method} that serves every subject."
        if card.subject is None
        else f"An adapter of {card.method}, tuned on the subject {card.subject} (a"
        f" {card.class_word}; `{{subject}}` in prompts)."
    )
    place = f"insitu place {card.subject or card.method} photo.png "
    place += "0.3,0.3,0.7,0.8" if card.subject else '--at "box=0.3,0.3,0.7,0.8 ..."'
    parts = [
        f"---\n{_yaml(head)}---\n",
        f"# {package.name}\n",
        f"{what}\n",
        _table(figures),
        "## Use\n",
        f"```\n{place}\n```\n",
        "## Of what it is made\n",
        f"- digest `{package.digest}`",
        f"- base `{card.base.path}`, weights `{card.base.weights_digest}`",
        f"- data `{card.data_digest}`, seed {card.seed}",
        f"- settings `{json.dumps(card.settings.get('method', {}), sort_keys=True)}`\n",
    ]
    return "\n".join(part for part in parts if part)


def _table(figures: Mapping[str, Any]) -> str:
    if not figures:
        return "It was not measured.\n"
    ways = list(next(iter(figures.values())))
    rows = [
        f"| {metric} | {' | '.join(_figure(found.get(way, {})) for way in ways)} |"
        for metric, found in figures.items()
    ]
    lines = [f"| measure | {' | '.join(ways)} |", f"|---{'|---' * len(ways)}|", *rows]
    return "\n".join(lines) + "\n\nWith 95% intervals, on held-out requests.\n"


def _figure(found: Mapping[str, Any]) -> str:
    if "value" not in found:
        return ""
    value = f"{found['value']:.3f}"
    return f"{value} ({found['low']:.3f} to {found['high']:.3f})" if "low" in found else value


def _yaml(content: Mapping[str, Any]) -> str:
    stream = StringIO()
    YAML(typ="safe", pure=True).dump(dict(content), stream)
    return stream.getvalue()
