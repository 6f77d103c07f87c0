"""MLflow on a SQLite file of its own, without a server."""

from pathlib import Path

from mlflow import MlflowClient


def make(folder: Path) -> str:
    """The address of an initialized database, whose artifacts lie beside it; it takes seconds."""
    uri = f"sqlite:///{folder / 'mlflow.db'}"
    MlflowClient(uri).create_experiment("insitu", artifact_location=(folder / "artifacts").as_uri())
    return uri
