"""Measuring models and methods; nothing here trains."""
