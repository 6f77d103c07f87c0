"""Typed records in shards: what steps hand to one another.

A folder holds `part-00000.parquet`, ... with the kept rows, `rejected-00000.parquet`, ... with what
filters refused, and `manifest.json`, written last: a folder without it is unfinished.
"""

from insitu.records.manifest import Manifest, load_manifest
from insitu.records.reading import read, read_rejected
from insitu.records.schema import row_format
from insitu.records.shards import OpenShard, ShardWriter
from insitu.records.types import Box, Image, Record, Rejected

__all__ = [
    "Box",
    "Image",
    "Manifest",
    "OpenShard",
    "Record",
    "Rejected",
    "ShardWriter",
    "load_manifest",
    "read",
    "read_rejected",
    "row_format",
]
