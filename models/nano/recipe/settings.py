"""Settings of a recipe: one section of `models/nano/params.yaml`, as its frozen dataclass."""

from dataclasses import fields
from pathlib import Path
from typing import TypeVar

import yaml

from insitu.errors import UserError

PARAMS = Path(__file__).resolve().parents[1] / "params.yaml"
S = TypeVar("S")


def read(section: str, kind: type[S], path: Path = PARAMS, **parts: type) -> S:
    """Section `section` of a parameter file as `kind`; key k is a list of `parts[k]`.

    Raises UserError when keys are missing or unknown.
    """
    given = (yaml.safe_load(path.read_text(encoding="utf-8")) or {}).get(section) or {}
    wanted = {field.name for field in fields(kind)}  # type: ignore[arg-type]
    wrong = [f"{key} is missing" for key in sorted(wanted - given.keys())]
    wrong += [f"{key} is unknown" for key in sorted(given.keys() - wanted)]
    if wrong:
        raise UserError(
            f"Section {section!r} of {path.name}: {', '.join(wrong)}.",
            f"The recipe reads exactly {', '.join(sorted(wanted))}.",
            "Correct the section's keys.",
        )
    nested = {key: tuple(part(**each) for each in given[key]) for key, part in parts.items()}
    return kind(**given | nested)
