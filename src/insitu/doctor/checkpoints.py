"""One checkpoint's folder: class, size, digest and card, read from JSON and weight files."""

import json
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from insitu.digest import weight_files, weights_digest
from insitu.doctor.report import CheckpointReport, Findings, Headline
from insitu.errors import UserError
from insitu.params import Checkpoint


def examine_checkpoint(name: str, checkpoint: Checkpoint, findings: Findings) -> CheckpointReport:
    """Look at the checkpoint `models.<name>`; what is wrong goes to `findings`."""
    folder = findings.attempt(lambda: _folder(name, checkpoint))
    if folder is None:
        return CheckpointReport(
            name=name, path=checkpoint.path, revision=checkpoint.revision, exists=False
        )
    digest = findings.attempt(lambda: weights_digest(folder))
    card = findings.attempt(lambda: _json(folder / "card.json"))
    if card is not None and digest is not None:
        findings.attempt(lambda: _check_card(folder, card, digest))
    return CheckpointReport(
        name=name,
        path=checkpoint.path,
        revision=checkpoint.revision,
        exists=True,
        model_class=findings.attempt(lambda: _model_class(folder)),
        weights_bytes=sum(file.stat().st_size for file in weight_files(folder)),
        weights_digest=digest,
        has_card=card is not None,
        headline=None if card is None else findings.attempt(lambda: _headline(folder, card)),
    )


def _folder(name: str, checkpoint: Checkpoint) -> Path:
    if checkpoint.is_hub_id:
        return _cached(name, checkpoint)
    folder = Path(checkpoint.path)
    if not folder.is_dir():
        raise UserError(
            f"`models.{name}` is the folder {folder}.",
            "There is no such folder.",
            "Correct the path, or build the checkpoint (make nano).",
        )
    return folder


def _cached(name: str, checkpoint: Checkpoint) -> Path:
    # Imported here: it takes half a second, and only hub ids need it.
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        snapshot = snapshot_download(
            checkpoint.path, revision=checkpoint.revision, local_files_only=True
        )
    except LocalEntryNotFoundError:
        raise UserError(
            f"`models.{name}` is {checkpoint.path} at {checkpoint.revision}.",
            "That commit is not in the hub's cache on this machine.",
            f"Run `hf download {checkpoint.path} --revision {checkpoint.revision}`.",
        ) from None
    return Path(snapshot)


def _model_class(folder: Path) -> str:
    """The pipeline's class, or the model's; for a folder of several models, theirs by folder."""
    own = _declared_class(folder / "model_index.json") or _declared_class(folder / "config.json")
    if own is not None:
        return own
    parts = sorted(path for path in folder.iterdir() if path.is_dir())
    declared = [(part.name, _declared_class(part / "config.json")) for part in parts]
    named = [f"{name}: {model_class}" for name, model_class in declared if model_class]
    if not named:
        raise UserError(
            f"The checkpoint {folder} was given.",
            "No model_index.json or config.json in it names a class.",
            "Save it with save_pretrained, or build it again.",
        )
    return ", ".join(named)


def _declared_class(file: Path) -> str | None:
    """The class in a diffusers or transformers configuration; None without file or entry."""
    config = _json(file) or {}
    if "_class_name" in config:
        return str(config["_class_name"])
    return ", ".join(map(str, config.get("architectures") or ())) or None


def _check_card(folder: Path, card: dict[str, Any], digest: str) -> None:
    if card.get("weights_digest", digest) != digest:
        raise UserError(
            f"{folder / 'card.json'} describes the weights {card['weights_digest']}.",
            f"The weights beside it are {digest}, so its figures are not theirs.",
            "Restore the weights the card was written for, or measure and write the card again.",
        )


def _headline(folder: Path, card: dict[str, Any]) -> Headline | None:
    if "headline" not in card:
        return None
    try:
        return Headline.model_validate(card["headline"])
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        key = ".".join(map(str, ("headline", *first["loc"])))
        raise UserError(
            f"{folder / 'card.json'} was read.",
            f"Its headline is not name, value and interval: {key}: {first['msg']}.",
            "Write the card again with the checkpoint's recipe.",
        ) from None


def _json(path: Path) -> dict[str, Any] | None:
    """A JSON object, or None when there is no such file."""
    if not path.is_file():
        return None
    try:
        content = json.loads(path.read_bytes())
    except ValueError as error:
        raise _unusable(path, f"It is not JSON: {error}.") from None
    if not isinstance(content, dict):
        raise _unusable(path, "It holds no JSON object.")
    return content


def _unusable(path: Path, why: str) -> UserError:
    return UserError(f"{path} was read.", why, "Build or download the checkpoint again.")
