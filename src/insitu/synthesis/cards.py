"""The card of a data set: a `README.md` beside its shards, which `datasets` and a reader open.

Its head says which files are what, so that `datasets.load_dataset(folder)` gives the kept rows with
their pictures decoded, and `load_dataset(folder, "rejected")` the refused ones. The rest is counted
from the shards, without their pictures and a group of rows at a time. Equal shards, equal cards.
"""

import io
import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from ruamel.yaml import YAML

from insitu.files import replace_text
from insitu.records import Manifest, Record, load_manifest
from insitu.records.shards import ROWS_PER_GROUP
from insitu.synthesis.columns import Column, Numbers, Words, columns, describe

CARD = "README.md"
KEPT, REJECTED = "kept", "rejected"
DRAWN = "CC0-1.0"
"""The licence of what the world's code drew."""
UNSAID = "unknown"
_KNOWN_TO_HUB = re.compile(
    r"cc0-1\.0|cc-by(-nc)?(-sa|-nd)?-[2-4]\.0|mit|apache-2\.0|pddl|odbl|odc-by|unknown"
)
_MODELS, _SPLIT = "lineage.models.list.element", "split"
_SHOWN = 10
"""Most frequent words that are listed."""


def write(
    folder: Path,
    *,
    title: str,
    text: str,
    record_type: type[Record],
    path: str,
    filters: Sequence[str],
    settings: Mapping[str, Any],
    licences: Mapping[str, str],
) -> None:
    """Write the card of a finished folder of shards.

    Args:
        text: what it is, in a sentence or two.
        path: where the folder is published, as `dvc get` asks for it.
        filters: in their order, also those that refused nothing.
        settings: what the filters and models were told, as in params.yaml.
        licences: each with what it is the licence of.
    """
    manifest = load_manifest(folder)
    seen = _Seen(columns(record_type))
    for shard in manifest.shards:
        seen.read(folder / shard.file, kept=True)
        if shard.rejected:
            seen.read(folder / shard.rejected.file, kept=False)
    refused = dict.fromkeys(filters, 0) | manifest.rejected_by_filter
    parts = [
        _head(title, manifest, licences),
        f"# {title}\n\n{text}",
        _opening(path, manifest),
        f"## What a row is\n\n{describe(record_type)}",
        _counts(manifest, refused, seen),
        _statistics(seen),
        f"## Settings\n\n```yaml\n{_yaml(settings)}```" if settings else "",
        _list("Models that drew or judged the rows", sorted(seen.models)),
        _list("Licence", [f"{name}: {what}" for name, what in licences.items()]),
        _version(path, manifest),
    ]
    replace_text(folder / CARD, "\n\n".join(part for part in parts if part) + "\n")


def licences_in(folder: Path) -> list[str]:
    """The licences of the pictures in a finished folder of `Picture` records, sorted."""
    found = set()
    for shard in load_manifest(folder).shards:
        for row in _rows(folder / shard.file, ["licence"]):
            found.add(row["licence"] or UNSAID)
    return sorted(found)


class _Seen:
    """What is counted while the shards pass by; memory does not grow with them."""

    def __init__(self, picked: Sequence[Column]) -> None:
        self.picked = {
            column: (Words if column.words else Numbers)(column.shown) for column in picked
        }
        self.splits: dict[bool, Counter[str]] = {True: Counter(), False: Counter()}
        self.models: set[str] = set()

    def read(self, file: Path, *, kept: bool) -> None:
        wanted = [_SPLIT, _MODELS, *(column.parquet for column in self.picked if kept)]
        for row in _rows(file, wanted):
            self.models.update(row.get("lineage", {}).get("models", ()))
            if _SPLIT in row:
                self.splits[kept][row[_SPLIT]] += 1
            if kept:
                for column, seen in self.picked.items():
                    seen.add(column.values(row))


def _rows(file: Path, wanted: Sequence[str]) -> Iterator[dict[str, Any]]:
    """The rows of a file with these columns only, of which it need not have all."""
    with pq.ParquetFile(file) as parquet:
        there = {parquet.schema.column(i).path for i in range(len(parquet.schema))}
        names = [name for name in dict.fromkeys(wanted) if name in there]
        for group in range(parquet.num_row_groups if names else 0):
            yield from parquet.read_row_group(group, columns=names, use_threads=False).to_pylist()


def _head(title: str, manifest: Manifest, licences: Mapping[str, str]) -> str:
    names = sorted({name.lower() for name in licences})
    known = [name for name in names if _KNOWN_TO_HUB.fullmatch(name)]
    others = [name for name in names if name not in known]
    licence = [*known, *(["other"] if others else [])] or [UNSAID]
    facts: dict[str, Any] = {"license": licence[0] if len(licence) == 1 else licence}
    if others:
        facts["license_name"] = ", ".join(others)
    files = [(KEPT, "part-*.parquet")]
    if manifest.rejected_rows:
        files.append((REJECTED, "rejected-*.parquet"))
    facts["pretty_name"] = title
    facts["configs"] = [
        {
            "config_name": name,
            **({"default": True} if name == KEPT else {}),
            "data_files": [{"split": name, "path": pattern}],
            # Else it would be that of a file's first group, which `datasets` cannot do with 0 rows.
            "batch_size": ROWS_PER_GROUP,
        }
        for name, pattern in files
    ]
    return f"---\n{_yaml(facts)}---"


def _opening(path: str, manifest: Manifest) -> str:
    lines = ["from datasets import load_dataset", ""]
    if manifest.rows:  # it opens nothing that is empty
        lines.append(f'kept = load_dataset("{path}")["{KEPT}"]')
    if manifest.rejected_rows:
        lines.append(f'refused = load_dataset("{path}", "{REJECTED}")["{REJECTED}"]')
    return "\n".join(
        [
            "## Opening it",
            "",
            "```python",
            *lines,
            "```",
            "",
            "Pictures come decoded. Train, validation and test are in the column `split`, not in"
            " files of their own: take the rows you mean.",
        ]
    )


def _counts(manifest: Manifest, refused: Mapping[str, int], seen: _Seen) -> str:
    rows = [("kept", manifest.rows)]
    rows += [(f"refused by `{name}`", count) for name, count in refused.items()]
    rows.append(("set aside, since no row could be made", len(manifest.set_aside)))
    parts = ["## Counts", _table(["", "rows"], [[name, f"{count:,}"] for name, count in rows])]
    splits = sorted({*seen.splits[True], *seen.splits[False]})
    if splits:
        lines = [[name, *(f"{seen.splits[k][name]:,}" for k in (True, False))] for name in splits]
        parts.append(_table(["split", "kept", "refused"], lines))
    return "\n\n".join(parts)


def _statistics(seen: _Seen) -> str:
    numbers = [each for each in seen.picked.values() if isinstance(each, Numbers) and each.count]
    words = [each for each in seen.picked.values() if isinstance(each, Words) and each.counts]
    parts = ["## Statistics of the kept rows"] if numbers or words else []
    if numbers:
        head = ["", "values", "mean", "5%", "median", "95%"]
        parts.append(_table(head, [each.line() for each in numbers]))
    if any(each.sampled for each in numbers):
        parts.append("Percentiles are those of a sample where there are more values than it holds.")
    if words:
        parts.append(
            _table(["", "different", "most frequent"], [each.line(_SHOWN) for each in words])
        )
    return "\n\n".join(parts)


def _version(path: str, manifest: Manifest) -> str:
    name = path.rpartition("/")[2]
    return (
        "## This version\n\n"
        f"```\ndvc get <repository> {path} --rev <tag or commit>\n```\n\n"
        f"`insitu data list` shows the tags that name it, `insitu data tag {name} NAME` makes one."
        f" The folder's hash is DVC's; its rows were made by insitu {manifest.insitu_version} from"
        f" inputs and settings with the digest `{manifest.input_digest[:16]}`."
    )


def _list(head: str, lines: Sequence[str]) -> str:
    return "\n".join([f"## {head}", "", *(f"- {line}" for line in lines)]) if lines else ""


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    cells = [[" ".join(cell.replace("|", "\\|").split()) for cell in line] for line in lines]
    return "\n".join(f"| {' | '.join(line)} |" for line in cells)


def _yaml(content: Mapping[str, Any]) -> str:
    """Plain YAML in the order given, tuples as lists."""
    writer, text = YAML(), io.StringIO()
    writer.width = 4096
    writer.indent(mapping=2, sequence=4, offset=2)
    writer.dump(json.loads(json.dumps(content)), text)
    return text.getvalue()
