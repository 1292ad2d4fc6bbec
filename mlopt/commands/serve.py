"""`mlopt serve BUNDLE`: the bundle's own server on this machine, from its image or in this Python."""

from __future__ import annotations

import os
import signal
import socket
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mlopt.bundle import Bundle


@click.command(name="serve")
@click.argument("bundles", nargs=-1, required=True, metavar="BUNDLE…", type=click.Path(path_type=Path))
@click.option("--port", type=click.IntRange(0, 65535), default=8080, help="0 takes a free one.  [default: 8080]")
@click.option(
    "--engine",
    type=click.Choice(["python", "auto", "podman", "docker", "none"]),
    default="python",
    help="What runs it: this Python, or the image in an engine; none: the image's own files, unpacked.",
)
def command(bundles: tuple[Path, ...], port: int, engine: str) -> None:
    """Serve BUNDLE on 127.0.0.1 until interrupted: Open Inference Protocol v2, the routes of TensorFlow Serving and
    TorchServe, /metrics, and a page at /. MLOPT_SERVE_… in the environment sets batches, limits, API keys, TLS.
    Several bundles are served by one process, each under its own name.

    \b
      mlopt serve out/squeezenet1_0/host
      mlopt serve out/squeezenet1_0/host --engine podman
      mlopt serve out/squeezenet1_0/host out/detector/host
    """
    from mlopt.bundle import Bundle
    from mlopt.errors import ImageFailed, Misused

    all_found = [Bundle.load(bundle) for bundle in bundles]
    if engine == "python":
        _in_this_python(all_found, port)
        return
    if len(all_found) > 1:
        raise Misused(
            "An image holds one model, and several bundles were named.",
            next="mlopt serve BUNDLE… without --engine, or a folder of models mounted into one image: docs/serving.md",
        )
    (found,) = all_found
    if found.image is None:
        raise ImageFailed(
            "The bundle holds no image.",
            where=str(found.path),
            next="mlopt serve BUNDLE, or compile again with --image",
        )
    from mlopt.image.run import serve_image

    with serve_image(found.image, port=port, engine=engine) as served:  # type: ignore[arg-type]
        click.echo(f"{served.url}  ({served.engine}, ready after {served.start_seconds:.2f} s)  Ctrl-C stops it")
        stopped = threading.Event()
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda number, frame: stopped.set())
        stopped.wait()


def _in_this_python(bundles: Sequence[Bundle], port: int) -> None:
    from mlopt import registry
    from mlopt.errors import MissingDependency
    from mlopt.step import installed

    for runtime in dict.fromkeys(bundle.runtime for bundle in bundles):
        wanted = registry.load("mlopt.runners", runtime).distributions
        if missing := [name for name in wanted if not installed(name)]:
            raise MissingDependency(
                f"The model in this bundle runs in {runtime}, and {missing[0]} is not installed.",
                next=f"pip install 'mlopt[{runtime}]', or serve the image: mlopt serve BUNDLE --engine auto",
            )
    if missing := [name for name in ("httptools", "starlette", "uvicorn") if not installed(name)]:
        raise MissingDependency(
            f"The server needs {missing[0]}, which is not installed.",
            next="pip install 'mlopt[serve]', or serve the image: mlopt serve BUNDLE --engine auto",
        )
    folders = [bundle.path / "model" for bundle in bundles]
    if len(folders) > 1:
        _check_names(folders)
    port = _free(port)
    click.echo(f"serving {', '.join(map(str, folders))} on http://127.0.0.1:{port}  Ctrl-C stops it", err=True)
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"
    server = [sys.executable, "-m", "mlopt.serve", *(f"--model-dir={folder}" for folder in folders)]
    server += ["--host", "127.0.0.1", "--port", str(port)]
    os.execv(sys.executable, server)  # noqa: S606 - one process: a signal to mlopt is a signal to the server


def _check_names(folders: Sequence[Path]) -> None:
    """Raises `Misused` where two would be asked for by one name and version."""
    from mlopt.errors import Misused
    from mlopt.serve.model import NotServable
    from mlopt.serve.repository import find_models

    try:
        find_models(folders)
    except NotServable as error:
        raise Misused(
            f"These cannot be served together: {error}.",
            next="compile one with another [model] name or version in mlopt.toml",
        ) from error


def _free(port: int) -> int:
    """`port`, or any free one for 0. Raises `Misused` when something else listens there."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            from mlopt.errors import Misused

            raise Misused(
                f"Port {port} cannot be used: {error.strerror}.",
                next="another one with --port N; --port 0 takes a free one",
            ) from error
        found: int = probe.getsockname()[1]
        return found
