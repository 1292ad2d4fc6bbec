"""How layers are compressed: gzip, which every engine reads, or zstd, which is smaller and newer."""

from __future__ import annotations

import contextlib
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, Final, Protocol

from mlopt.errors import MissingDependency
from mlopt.request import Compression

MEDIA_TYPES: Final[dict[Compression, str]] = {
    "gzip": "application/vnd.oci.image.layer.v1.tar+gzip",
    "zstd": "application/vnd.oci.image.layer.v1.tar+zstd",
}
OLD_ENGINES: Final = "Docker 20.10 cannot pull layers of zstd, and old registries and scanners may refuse them"

# gzip's level 6 takes half as long again as 5 and saves one part in a hundred; 9 takes four times as long.
LEVELS: Final[dict[Compression, int]] = {"gzip": 5, "zstd": 19}
# Weights hardly compress: a low level saves seconds and costs about one part in a hundred.
MODEL_LEVELS: Final[dict[Compression, int]] = {"gzip": 1, "zstd": 3}

_GZIP: Final = b"\x1f\x8b"
_ZSTD: Final = b"\x28\xb5\x2f\xfd"


class Sink(Protocol):
    def write(self, data: bytes, /) -> object: ...


def decides_bytes(compression: Compression) -> str:
    """The version of what compresses. Raises `MissingDependency` where it is not installed."""
    return zlib.ZLIB_RUNTIME_VERSION if compression == "gzip" else ".".join(map(str, _zstandard().ZSTD_VERSION))


@contextmanager
def compressing(sink: Sink, compression: Compression, *, level: int) -> Iterator[Sink]:
    """What is written goes to `sink` compressed: the same bytes for the same bytes, whenever and wherever."""
    if compression == "zstd":
        compressor = _zstandard().ZstdCompressor(level=level, write_content_size=False)
        with compressor.stream_writer(sink, closefd=False) as stream:
            yield stream
        return
    import gzip

    target: Any = sink
    with gzip.GzipFile(filename="", mode="wb", compresslevel=level, fileobj=target, mtime=0) as stream:
        yield stream


@contextmanager
def decompressed(path: Path) -> Iterator[IO[bytes]]:
    """What is in a layer's file, by its first bytes: gzip, zstd, or a plain tar.

    Raises `OSError` or `EOFError` while reading what is damaged, whatever it is compressed with.
    """
    import gzip

    with contextlib.ExitStack() as stack:
        stream: Any = stack.enter_context(path.open("rb"))
        begin = stream.read(4)
        stream.seek(0)
        if begin.startswith(_GZIP):
            stream = _Checked(stack.enter_context(gzip.open(stream)), zlib.error)
        elif begin == _ZSTD:
            library = _zstandard()
            opened = library.ZstdDecompressor().stream_reader(stream, read_across_frames=True, closefd=False)
            stream = _Checked(opened, library.ZstdError)
        yield stream


class _Checked:
    """A stream whose own kind of error is an `OSError`."""

    def __init__(self, stream: Any, error: type[Exception]) -> None:
        self._stream, self._error = stream, error

    def read(self, size: int = -1) -> bytes:
        try:
            return bytes(self._stream.read(size))
        except self._error as error:
            raise OSError(str(error)) from error


def _zstandard() -> Any:
    try:
        import zstandard  # type: ignore[import-not-found,unused-ignore]
    except ImportError as error:
        raise MissingDependency(
            "Layers of zstd need the package zstandard, which is not installed.", next="pip install 'mlopt[zstd]'"
        ) from error
    return zstandard
