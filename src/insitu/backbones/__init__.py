"""Frozen base models, loaded by `from_pretrained` from a folder or a pinned hub id."""
