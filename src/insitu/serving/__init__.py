"""Answering requests with the champions."""
