"""Samples: four kinds of source, one split that never leaks, one clear error for each thing that is wrong."""

from __future__ import annotations

import csv
import itertools
import shutil
import sys
import tempfile
import tracemalloc
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
from nets import conv_net
from PIL import Image

from mlopt.errors import LabelsMismatch, SamplesInvalid
from mlopt.samples import arrays
from mlopt.samples.open import Asked, open_samples
from mlopt.samples.prepared import PreparedOnce
from mlopt.samples.sources import MappedArrays
from mlopt.signature import InputSpec, Signature, Tensor, signature_of

SIGNATURE = signature_of(conv_net())


def picture(seed: int, side: int = 40) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 255, (side, side, 3), dtype=np.uint8))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """24 labelled images and a labels.csv."""
    (tmp_path / "f" / "images").mkdir(parents=True)
    with (tmp_path / "f" / "labels.csv").open("w", newline="") as stream:
        table = csv.writer(stream)
        table.writerow(["file", "class_index", "name"])
        for number in range(24):
            picture(number).save(tmp_path / "f" / "images" / f"{number}.png")
            table.writerow([f"images/{number}.png", number % 10, f"class {number % 10}"])
    return tmp_path / "f"


def test_labels_csv(folder: Path) -> None:
    split = open_samples(Asked(str(folder), calibration=6), SIGNATURE)
    assert (len(split.calibration), len(split.evaluation)) == (6, 18)
    assert split.assumed_preprocess
    assert split.source.classes[3] == "class 3"
    (feed,) = list(split.evaluation.feeds(batch=18))
    assert feed["image"].shape == (18, 3, 32, 32)
    assert feed["image"].dtype == np.float32
    labels = split.evaluation.labels
    assert labels is not None
    assert labels.tolist() == [split.source.label(index) for index in split.evaluation.indices]


def test_labels_can_be_left_out_of_the_judgement(folder: Path) -> None:
    split = open_samples(Asked(str(folder), labels=False), SIGNATURE)
    assert split.evaluation.labels is None
    assert split.source.classes[3] == "class 3", "names are still names"


def test_class_folders_are_numbered_in_order(tmp_path: Path) -> None:
    for name in ("cat", "ant", "bee"):
        (tmp_path / "s" / name).mkdir(parents=True)
        for number in range(2):
            picture(hash(name) % 1000 + number).save(tmp_path / "s" / name / f"{number}.png")
    split = open_samples(Asked(str(tmp_path / "s")), SIGNATURE)
    assert split.source.classes == {0: "ant", 1: "bee", 2: "cat"}


def test_plain_folder_has_no_labels(tmp_path: Path) -> None:
    (tmp_path / "s").mkdir()
    for number in range(4):
        picture(number).save(tmp_path / "s" / f"{number}.png")
    split = open_samples(Asked(str(tmp_path / "s")), SIGNATURE)
    assert split.evaluation.labels is None


def test_npz_of_tensors_and_of_pictures(tmp_path: Path) -> None:
    tensors = np.random.default_rng(0).standard_normal((12, 3, 32, 32)).astype(np.float32)
    np.savez(tmp_path / "t.npz", x=tensors, y=np.arange(12) % 10)
    split = open_samples(Asked(str(tmp_path / "t.npz")), SIGNATURE)
    index = split.evaluation.indices[0]
    assert np.array_equal(next(iter(split.evaluation.feeds(batch=1)))["image"][0], tensors[index])
    assert split.preprocess is None
    pictures = np.random.default_rng(0).integers(0, 255, (12, 32, 32, 3), dtype=np.uint8)
    np.savez_compressed(tmp_path / "p.npz", x=pictures, y=np.arange(12) % 10)
    split = open_samples(Asked(str(tmp_path / "p.npz")), SIGNATURE)
    assert split.assumed_preprocess
    assert next(iter(split.evaluation.feeds(batch=5)))["image"].shape == (5, 3, 32, 32)


def test_whoever_writes_into_a_feed_writes_into_no_other(tmp_path: Path) -> None:
    tensors = np.random.default_rng(0).standard_normal((12, 3, 32, 32)).astype(np.float32)
    np.savez(tmp_path / "t.npz", x=tensors, y=np.arange(12) % 10)
    samples = open_samples(Asked(str(tmp_path / "t.npz")), SIGNATURE).evaluation
    first = next(iter(samples.feeds(batch=1)))["image"]
    first[:] = 0
    again = next(iter(samples.feeds(batch=1)))["image"]
    assert again.flags.c_contiguous
    assert np.array_equal(again[0], tensors[samples.indices[0]])


@pytest.mark.parametrize("order", ["C", "F"])
def test_arrays_in_an_npz_are_mapped_where_they_lie(tmp_path: Path, order: Literal["C", "F"]) -> None:
    tensors = np.random.default_rng(0).standard_normal((12, 3, 32, 32)).astype(np.float32)
    np.savez(tmp_path / "t.npz", first=np.arange(3), x=np.asarray(tensors, order=order), y=np.arange(12))
    with zipfile.ZipFile(tmp_path / "t.npz") as archive:
        found = {one.filename: arrays._mapped(tmp_path / "t.npz", archive, one) for one in archive.infolist()}
    assert isinstance(found["x.npy"], np.memmap)
    assert Path(str(found["x.npy"].filename)) == tmp_path / "t.npz"
    assert np.array_equal(found["x.npy"], tensors)
    assert np.array_equal(found["first.npy"], np.arange(3))
    (tmp_path / "cut.npz").write_bytes((tmp_path / "t.npz").read_bytes()[:-4000])
    np.savez(tmp_path / "objects.npz", x=np.array([{"a": 1}] * 20000, dtype=object))
    for name in ("cut", "objects"):
        with pytest.raises(SamplesInvalid, match="cannot be read"):
            open_samples(Asked(str(tmp_path / f"{name}.npz")), SIGNATURE)


def test_what_is_unpacked_to_disk_has_no_name_that_a_kill_could_leave(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tensors = np.random.default_rng(0).standard_normal((12, 3, 32, 32)).astype(np.float32)
    np.savez_compressed(tmp_path / "t.npz", x=tensors)
    (tmp_path / "rows.py").write_text(
        "import numpy as np\n"
        f"def rows():\n    with np.load({str(tmp_path / 't.npz')!r}) as held:\n        yield from held['x']\n"
    )
    (tmp_path / "scratch").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "scratch"))
    for name in (str(tmp_path / "t.npz"), "rows:rows"):
        once = open_samples(Asked(name, root=tmp_path), SIGNATURE).source
        assert isinstance(once, PreparedOnce)
        source = once.source
        assert isinstance(source, MappedArrays)
        assert isinstance(source.inputs["image"], np.memmap)
        assert np.array_equal(source.inputs["image"], tensors)
        assert list((tmp_path / "scratch").iterdir()) == []


def test_an_npz_that_is_written_anew_under_a_run_is_told_of(tmp_path: Path) -> None:
    """Else it would be other numbers under the old digest, or the end of the process (SIGBUS) where it is shorter."""
    tensors = np.random.default_rng(0).standard_normal((12, 3, 32, 32)).astype(np.float32)
    np.savez(tmp_path / "t.npz", x=tensors)
    split = open_samples(Asked(str(tmp_path / "t.npz")), SIGNATURE)
    kept = next(iter(split.evaluation.feeds(batch=1)))["image"].copy()
    np.savez(tmp_path / "t.npz", x=tensors[:2])
    with pytest.raises(SamplesInvalid, match="written anew while they were being read"):
        list(split.calibration.feeds(batch=1))
    assert np.isfinite(kept).all()


def test_callable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my_samples.py").write_text(
        "import numpy as np\n"
        "def pairs():\n"
        "    for n in range(9):\n"
        "        yield np.full((3, 32, 32), n, np.float32), n\n"
        "def feeds():\n"
        "    for n in range(9):\n"
        "        yield {'image': np.full((3, 32, 32), n, np.float32)}\n"
        "def broken():\n"
        "    yield np.zeros((3, 32, 32), np.float32)\n"
        "    raise ValueError('the file ends here')\n"
        "def nothing():\n"
        "    return []\n"
        "def uneven():\n"
        "    yield np.zeros((3, 32, 32), np.float32)\n"
        "    yield np.zeros((3, 16, 32), np.float32)\n"
    )
    split = open_samples(Asked("my_samples:pairs", root=tmp_path), SIGNATURE)
    labels = split.evaluation.labels
    assert labels is not None
    feed = next(iter(split.evaluation.feeds(batch=len(split.evaluation))))
    assert feed["image"][:, 0, 0, 0].tolist() == labels.tolist()
    assert open_samples(Asked("my_samples:feeds", root=tmp_path), SIGNATURE).evaluation.labels is None
    for wrong, message in (
        ("nothing", "no samples"),
        ("broken", "ValueError: the file ends here"),
        ("uneven", "number 1"),
        ("absent", "cannot be called"),
    ):
        with pytest.raises(SamplesInvalid, match=message):
            open_samples(Asked(f"my_samples:{wrong}", root=tmp_path), SIGNATURE)
    sys.modules.pop("my_samples")


def test_split_depends_on_seed_and_content_only(folder: Path, tmp_path: Path) -> None:
    one = open_samples(Asked(str(folder), calibration=6), SIGNATURE)
    shutil.copytree(folder, tmp_path / "elsewhere")
    moved = open_samples(Asked(str(tmp_path / "elsewhere"), calibration=6), SIGNATURE)
    assert moved.calibration.digest == one.calibration.digest
    assert moved.evaluation.digest == one.evaluation.digest
    other = open_samples(Asked(str(folder), calibration=6, seed=1), SIGNATURE)
    assert other.calibration.digest != one.calibration.digest


def test_copies_of_a_sample_stay_on_one_side(folder: Path) -> None:
    with (folder / "labels.csv").open("a", newline="") as stream:
        for number in range(24):
            shutil.copy(folder / "images" / f"{number}.png", folder / "images" / f"copy{number}.png")
            csv.writer(stream).writerow([f"images/copy{number}.png", number % 10, ""])
    for seed in range(5):
        split = open_samples(Asked(str(folder), calibration=10, seed=seed), SIGNATURE)
        sides = [
            {split.source.content(index) for index in side.indices} for side in (split.calibration, split.evaluation)
        ]
        assert not sides[0] & sides[1]
        assert len(split.calibration) + len(split.evaluation) == 48


def test_memory_does_not_grow_with_the_number_of_samples(tmp_path: Path) -> None:
    def peak(count: int) -> int:
        np.savez(
            tmp_path / f"{count}.npz",
            x=np.zeros((count, 3, 32, 32), np.float32) + np.arange(count)[:, None, None, None],
        )
        tracemalloc.start()
        split = open_samples(Asked(str(tmp_path / f"{count}.npz"), calibration=8), SIGNATURE)
        for _ in split.evaluation.feeds(batch=8):
            pass
        found = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return found

    peak(16)
    assert peak(2048) < peak(64) + 2_000_000, "2048 samples are 25 MB"


def rewrite(folder: Path, line: str) -> None:
    with (folder / "labels.csv").open("a") as stream:
        stream.write(line + "\n")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("images/absent.png,1,x", "no such file"),
        ("images/0.png,tench,x", "needs a file and a whole number"),
        ("images/0.png,10,x", "label 10"),
        ("images/0.png,-1,x", "whole number"),
    ],
)
def test_labels_that_do_not_match(folder: Path, line: str, message: str) -> None:
    rewrite(folder, line)
    with pytest.raises(LabelsMismatch, match=message) as caught:
        open_samples(Asked(str(folder)), SIGNATURE)
    assert caught.value.next


def test_corrupt_image_is_named(folder: Path) -> None:
    (folder / "images" / "7.png").write_bytes(b"\x89PNG nonsense")
    split = open_samples(Asked(str(folder)), SIGNATURE)
    feeds = itertools.chain(split.calibration.feeds(batch=4), split.evaluation.feeds(batch=4))
    with pytest.raises(SamplesInvalid, match="cannot be decoded") as caught:
        list(feeds)
    assert caught.value.where.endswith("7.png")


def test_wrong_shape_says_both_shapes(tmp_path: Path) -> None:
    np.savez(tmp_path / "t.npz", x=np.zeros((4, 3, 28, 28), np.float32) + np.arange(4)[:, None, None, None])
    split = open_samples(Asked(str(tmp_path / "t.npz")), SIGNATURE)
    with pytest.raises(SamplesInvalid, match=r"\[3, 28, 28\].*\[3, 32, 32\]"):
        next(iter(split.evaluation.feeds(batch=1)))


def test_a_sample_of_nan_is_named_and_one_of_infinity_is_let_through(tmp_path: Path) -> None:
    pictures = np.random.default_rng(0).random((4, 3, 32, 32), np.float32)
    pictures[1, 0, 0, 0], pictures[2, 0, 0, 0] = np.inf, np.nan
    np.savez(tmp_path / "t.npz", x=pictures)
    split = open_samples(Asked(str(tmp_path / "t.npz")), SIGNATURE)
    read, refused = 0, []
    for part in (split.calibration, split.evaluation):
        for index in part.indices:
            try:
                next(iter(replace(part, indices=(index,)).feeds(batch=1)))
                read += 1
            except SamplesInvalid as error:
                refused.append(str(error))
    assert read == 3
    assert len(refused) == 1
    assert "number 2 " in refused[0]
    assert "holds NaN for the model's input 'image'" in refused[0]


def two_inputs() -> Signature:
    image, rate = Tensor("image", "float32", ("N", 3, 32, 32)), Tensor("sr", "int64", ())
    return Signature((image, rate), (Tensor("y", "float32", ("N", 10)),), 17, (), 0)


def test_an_input_that_no_sample_carries(tmp_path: Path) -> None:
    np.savez(tmp_path / "t.npz", image=np.random.default_rng(0).random((4, 3, 32, 32), np.float32))
    with pytest.raises(SamplesInvalid, match="do not exercise the model's input 'sr'"):
        open_samples(Asked(str(tmp_path / "t.npz")), two_inputs())
    asked = Asked(str(tmp_path / "t.npz"), constants={"sr": InputSpec(value=16000)})
    feed = next(iter(open_samples(asked, two_inputs()).evaluation.feeds(batch=2)))
    assert feed["sr"] == 16000
    assert feed["sr"].dtype == np.int64


def test_nothing_there(tmp_path: Path) -> None:
    with pytest.raises(SamplesInvalid, match="no samples at that path"):
        open_samples(Asked(str(tmp_path / "nowhere")), SIGNATURE)
    (tmp_path / "empty").mkdir()
    with pytest.raises(SamplesInvalid, match="Only 0 sample"):
        open_samples(Asked(str(tmp_path / "empty")), SIGNATURE)


@pytest.mark.real
def test_real_images_split_and_classes(data: Path) -> None:
    folder = data / "nips17_imagenet"
    signature = signature_of(data / "models" / "onnx" / "squeezenet1_0.onnx")
    split = open_samples(Asked(str(folder)), signature)
    assert len(split.calibration) + len(split.evaluation) == 456
    assert not set(split.calibration.indices) & set(split.evaluation.indices)
    assert split.source.classes[576] == "gondola"
