"""What the frozen encoders say, said once: latents and text embeddings beside their facts.

A folder holds `manifest.json` (written last), `index.parquet` (a row for each example) and
safetensors files, memory-mapped when read. The manifest's facts are all that the tensors follow
from; a folder whose facts are not today's is refused, naming what changed.
"""

import functools
import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, Self

import fsspec  # type: ignore[import-untyped]
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from insitu.digest import file_digest
from insitu.errors import UserError
from insitu.files import adopt, replace_text
from insitu.methods import Example, Method, Told
from insitu.work import work_folder

MANIFEST, INDEX = "manifest.json", "index.parquet"
FORMAT = 1
PART = 256
"""Examples, or prompts, of a file."""
AT_ONCE = 16
"""Examples encoded together."""
OPEN = 16
"""Files kept open."""
Facts = Mapping[str, str]


def digest_of(facts: Facts) -> str:
    """SHA-256 over facts, 64 hex digits."""
    return hashlib.sha256(json.dumps(dict(facts), sort_keys=True).encode()).hexdigest()


def encode(
    method: Method,
    backbone: Any,
    examples: Iterable[Example],
    target: Path,
    *,
    facts: Facts,
    root: Path | None = None,
) -> None:
    """Encode examples and their prompts, and publish the folder whole at `target`.

    Interrupted, the next call continues with the first file that is missing.

    Args:
        facts: all that the tensors follow from, by name.

    Raises:
        UserError: an example cannot be learned from; nothing is published.
    """
    place = {} if root is None else {"root": root}
    with work_folder("encode", digest_of(facts), **place) as work:
        folder = work / "encoded"
        folder.mkdir(exist_ok=True)
        rows: list[dict[str, Any]] = []
        for number, (bucket, part) in enumerate(_parts(_checked(examples))):
            path = folder / f"examples-{number:05d}.safetensors"
            if not path.exists():
                _save(path, _conditions(method, backbone, part))
            rows += [
                {
                    "id": example.id, "pool": example.pool, "bucket": bucket,
                    "prompt": example.prompt, "file": number, "place": place,
                }
                for place, example in enumerate(part)
            ]  # fmt: skip
        prompts = ["", *sorted({row["prompt"] for row in rows})]
        for number, start in enumerate(range(0, len(prompts), PART)):
            path = folder / f"texts-{number:05d}.safetensors"
            if not path.exists():
                _save(path, _texts(backbone, prompts[start : start + PART]))
        pq.write_table(pa.Table.from_pylist(rows), folder / INDEX)
        files = {
            path.name: {"bytes": path.stat().st_size, "sha256": file_digest(path)}
            for path in sorted(folder.iterdir())
            if path.name != MANIFEST
        }
        told = {"format": FORMAT, "facts": dict(facts), "prompts": prompts, "files": files}
        replace_text(folder / MANIFEST, json.dumps(told, indent=2, ensure_ascii=False) + "\n")
        adopt(folder, target)


class Encoded:
    """Encoded examples, read as they are asked for.

    Attributes:
        ids, pools, buckets, prompts: of each example.
        blocks: the number of the file that each lies in.
    """

    def __init__(self, folder: str, manifest: Mapping[str, Any], cache: Path | None) -> None:
        self.folder, self._cache = folder, cache
        index = pq.read_table(_local(f"{folder}/{INDEX}", cache)).to_pydict()
        self.ids: list[str] = index["id"]
        self.pools: list[str] = index["pool"]
        self.buckets: list[str] = index["bucket"]
        self.prompts: list[str] = index["prompt"]
        self.blocks: list[int] = index["file"]
        self._places: list[int] = index["place"]
        self._texts = {prompt: row for row, prompt in enumerate(manifest["prompts"])}
        self.files: Mapping[str, Any] = manifest["files"]
        self._opened = functools.lru_cache(maxsize=OPEN)(self._read)

    @classmethod
    def open(cls, folder: str | Path, facts: Facts, *, cache: Path | None = None) -> Self:
        """Open a folder here or at a URL (s3://bucket/path).

        Args:
            facts: what it must have been encoded from.
            cache: where files from a URL are kept; by default a passing folder.

        Raises:
            UserError: it is not there, not whole, or was encoded from something else.
        """
        manifest = _manifest(str(folder), cache)
        then, now = manifest["facts"], dict(facts)
        changed = [name for name in sorted({*then, *now}) if then.get(name) != now.get(name)]
        if changed:
            told = "; ".join(
                f"{name} was {then.get(name, 'nothing')}, is {now.get(name, 'nothing')}"
                for name in changed
            )
            raise UserError(
                f"The encoded examples in {folder} were to be trained on.",
                f"They were encoded from something else: {told}.",
                f"Encode them again: {_command(folder)}.",
            )
        return cls(str(folder), manifest, cache)

    def __len__(self) -> int:
        return len(self.ids)

    def told(self, rows: Sequence[int]) -> Told:
        """What the model is told of examples of one bucket, [B, ...] by name, without text."""
        found = [
            {name: values[self._places[row]] for name, values in self._file(row).items()}
            for row in rows
        ]
        return {name: torch.stack([one[name] for one in found]) for name in found[0]}

    def latent_shape(self, row: int) -> tuple[int, int, int]:
        """Channels, height and width of an example's latents."""
        channels, height, width = self._file(row)["z_0"].shape[1:]
        return channels, height, width

    def text(self, prompts: Sequence[str]) -> dict[str, Tensor]:
        """Embeddings of prompts, [B, ...] by name; "" is always there."""
        found = []
        for prompt in prompts:
            number, place = divmod(self._texts[prompt], PART)
            opened = self._opened(f"texts-{number:05d}.safetensors")
            found.append({name: values[place] for name, values in opened.items()})
        return {name: torch.stack([one[name] for one in found]) for name in found[0]}

    def _file(self, row: int) -> dict[str, Tensor]:
        return self._opened(f"examples-{self.blocks[row]:05d}.safetensors")

    def _read(self, name: str) -> dict[str, Tensor]:
        path = _local(f"{self.folder}/{name}", self._cache)
        wanted = int(self.files[name]["bytes"])
        if path.stat().st_size != wanted:
            raise UserError(
                f"{self.folder}/{name} was to be read.",
                f"It has {path.stat().st_size} bytes and was written with {wanted}.",
                "Restore the folder (dvc checkout, dvc pull), or encode it again.",
            )
        # Tensors are views of the mapped file: only what is asked for is ever read.
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118


def facts_of(folder: Path) -> Facts | None:
    """What a whole folder was encoded from; None where there is none."""
    try:
        facts: Facts = _manifest(str(folder), None)["facts"]
    except UserError:
        return None
    return facts


def _manifest(folder: str, cache: Path | None) -> dict[str, Any]:
    try:
        manifest: dict[str, Any] = json.loads(_local(f"{folder}/{MANIFEST}", cache).read_text())
        assert manifest["format"] == FORMAT
    except (OSError, ValueError, KeyError, AssertionError):
        raise UserError(
            f"Encoded examples were looked for in {folder}.",
            f"There is no {MANIFEST} of format {FORMAT}, so none were encoded, or not to the end.",
            f"Encode them: {_command(folder)}.",
        ) from None
    return manifest


def _local(url: str, cache: Path | None) -> Path:
    if "://" not in url:
        return Path(url)
    kept = {"cache_storage": str(cache) if cache else "TMP"}
    return Path(str(fsspec.open_local(f"filecache::{url}", filecache=kept)))


def _checked(examples: Iterable[Example]) -> Iterator[Example]:
    known = set()
    for example in examples:
        why = None
        if example.id in known:
            why = "Another has the same id; their noise would be the same."
        elif not example.prompt.strip():
            why = "Its prompt is empty, so it would teach that text means nothing."
        elif example.mask is None:
            pass
        elif example.mask.shape != example.image.shape[:2]:
            why = f"Its mask is {example.mask.shape}, its picture {example.image.shape[:2]}."
        elif not (example.mask > 127).any():
            why = "Its mask is empty: there is nothing to fill."
        if why:
            raise UserError(
                f"The example {example.id!r} was to be encoded.",
                why,
                "Correct its record, or reject it where it is made, with this reason.",
            )
        known.add(example.id)
        yield example


def _parts(examples: Iterable[Example]) -> Iterator[tuple[str, list[Example]]]:
    """Examples of one bucket each, `PART` at most."""
    waiting: dict[str, list[Example]] = {}
    for example in examples:
        height, width = example.image.shape[:2]
        part = waiting.setdefault(f"{height}x{width}", [])
        part.append(example)
        if len(part) == PART:
            yield f"{height}x{width}", part
            waiting[f"{height}x{width}"] = []
    yield from ((bucket, part) for bucket, part in waiting.items() if part)


def _conditions(method: Method, backbone: Any, examples: Sequence[Example]) -> dict[str, Tensor]:
    found = []
    with torch.no_grad():
        for start in range(0, len(examples), AT_ONCE):
            some = examples[start : start + AT_ONCE]
            told = method.condition(backbone, some)
            for name, values in told.items():
                for example, value in zip(some, values, strict=True):
                    if not torch.isfinite(value).all():
                        raise UserError(
                            f"The example {example.id!r} was encoded.",
                            f"Its {name} is not finite.",
                            "Look at its picture; in half precision, use bfloat16 or float32.",
                        )
            found.append(told)
    return {name: torch.cat([told[name] for told in found]) for name in found[0]}


def _texts(backbone: Any, prompts: Sequence[str]) -> dict[str, Tensor]:
    found = []
    for start in range(0, len(prompts), AT_ONCE):
        text = backbone.encode_text(tuple(prompts[start : start + AT_ONCE]))
        found.append({field.name: getattr(text, field.name) for field in fields(text)})
    return {name: torch.cat([text[name] for text in found]) for name in found[0]}


def _save(path: Path, tensors: Mapping[str, Tensor]) -> None:
    temporary = path.with_suffix(".tmp")
    save_file({name: value.cpu().contiguous() for name, value in tensors.items()}, temporary)
    temporary.replace(path)


def _command(folder: str | Path) -> str:
    """What encodes into a folder: a method's lies beside the folder of the subjects'."""
    *_, parent, name = str(folder).rstrip("/").split("/")
    return "dvc repro encode" if parent == "subjects" else f"dvc repro prepare@{name}"
