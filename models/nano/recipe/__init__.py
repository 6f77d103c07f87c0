"""Recipes of the nano checkpoints: how each folder beside this package was trained.

Run from `models/nano`, e.g. `python -m recipe.clip`; settings are in `params.yaml` there.
"""
