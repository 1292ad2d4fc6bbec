"""A repository of an OCI registry: manifests, blobs, tags and referrers, by the distribution specification 1.1."""

from __future__ import annotations

import hashlib
import io
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Final
from urllib.parse import urlencode, urljoin

from mlopt.errors import RegistryFailed
from mlopt.image.layout import INDEX, MANIFEST, Descriptor
from mlopt.image.reference import Reference
from mlopt.image.session import TRIES, Passing, Reply, Session

# A larger blob goes in pieces, so that a lost connection costs one of them where the registry can go on.
PIECE: Final = 16 << 20
# What is read whole into memory: manifests, configs, results; never layers.
_LARGEST: Final = 32 << 20
_DOCKER: Final = (
    "application/vnd.docker.distribution.manifest.list.v2+json",
    "application/vnd.docker.distribution.manifest.v2+json",
)
_ACCEPT: Final = ", ".join((INDEX, MANIFEST, *_DOCKER))
_BYTES: Final = {"Content-Type": "application/octet-stream"}


@dataclass(frozen=True, slots=True)
class Manifest:
    """A manifest or index as the registry keeps it: `data` is what `digest` is of."""

    digest: str
    media_type: str
    data: bytes

    @property
    def content(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.data)
        return found

    @property
    def descriptor(self) -> Descriptor:
        return {"mediaType": self.media_type, "digest": self.digest, "size": len(self.data)}


@dataclass(frozen=True, slots=True)
class Repository:
    """`reference` names the repository; its tag and digest are not looked at."""

    reference: Reference
    session: Session

    @classmethod
    def open(cls, reference: Reference, *, say: Callable[[str], None] = lambda line: None) -> Repository:
        return cls(reference, Session(reference.host, reference.name, say))

    def manifest(self, wanted: str) -> Manifest:
        """By tag or digest. Raises `RegistryFailed` when it is not there."""
        if found := self.find(wanted):
            return found
        raise RegistryFailed(
            "The registry has no such image.",
            where=str(self.reference.at(wanted)),
            next=f"mlopt image ls {self.reference.repository}",
        )

    def find(self, wanted: str) -> Manifest | None:
        """As `manifest`, or None. Its bytes are checked against the digest that they were asked by."""
        reply = self.session.request("GET", f"manifests/{wanted}", headers={"Accept": _ACCEPT}, expect=(200, 404))
        if reply.status == 404:
            return None
        digest = f"sha256:{hashlib.sha256(reply.body).hexdigest()}"
        if wanted.startswith("sha256:") and digest != wanted:
            raise self._damaged(wanted, digest)
        self._parsed(reply)
        return Manifest(digest, reply.headers.get_content_type(), reply.body)

    def read(self, descriptor: Mapping[str, Any]) -> bytes:
        """A small blob, checked. Raises `RegistryFailed` when it is absent, too large or not what its digest says."""
        digest = str(descriptor["digest"])
        if descriptor["size"] > _LARGEST:
            raise RegistryFailed(
                f"A blob of {descriptor['size']} bytes is not read whole.", where=str(self.reference.at(digest))
            )
        data = self.session.request("GET", f"blobs/{digest}").body
        found = f"sha256:{hashlib.sha256(data).hexdigest()}"
        if found != digest:
            raise self._damaged(digest, found)
        return data

    def download(self, descriptor: Mapping[str, Any], into: io.BufferedRandom) -> None:
        """A blob of any size into a file, checked; a broken line is tried again. Raises `RegistryFailed`."""
        digest, size = str(descriptor["digest"]), int(descriptor["size"])

        def once() -> None:
            into.seek(0)
            into.truncate()
            self.session.attempt("GET", f"blobs/{digest}", sink=into)
            if into.tell() < size:
                raise Passing(f"the line broke after {into.tell()} of {size} bytes", None, self._damaged(digest, ""))

        self.session.retrying(once)
        into.seek(0)
        found = f"sha256:{hashlib.file_digest(into, 'sha256').hexdigest()}"
        if found != digest:
            raise self._damaged(digest, found)

    def tags(self) -> tuple[str, ...]:
        """Every tag, sorted. Raises `RegistryFailed` when there is no such repository."""
        found = self._listed("tags/list?n=1000", "tags")
        if found is None:
            raise RegistryFailed(
                "The registry has no such repository.",
                where=self.reference.repository,
                next=f"push something there: mlopt image push BUNDLE {self.reference.repository}:1.0.0",
            )
        return tuple(sorted(set(found)))

    def put(self, data: bytes, *, media_type: str, wanted: str) -> bool:
        """Write a manifest under a tag or its digest. Whether the registry itself lists it for its subject.

        Raises `RegistryFailed` when it refuses, or keeps something else than was sent.
        """
        headers = {"Content-Type": media_type}
        reply = self.session.request("PUT", f"manifests/{wanted}", headers=headers, body=data, expect=(200, 201))
        digest = f"sha256:{hashlib.sha256(data).hexdigest()}"
        kept = reply.headers.get("Docker-Content-Digest", digest)
        if kept != digest:
            raise self._damaged(digest, kept)
        return "OCI-Subject" in reply.headers

    def referrers(self, digest: str) -> list[Descriptor]:
        """What says that it is about `digest`; from the registry's own list, else from the tag that stands for it."""
        found = self._listed(f"referrers/{digest}", "manifests")
        if found is None:
            kept = self.find(fallback_tag(digest))
            found = kept.content.get("manifests") if kept else None
        return found or []

    def has_blob(self, digest: str) -> bool:
        """A registry that says where a blob lies has it; to go there would be to fetch it."""
        expect = (200, 301, 302, 303, 307, 308, 404)
        return self.session.request("HEAD", f"blobs/{digest}", expect=expect).status != 404

    def add_bytes(self, data: bytes, *, media_type: str) -> Descriptor:
        """Upload a small blob, unless it is there; its descriptor."""
        digest = f"sha256:{hashlib.sha256(data).hexdigest()}"
        self.session.retrying(lambda: self._whole(data, digest))
        return {"mediaType": media_type, "digest": digest, "size": len(data)}

    def add_file(self, path: Path, descriptor: Mapping[str, Any]) -> bool:
        """Upload a checked file, unless it is there; whether it had to be.

        A connection that is lost goes on where the registry stands, or begins the blob anew where it cannot say so.
        """
        digest, size = str(descriptor["digest"]), int(descriptor["size"])
        with path.open("rb") as source:
            if size <= PIECE:
                data = source.read()
                return self.session.retrying(lambda: self._whole(data, digest))
            if self.has_blob(digest):
                return False
            upload = _Upload(self._begin())
            while upload.at < size:
                self.session.retrying(lambda: self._piece(upload, source))
            return self.session.retrying(lambda: self._close(upload.location, b"", digest))

    def _listed(self, url: str, key: str) -> list[Any] | None:
        """Everything of a list that may come in pages; None where the registry has no such list."""
        found: list[Any] = []
        while url:
            reply = self.session.request("GET", url, headers={"Accept": "*/*"}, expect=(200, 404))
            if reply.status == 404:
                return None
            found += self._parsed(reply).get(key) or ()
            link = re.match(r"<([^>]+)>", reply.headers.get("Link", ""))
            url = urljoin(urljoin(self.session.address, url), link[1]) if link else ""
        return found

    def _parsed(self, reply: Reply) -> dict[str, Any]:
        try:
            found = json.loads(reply.body)
            if isinstance(found, dict):
                return found
        except ValueError:
            pass
        raise RegistryFailed(
            f"{self.reference.host} answers, and not as a registry does.",
            where=self.reference.repository,
            next="look at the host's name, and at what stands between it and here",
        )

    def _whole(self, data: bytes, digest: str) -> bool:
        return not self.has_blob(digest) and self._close(self._begin(), data, digest)

    def _piece(self, upload: _Upload, source: IO[bytes]) -> None:
        if not upload.known:
            self._find_place(upload)
        source.seek(upload.at)
        piece = source.read(PIECE)
        headers = {**_BYTES, "Content-Range": f"{upload.at}-{upload.at + len(piece) - 1}"}
        upload.known = False
        reply = self.session.attempt("PATCH", upload.location, headers=headers, body=piece, expect=(202,))
        upload.location, upload.at, upload.known = self._next(reply, upload.location), upload.at + len(piece), True

    def _find_place(self, upload: _Upload) -> None:
        """Where an upload goes on after a piece was lost: its end there, or a new beginning.

        Raises `RegistryFailed` when it had to begin anew too often.
        """
        reply = self.session.request("GET", upload.location, expect=(204, 400, 404, 416))
        end = re.fullmatch(r"(?:bytes=)?0-([0-9]+)", reply.headers.get("Range", ""))
        upload.known = True
        if reply.status == 204 and end:
            upload.location, upload.at = self._next(reply, upload.location), int(end[1]) + 1
            return
        if not upload.beginnings:
            raise RegistryFailed(
                "The connection to the registry breaks again and again in the same blob.",
                where=self.reference.repository,
                next="push again: blobs that are there already are not sent twice",
            )
        self.session.say(f"{self.reference.host}: the registry cannot go on with this blob; it is sent anew")
        upload.location, upload.at, upload.beginnings = self._begin(), 0, upload.beginnings - 1

    def _begin(self) -> str:
        reply = self.session.request("POST", "blobs/uploads/", headers=_BYTES, body=b"", expect=(202,))
        return self._next(reply, self.session.address)

    def _next(self, reply: Reply, before: str) -> str:
        """The address of the next request: it may be relative, and seldom stays the same."""
        return urljoin(urljoin(self.session.address, before), reply.headers.get("Location", before))

    def _close(self, location: str, data: bytes, digest: str) -> bool:
        """The last request of an upload, with what is left of it. An answer that got lost is asked for by the blob."""
        url = location + ("&" if "?" in location else "?") + urlencode({"digest": digest})
        try:
            self.session.attempt("PUT", url, headers=_BYTES, body=data, expect=(201, 204))
        except Passing:
            if not self.has_blob(digest):
                raise
        return True

    def _damaged(self, wanted: str, found: str) -> RegistryFailed:
        return RegistryFailed(
            f"What the registry keeps is not what its digest says: sha256 {found[7:19]}…, asked for {wanted[7:19]}…."
            if found
            else f"The registry does not give the whole of sha256:{wanted[7:19]}….",
            where=str(self.reference.at(wanted)),
            next="push it again; if that changes nothing, the registry's storage is damaged",
        )


@dataclass(slots=True)
class _Upload:
    """Where an upload in pieces stands. `known`: the registry said so; `beginnings`: how often it may begin anew."""

    location: str
    at: int = 0
    known: bool = True
    beginnings: int = TRIES


def fallback_tag(digest: str) -> str:
    """The tag under which referrers are listed where a registry keeps no list of its own."""
    return digest.replace(":", "-")
