"""`python -m insitu.cli`."""

from insitu.cli import app

app()
