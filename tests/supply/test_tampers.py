"""One changed byte anywhere in a signed bundle is found: 500 of them, drawn by seed, over all its files."""

from __future__ import annotations

import random
import shutil
from pathlib import Path

import pytest

from mlopt.artifact import files
from mlopt.bundle import SIGNATURE
from mlopt.errors import MloptError, NotVerified
from mlopt.supply.dsse import Signer, Vouching
from mlopt.supply.sign import sign
from mlopt.supply.verify import verify

_COUNT = 500


@pytest.mark.slow
def test_none_of_500_changed_bytes_passes(
    compiled: Path, signer: tuple[str, Signer, Vouching], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A file is drawn first and then its byte, so that the small ones get their share beside the layers."""
    bundle = Path(shutil.copytree(compiled, tmp_path / "signed"))
    kind, by, whose = signer
    sign(bundle, by)
    every = files(bundle)
    draw = random.Random(kind)
    rejected, named, passed = 0, 0, []
    for number in range(_COUNT):
        path = every[number] if number < len(every) else draw.choice(every)
        place, bit = draw.randrange(path.stat().st_size), 1 << draw.randrange(8)
        flip(path, place, bit)
        try:
            for _ in verify(bundle, whose):
                pass
            passed.append(f"{path.relative_to(bundle)} byte {place} ^ {bit}")
        except NotVerified as error:
            rejected += 1
            named += str(path) in error.where or path.name in error.what
        except MloptError as error:
            passed.append(f"{path.relative_to(bundle)}: {type(error).__name__}")
        flip(path, place, bit)
    over = f"{len(every)} files"
    with capsys.disabled():
        print(f"\n{kind}: {rejected} of {_COUNT} tampers rejected over {over}, {named} with the file's name")
    assert passed == []
    assert (bundle / SIGNATURE) in every
    assert [one.what for one in verify(bundle, whose)][-1] == "image signature"  # whole again


def flip(path: Path, place: int, bit: int) -> None:
    with path.open("r+b") as stream:
        stream.seek(place)
        byte = stream.read(1)[0]
        stream.seek(place)
        stream.write(bytes([byte ^ bit]))
