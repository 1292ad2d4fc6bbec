"""What a Debian package or a wheel puts into an image, read without dpkg or pip."""

from __future__ import annotations

import io
import tarfile
import zipfile
from pathlib import Path
from typing import Final

from mlopt.errors import ImageFailed
from mlopt.image.apt import paragraphs
from mlopt.image.tree import Entry, Tree, inside

_AR: Final = b"!<arch>\n"
# Debian 12 keeps /lib, /bin … as links to /usr; its packages still carry files under the old names.
_MERGED: Final = ("bin", "lib", "lib32", "lib64", "libx32", "sbin")


def unpack_deb(path: Path) -> Tree:
    """The files of a .deb with /lib, /bin … moved below usr/. Raises `ImageFailed` for a damaged package."""
    try:
        members = _ar_members(path.read_bytes())
        name = next((name for name in members if name.startswith("data.tar")), "")
        return _deb_tree(_decompressed(name, members[name]) if name else b"", path)
    except (ValueError, KeyError, EOFError, OSError, tarfile.TarError) as error:
        raise _damaged(path, "Debian package", error) from error


def deb_control(path: Path) -> dict[str, str]:
    """What a .deb says of itself (package, source, version …), field names in lower case. Raises `ImageFailed`."""
    try:
        members = _ar_members(path.read_bytes())
        name = next(name for name in members if name.startswith("control.tar"))
        with tarfile.open(fileobj=io.BytesIO(_decompressed(name, members[name])), mode="r:") as tar:
            for member in tar:
                if inside(member.name) == "control" and (stream := tar.extractfile(member)):
                    return next(paragraphs(stream.read().decode()))
        raise ValueError("it has no control file")
    except (ValueError, KeyError, EOFError, OSError, StopIteration, tarfile.TarError) as error:
        raise _damaged(path, "Debian package", error) from error


def unpack_wheel(path: Path) -> Tree:
    """The files of a wheel, relative to site-packages. Scripts are dropped: an image has no use for them."""
    tree: Tree = {}
    try:
        with zipfile.ZipFile(path) as wheel:
            for info in wheel.infolist():
                if info.is_dir():
                    continue
                if name := _wheel_place(inside(info.filename)):
                    tree[name] = Entry("file", 0o644, wheel.read(info))
    except (ValueError, EOFError, OSError, NotImplementedError, zipfile.BadZipFile) as error:
        raise _damaged(path, "wheel", error) from error
    return tree


def _ar_members(data: bytes) -> dict[str, bytes]:
    if not data.startswith(_AR):
        raise ValueError("it does not begin as an ar archive")
    members, place = {}, len(_AR)
    while place < len(data):
        header = data[place : place + 60]
        if len(header) != 60 or header[58:] != b"`\n":
            raise ValueError(f"the ar header at byte {place} is damaged")
        size = int(header[48:58])
        place += 60
        if size < 0 or place + size > len(data):
            raise ValueError(f"the member at byte {place} is cut short")
        members[header[:16].decode("ascii").strip().rstrip("/")] = data[place : place + size]
        place += size + size % 2
    return members


def _decompressed(name: str, data: bytes) -> bytes:
    import bz2
    import gzip
    import lzma

    kind = name.partition(".tar")[2].lstrip(".")
    if kind == "":
        return data
    try:
        if kind == "zst":
            return _zstd(data)
        return {"xz": lzma.decompress, "gz": gzip.decompress, "bz2": bz2.decompress}[kind](data)
    except lzma.LZMAError as error:
        raise ValueError(f"{name} is damaged: {error}") from error
    except KeyError:
        raise ValueError(f"{name} is compressed in a way that is not known here") from None


def _zstd(data: bytes) -> bytes:
    try:
        import zstandard  # type: ignore[import-not-found,unused-ignore]
    except ImportError:
        raise ValueError("it is compressed with zstd; pip install zstandard") from None
    return bytes(zstandard.ZstdDecompressor().stream_reader(io.BytesIO(data)).read())


def _deb_tree(data: bytes, path: Path) -> Tree:
    if not data:
        raise ValueError("it has no data.tar")
    tree: Tree = {}
    with tarfile.open(fileobj=io.BytesIO(data), mode="r:") as tar:
        for member in tar:
            name = _merged(inside(member.name))
            if not name:
                continue
            if member.isdir():
                tree[name] = Entry("folder", member.mode & 0o755)
            elif member.issym():
                tree[name] = Entry("link", target=member.linkname)
            elif member.islnk():
                tree[name] = tree[_merged(inside(member.linkname))]
            elif member.isfile():
                stream = tar.extractfile(member)
                assert stream is not None
                # No set-user-id bits: nothing in the image may gain rights.
                tree[name] = Entry("file", 0o755 if member.mode & 0o111 else 0o644, stream.read())
            else:
                raise ValueError(f"{member.name} is a device or a pipe")
    return tree


def _merged(name: str) -> str:
    return f"usr/{name}" if name.split("/", 1)[0] in _MERGED else name


def _wheel_place(name: str) -> str:
    """Where a file of a wheel goes below site-packages; empty for what is dropped."""
    first, _, rest = name.partition("/")
    if not first.endswith(".data"):
        return name
    scheme, _, rest = rest.partition("/")
    return rest if scheme in ("purelib", "platlib") else ""


def _damaged(path: Path, kind: str, error: Exception) -> ImageFailed:
    return ImageFailed(
        f"The {kind} {path.name} cannot be unpacked: {error}",
        where=str(path),
        next="delete that file and run again; it is then fetched anew",
    )
