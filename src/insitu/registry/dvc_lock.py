"""What dvc.lock says: DVC's hashes of what each stage read and wrote. DVC itself is not asked."""

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from ruamel.yaml import YAML

LOCK = "dvc.lock"
DATA = "data/"
"""Where data sets lie; what follows is a data set's name."""


@dataclass(frozen=True, kw_only=True)
class Stage:
    """DVC's hash of each path that a stage read (`deps`) and wrote (`outs`)."""

    deps: Mapping[str, str]
    outs: Mapping[str, str]


def read(root: Path) -> Mapping[str, Stage]:
    """The stages of the dvc.lock in a folder; none if there is no such file."""
    path = root / LOCK
    return parse(path.read_text(encoding="utf-8")) if path.is_file() else {}


@functools.lru_cache(maxsize=64)  # tags often hold one and the same text
def parse(text: str) -> Mapping[str, Stage]:
    """The stages of a dvc.lock."""
    content = YAML(typ="safe", pure=True).load(text) or {}
    return {
        name: Stage(deps=_hashes(stage.get("deps")), outs=_hashes(stage.get("outs")))
        for name, stage in content.get("stages", {}).items()
    }


def written(stages: Mapping[str, Stage]) -> dict[str, str]:
    """The hash of each path that a stage wrote: what `dvc gc` keeps of this dvc.lock."""
    return {path: md5 for stage in stages.values() for path, md5 in stage.outs.items()}


def data_behind(stages: Mapping[str, Stage], stage: str) -> dict[str, str]:
    """The data sets that a stage read, by name, each with its hash; none if it is not recorded."""
    deps = stages[stage].deps if stage in stages else {}
    return {
        path.removeprefix(DATA): md5
        for path, md5 in sorted(deps.items())
        if path.startswith(DATA) and path.count("/") == 1 and md5.endswith(".dir")
    }


def _hashes(entries: list[dict[str, str]] | None) -> dict[str, str]:
    return {entry["path"]: entry["md5"] for entry in entries or [] if "md5" in entry}
