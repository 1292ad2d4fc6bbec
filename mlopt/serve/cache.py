"""Answers kept: the same tensors to the same model are computed once, as long as there is room for the answer."""

from __future__ import annotations

import hashlib
import sys
import threading
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import numpy as np

from mlopt.serve.call import Call
from mlopt.serve.metrics import ModelMetrics

# Told to the client: hit or miss, in this header (gRPC: metadata of the same name in lower case).
HEADER: Final = "X-Cache"
_ENTRY: Final = 512  # bytes of an entry beside its arrays' own: key, names, arrays' heads


class Cache:
    """The answers of one model, at most `most` bytes of them; the one that was asked for longest ago goes first.

    Outputs are kept, not what was written to a client: another protocol, id or format may ask for them. May be used
    from several threads.
    """

    def __init__(self, most: int, *, digest: bytes, metrics: ModelMetrics) -> None:
        """`digest` is that of the model's files: it is in every key, so that no model can answer for another."""
        self._most, self._digest, self._metrics = most, digest, metrics
        self._kept: OrderedDict[bytes, tuple[dict[str, np.ndarray], int]] = OrderedDict()
        self._held = 0
        self._lock = threading.Lock()
        metrics.cache()

    def renew(self, by: str) -> None:
        """From now on another answers (an engine in the fallback's place): what is kept is forgotten."""
        with self._lock:
            self._digest = hashlib.sha256(self._digest + by.encode()).digest()
            self._kept.clear()
            self._held = 0
            self._metrics.cached.set(0)

    def key(self, call: Call) -> bytes:
        """Equal for the same inputs, names, types and shapes included, and the same outputs in the same order."""
        found = hashlib.blake2b(self._digest, digest_size=32)
        found.update(repr(call.outputs).encode())
        for name in sorted(call.feeds):
            array = call.feeds[name]
            found.update(repr((name, array.dtype.str, array.shape)).encode())
            if array.dtype.kind in "OUS":
                found.update(repr(array.ravel().tolist()).encode())
            else:
                found.update(np.ascontiguousarray(array).data)
        return found.digest()

    def get(self, key: bytes) -> Mapping[str, np.ndarray] | None:
        """The outputs by name; None where they are not kept."""
        with self._lock:
            found = self._kept.get(key)
            if found is not None:
                self._kept.move_to_end(key)
        (self._metrics.misses if found is None else self._metrics.hits).inc()
        return None if found is None else found[0]

    def put(self, key: bytes, arrays: Mapping[str, np.ndarray]) -> None:
        """Keep them, and drop others for it. More than the whole cache holds is not kept."""
        size = _ENTRY + sum(_bytes(array) for array in arrays.values())
        if size > self._most:
            return
        # A copy: part of a batch would keep the whole batch in memory.
        own = {name: array.copy() for name, array in arrays.items()}
        with self._lock:
            if key in self._kept:
                return
            self._kept[key] = own, size
            self._held += size
            while self._held > self._most:
                self._held -= self._kept.popitem(last=False)[1][1]
            self._metrics.cached.set(self._held)


def digest_of(folder: Path) -> bytes:
    """Of every file of a model's folder, serving.json included."""
    found = hashlib.sha256()
    for path in sorted(path for path in folder.iterdir() if path.is_file()):
        with path.open("rb") as stream:
            found.update(path.name.encode() + b"\0" + hashlib.file_digest(stream, "sha256").digest())
    return found.digest()


def _bytes(array: np.ndarray) -> int:
    texts = sum(sys.getsizeof(value) for value in array.flat) if array.dtype.kind == "O" else 0
    return array.nbytes + texts
