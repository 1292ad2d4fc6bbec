"""What calibration and evaluation read: a choice of samples from one source, known by its content."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mlopt.artifact import Digest
from mlopt.errors import SamplesInvalid

if TYPE_CHECKING:
    import numpy as np

    from mlopt.samples.sources import Source
    from mlopt.signature import InputSpec, Signature

Feeds = dict[str, "np.ndarray"]


@dataclass(frozen=True, slots=True)
class Samples:
    """Some samples of a source, in a fixed order, bound to a model's inputs. Never all in memory at once.

    `constants` are inputs that no sample carries (a sampling rate, an initial state) and that mlopt.toml
    gives one value. `digest` covers content, order, labels and preprocessing, not where the files lie: two
    people with the same images share results.
    """

    source: Source
    indices: tuple[int, ...]
    signature: Signature
    constants: Mapping[str, InputSpec]
    digest: Digest

    def __len__(self) -> int:
        return len(self.indices)

    @property
    def labels(self) -> np.ndarray | None:
        """int64 of shape [len(self)], or None when the source has no labels."""
        import numpy as np

        if not self.source.labelled:
            return None
        return np.array([self.source.label(index) for index in self.indices], dtype=np.int64)

    def feeds(self, *, batch: int) -> Iterator[Feeds]:
        """Arrays by input name, `batch` samples at a time; the last may hold fewer.

        Raises `SamplesInvalid`, naming the sample, when one does not fit its input.
        """
        for start in range(0, len(self.indices), batch):
            yield self._stack(self.indices[start : start + batch])

    def _stack(self, indices: tuple[int, ...]) -> Feeds:
        rows = [self._fitted(index) for index in indices]
        feeds = {name: _stacked([row[name] for row in rows]) for name in rows[0]}
        return feeds | constant_feeds(self.signature, self.constants, batch=len(rows))

    def _fitted(self, index: int) -> Feeds:
        import numpy as np

        row = self.source.load(index)
        for name, array in row.items():
            wanted = self.signature.input(name)
            if array.dtype.kind == "f" and wanted.dtype.startswith("float"):  # numpy's float64 by default
                array = row[name] = array.astype(wanted.dtype, copy=False)
            if array.dtype.name != wanted.dtype or not fits(array.shape, wanted.shape[1:]):
                raise SamplesInvalid(
                    f"Sample {self.source.describe(index)} is {array.dtype.name} {list(array.shape)}, and the model's "
                    f"input {name!r} takes {wanted.dtype} {list(wanted.shape[1:])} per sample.",
                    where=self.source.where,
                    next="declare [preprocess] in mlopt.toml (size, layout, channels, scale, dtype), "
                    "or give samples that fit",
                )
            if array.dtype.kind == "f" and np.isnan(array).any():  # infinity may be meant: a mask of attention
                raise SamplesInvalid(
                    f"Sample {self.source.describe(index)} holds NaN for the model's input {name!r}.",
                    where=self.source.where,
                    next="remove the sample, or look at what wrote it",
                )
        return row


def _stacked(rows: Sequence[np.ndarray]) -> np.ndarray:
    """`numpy.stack`, without a copy of a single row that was read for this alone."""
    import numpy as np

    alone = len(rows) == 1 and rows[0].flags.writeable and rows[0].flags.owndata and rows[0].flags.c_contiguous
    return rows[0][None] if alone else np.stack(rows)


def fits(shape: tuple[int, ...], wanted: tuple[int | str, ...]) -> bool:
    """Whether a concrete shape matches one with named dynamic dimensions.

    >>> fits((3, 224, 224), (3, "height", "width"))
    True
    """
    return len(shape) == len(wanted) and all(
        isinstance(want, str) or want == have for have, want in zip(shape, wanted, strict=True)
    )


def constant_feeds(signature: Signature, constants: Mapping[str, InputSpec], *, batch: int) -> Feeds:
    """The inputs that no sample carries, filled with their value for `batch` samples."""
    from mlopt.signature import random_feeds

    if not constants:
        return {}
    filled = random_feeds(signature, batch=batch, seed=0, given=constants)
    return {name: filled[name] for name in constants}


def digest_samples(source: Source, indices: tuple[int, ...], constants: Mapping[str, InputSpec]) -> Digest:
    """Content address of a choice of samples: each sample's content and label in order, and how it is prepared."""
    sha = hashlib.sha256(json.dumps(source.preparation(), sort_keys=True).encode())
    for index in indices:
        label = source.label(index) if source.labelled else None
        sha.update(f"{source.content(index)} {label}\n".encode())
    for name in sorted(constants):
        sha.update(f"{name} {constants[name]}\n".encode())
    return Digest(sha.hexdigest())
