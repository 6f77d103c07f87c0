"""S3 on this machine: moto's server, and the variables by which every client finds it."""

from collections.abc import Iterator

import pytest


@pytest.fixture(scope="session")
def _server() -> Iterator[str]:
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def object_store(_server: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """The address of an S3 server; clients without options reach it and nothing else."""
    import s3fs

    for name, value in {
        "AWS_ENDPOINT_URL": _server,
        "AWS_ACCESS_KEY_ID": "none",
        "AWS_SECRET_ACCESS_KEY": "none",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
    }.items():
        monkeypatch.setenv(name, value)
    s3fs.S3FileSystem.clear_instance_cache()
    return _server
