"""Stage `images`: your own pictures as records; what cannot be used is set aside with its reason.

Run from the repository's root: `python -m pipelines.images`.
"""

import hashlib
import sys
from collections import Counter
from pathlib import Path

from insitu.files import replacing
from insitu.params import Params
from insitu.records import Rejected, ShardWriter
from insitu.records.pictures import Picture
from insitu.synthesis.runner import batched
from insitu.synthesis.sources import pictures
from pipelines import _step
from pipelines._paths import IMAGES

EMPTY = {"README.md"}
"""What lies in the folder as long as nobody has put a picture there."""


def main(params: Params, report: _step.Report) -> None:
    settings = params.pictures
    digest = hashlib.sha256(settings.model_dump_json().encode()).hexdigest()
    folder = Path(settings.path)
    unused = folder.is_dir() and {path.name for path in folder.iterdir()} <= EMPTY
    found = iter(()) if unused else pictures(settings)
    refused: Counter[str] = Counter()
    with replacing(IMAGES) as fresh:
        writer = ShardWriter(fresh, Picture, digest)
        shards = 0
        for rows in batched(found, params.runner.shard):
            with writer.shard(shards) as shard:
                for row in rows:
                    if isinstance(row, Rejected):
                        shard.reject(
                            row.record, filter=row.filter, score=row.score, reason=row.reason
                        )
                        refused[row.filter] += 1
                    else:
                        shard.keep(row)
            shards += 1
        manifest = writer.finish(shards)
    if unused:
        print(f"There is no picture in {folder}: nothing to read.")
    for name, count in sorted(refused.items()):
        print(f"set aside, {name}: {count}")
    print(f"{manifest.rows} pictures")
    report({"pictures": manifest.rows, **{f"set aside: {k}": v for k, v in refused.items()}})


if __name__ == "__main__":
    sys.exit(_step.run(main))
