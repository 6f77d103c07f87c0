"""What pins the frozen encoders of a pipeline: their weights, settings and vocabularies."""

import hashlib
from pathlib import Path

from insitu.digest import file_digest
from insitu.params import Checkpoint

ENCODERS = {"VAE": "vae", "text encoders": "text_encoder", "tokenizers": "tokenizer"}
"""What is said of them, and how their subfolders' names begin."""


def encoder_digests(checkpoint: Checkpoint) -> dict[str, str]:
    """A digest of 16 hex digits for each of `ENCODERS`; of a hub id its name and commit."""
    if checkpoint.is_hub_id:
        return dict.fromkeys(ENCODERS, f"{checkpoint.path}@{checkpoint.revision}")
    root = Path(checkpoint.path)
    return {name: _digest(root, start) for name, start in ENCODERS.items()}


def _digest(root: Path, start: str) -> str:
    total = hashlib.sha256()
    for folder in sorted(path for path in root.glob(f"{start}*") if path.is_dir()):
        for path in sorted(file for file in folder.rglob("*") if file.is_file()):
            total.update(f"{path.relative_to(root).as_posix()}\0{file_digest(path)}\n".encode())
    return total.hexdigest()[:16]
