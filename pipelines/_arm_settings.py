"""Settings of arms: params.yaml with what `claims.yaml` has otherwise, checked before any work."""

import json
from collections.abc import Mapping
from typing import Any

from insitu.errors import UserError
from insitu.evaluation import sets
from insitu.evaluation.claims.registered import Registered, Replication
from insitu.methods import data_of
from insitu.params import Params
from insitu.records.manifest import MANIFEST
from pipelines import _methods, _paths
from pipelines._sets import ROWS
from pipelines._wanted import Place, Wanted, replicates, start_of


def block_of(params: Params, method: str) -> str:
    """A method's block of params.yaml."""
    return "tune" if method == params.tune.method else method


def changed(params: Params, changes: Mapping[str, Any]) -> Params:
    """Settings with others in place of some, by dotted names; checked as the file is.

    Raises:
        UserError: there is no such setting.
    """
    content = params.model_dump()
    for name, value in changes.items():
        *path, last = name.split(".")
        own: Any = content
        for part in path:
            own = own.get(part) if isinstance(own, dict) else None
        if not isinstance(own, dict) or last not in own:
            raise UserError(
                f"The claims file sets {name}.",
                "params.yaml has no such setting.",
                "Write the name as it stands there, its groups with dots.",
            )
        own[last] = value
    return Params.model_validate(content)


def params_of(params: Params, own: Replication, place: Place, *, paint: bool = False) -> Params:
    """The settings of an arm's training, or of its painting."""
    arm, block = own.arms[place.arm], block_of(params, place.method)
    if arm.like is not None and not paint:
        raise AssertionError(f"{place.arm} is not trained")
    learned = own.arms[own.adapter(place.arm)]
    of_block = own.train | learned.set
    changes = {f"{block}.{name}": value for name, value in of_block.items()} | learned.data
    if own.subjects is None:
        changes[f"{_training_of(params, block)}.seed"] = place.replicate
    if paint:
        inner = f"tune.{place.method}" if block == "tune" else block
        changes |= {f"{inner}.{name}": value for name, value in arm.paint.items()}
    elif (start := own.start(place.arm)) is not None:
        changes[f"{_training_of(params, block)}.start"] = str(start_of(place.method, start).adapter)
    return changed(params, changes)


def start_params(params: Params, method: str, own: Replication, start: str) -> Params:
    """The settings of a start's training."""
    block = block_of(params, method)
    return changed(params, {f"{block}.{key}": value for key, value in own.starts[start].items()})


def _training_of(params: Params, block: str) -> str:
    return block if block == "tune" else f"{block}.train"


def encodings(params: Params, registered: Registered, wanted: Wanted) -> list[str]:
    """Pieces that encode what trainings learn from, one for all that learn from the same."""
    found: dict[str, str] = {}
    for (method, arm), numbers in wanted.adapters.items():
        own = registered.methods[method]
        if own.subjects is None and own.arms[arm].trained:
            place = Place(method=method, arm=arm, replicate=numbers[0])
            settings, _ = params_of(params, own, place).learned(method)
            start = own.start(arm)
            both = [(settings, own.arms[arm].data)]
            if start is not None:
                both.append((start_params(params, method, own, start).learned(method)[0], {}))
            for number, (chosen, data) in enumerate(both):
                told = {name: chosen.get(name) for name in data_of(method).ENCODED}
                piece = f"rows {method}/{start}/start" if number else f"rows {method}/{arm}"
                found.setdefault(json.dumps([method, told, data]), piece)
    return list(found.values())


def require(params: Params, registered: Registered, wanted: Wanted) -> None:
    """Refuse, before any work, settings and benchmarks that there are not.

    Raises:
        UserError: as told.
    """
    for method in sorted({method for method, _ in wanted.adapters}):
        own = registered.methods[method]
        params.learned(method)
        for start in own.starts:
            start_params(params, method, own, start)
        unknown = {
            key for arm in own.arms.values() for key in arm.data if key.split(".")[0] != "boundid"
        }
        if unknown:
            raise UserError(
                f"The claims file sets {sorted(unknown)[0]} for the data of an arm of {method}.",
                "Only BoundID's filters and boxes are made anew for an arm.",
                "Set keys of boundid alone.",
            )
    for (method, arm), asked in wanted.benchmarks.items():
        own = registered.methods[method]
        seed = replicates(registered, method, arm)[0]
        place = Place(method=method, arm=arm, replicate=seed)
        chosen = params_of(params, own, place, paint=True)
        if block_of(params, method) != "tune":
            _methods.method(chosen, method)
        for name in asked:
            of = own.benchmarks[name].of
            if of != ROWS:
                sets.load(of)


def require_data(registered: Registered, wanted: Wanted) -> None:
    """Refuse, before any work, claims of methods whose data is not there.

    Raises:
        UserError: as told.
    """
    for method in sorted({method for method, _ in wanted.adapters}):
        own = registered.methods[method]
        if own.subjects is not None:
            continue
        folders = [_methods.DATA / each for each in data_of(method).SETS]
        if any(arm.data for arm in own.arms.values()):  # rows that are filtered otherwise
            folders += [_paths.CANDIDATES, _paths.DETECTIONS]
        missing = [folder for folder in folders if not (folder / MANIFEST).is_file()]
        if missing:
            raise UserError(
                f"Claims of {method} were to be checked.",
                f"What it learns from is not there: {', '.join(map(str, missing))}.",
                "Make it: dvc repro boundid quadruples groups entities, or by `make claims`.",
            )
