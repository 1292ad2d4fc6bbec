"""Bad input, on the command line: one clear error with its own exit code and what to type next."""

from __future__ import annotations

import os
import pickle
import pty
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import nets
import numpy as np
import onnx
import pytest
import walks
from onnx import TensorProto, helper

from mlopt import cli


@dataclass(frozen=True, slots=True)
class Ended:
    code: int
    err: str


@dataclass(slots=True)
class Opens:
    """Unpickling this creates the file `mark`."""

    mark: str

    def __reduce__(self) -> tuple[object, ...]:
        return (open, (self.mark, "w"))


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with a good model, good samples and a quick profile in it."""
    monkeypatch.chdir(tmp_path)
    model = nets.save(nets.conv_net(), tmp_path / "net.onnx")
    walks.labelled(tmp_path / "samples.npz", model, count=12)
    walks.profile(tmp_path)
    return tmp_path


@pytest.fixture
def typed(place: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> object:
    """`mlopt …` as main() runs it, in this process."""

    def type_in(line: str) -> Ended:
        monkeypatch.setattr(sys, "argv", ["mlopt", *line.split()])
        code = 0
        try:
            cli.main()
        except SystemExit as ended:
            code = int(str(ended.code))
        return Ended(code, capfd.readouterr().err)

    return type_in


def unknown_operator(domain: str) -> onnx.ModelProto:
    value = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", 4]) for name in ("x", "y")]
    graph = helper.make_graph(
        [helper.make_node("Frobnicate", ["x"], ["y"], name="odd", domain=domain)], "net", *([one] for one in value)
    )
    opsets = [helper.make_opsetid("", 17), *([helper.make_opsetid(domain, 1)] if domain else [])]
    return helper.make_model(graph, opset_imports=opsets, ir_version=8)


def prepare(place: Path) -> None:
    """Every bad file that the table below names."""
    whole = (place / "net.onnx").read_bytes()
    (place / "truncated.onnx").write_bytes(whole[: len(whole) // 2])
    (place / "empty.onnx").touch()
    (place / "corrupt.onnx").write_bytes(b"\x00\xff" * 500)
    (place / "text.onnx").write_text("<html>404 Not Found</html>")
    (place / "evil.pt").write_bytes(pickle.dumps(Opens(str(place / "ran"))))
    (place / "folder").mkdir()
    (place / "folder" / "readme.txt").write_text("no model here")
    (place / "a-file").write_text("")
    nets.save(unknown_operator(""), place / "odd.onnx")
    nets.save(unknown_operator("com.acme"), place / "custom.onnx")
    x = np.zeros((8, 3, 32, 32), np.float32) + np.arange(8, dtype=np.float32).reshape(8, 1, 1, 1)
    np.savez(place / "small.npz", x=x[:, :, :16], y=np.arange(8))
    np.savez(place / "far.npz", x=x, y=np.arange(8) + 90)
    np.savez(place / "short.npz", x=x, y=np.arange(5))
    guess = np.random.default_rng(3)
    np.savez(place / "strange.npz", x=guess.random((300, 3, 32, 32), np.float32), y=guess.integers(0, 10, 300))
    np.savez(place / "one.npz", x=x[:1], y=np.arange(1))
    (place / "bad.npz").write_bytes(b"PK\x03\x04 not really")
    (place / "pictures").mkdir()
    (place / "pictures" / "labels.csv").write_text("file,class_index\ngone.jpg,1\n")
    (place / "nothing").mkdir()
    (place / "served.toml").write_text("[serve]\ncache = '1MB'\n")
    (place / "broken.toml").write_text("schema = 1\nsummary = \n")
    (place / "slip.toml").write_text('schema = 1\nsummary = "x"\n[budgets]\nmax-drp = "1%"\n')
    (place / "zero.toml").write_text('schema = 1\nsummary = "x"\n[budgets]\nlatency-p99 = "0ms"\n')
    (place / "unit.toml").write_text('schema = 1\nsummary = "x"\n[budgets]\nlatency-p99 = 33\n')


TABLE = [  # what is typed, exit code, words of the message
    ("compile gone.onnx", 10, "no model at this path"),
    ("compile nte.onnx", 10, "Did you mean net.onnx?"),
    ("compile empty.onnx", 11, "empty"),
    ("compile truncated.onnx", 11, "truncated"),
    ("compile corrupt.onnx", 11, "corrupt.onnx"),
    ("compile text.onnx", 11, "text.onnx"),
    ("compile folder", 11, "folder"),
    ("compile evil.pt", 12, "--trust"),
    ("inspect gone.onnx", 10, "no model"),
    ("inspect truncated.onnx", 11, "truncated"),
    ("bench empty.onnx", 11, "empty"),
    ("bench net.onnx net.onnx", 2, "named twice"),
    ("bench net.onnx -t rpi5", 2, "not this machine"),
    ("bench net.onnx --runtime openvin", 18, "Did you mean openvino"),
    ("bench net.onnx --runtime onnxruntime --runtime onnxruntime", 2, "runtime is named twice"),
    ("bench folder", 10, "not a bundle"),
    ("serve gone", 10, "no bundle at this path"),
    ("serve folder", 10, "not a bundle"),
    ("serve net.onnx", 10, "a bundle is a folder"),
    ("serve", 2, "BUNDLE"),
    ("compile odd.onnx", 4, "'Frobnicate'"),
    ("compile custom.onnx", 4, "Frobnicate"),
    ("compile net.onnx --samples small.npz", 16, "[3, 16, 32]"),
    ("compile net.onnx --samples one.npz", 16, "Only 1 sample"),
    ("compile net.onnx --samples bad.npz", 16, "bad.npz"),
    ("compile net.onnx --samples gone", 16, "no samples at that path"),
    ("compile net.onnx --samples nothing", 16, "nothing"),
    ("compile net.onnx --samples a-file", 16, "neither"),
    ("compile net.onnx --samples no.such:thing", 16, "no.such"),
    ("compile net.onnx --samples samples.npz --calibration 12", 16, "leaves none to evaluate on"),
    ("compile net.onnx --samples far.npz", 17, "10 classes (0 to 9)"),
    ("compile net.onnx --samples short.npz", 17, "short.npz"),
    ("compile net.onnx --samples pictures", 17, "gone.jpg"),
    ("compile net.onnx --samples strange.npz", 17, "do not fit the model"),
    ("compile net.onnx -t rpi55", 18, "Did you mean rpi5"),
    ("compile net.onnx -t ./board.toml", 18, "./board.toml".removeprefix("./")),
    ("compile net.onnx -p balncd", 18, "Did you mean balanced?"),
    ("compile net.onnx -r int8-sttic", 18, "Did you mean int8-static"),
    ("compile net.onnx --ship int8-sttic", 18, "Did you mean int8-static"),
    ("compile net.onnx --ship int8-static", 2, "cannot ship: it needs samples"),
    ("quantize net.onnx", 2, "it needs samples"),
    ("quantize net.onnx --samples samples.npz --max-drop 0%", 5, "the least that they can is"),
    ("compil net.onnx", 2, "Did you mean 'compile'?"),
    ("compile net.onnx --profil fast", 2, "--profile"),
    ("targets show rpi55", 18, "rpi5"),
    ("profiles show balncd", 18, "balanced"),
    ("recipes show fp23", 18, "fp32"),
    ("compile", 2, "MODEL"),
    ("compile net.onnx -p ./broken.toml", 19, "broken.toml"),
    ("compile net.onnx -p ./slip.toml", 19, "max-drop"),
    ("compile net.onnx -p ./unit.toml", 19, "33ms"),
    ("compile net.onnx --project broken.toml", 19, "broken.toml"),
    ("compile net.onnx --project served.toml --server native", 19, "which says cache"),
    ("compile net.onnx -p ./zero.toml", 5, "latency-p99"),
    ("compile net.onnx --max-drop nonsense", 2, "--max-drop 0.5%"),
    ("compile net.onnx --max-drop -3%", 2, "--max-drop 0.5%"),
    ("compile net.onnx --max-drop 300%", 2, "between 0 and 1"),
    ("compile net.onnx --max-size 2", 2, "--max-size 2MB"),
    ("compile net.onnx --max-latency 5MB", 2, "--max-latency 5ms"),
    ("compile net.onnx --max-memory lots", 2, "--max-memory 200MB"),
    ("compile net.onnx --max-image-size -1MB", 2, "--max-image-size 150MB"),
    ("compile net.onnx --max-size 0MB", 5, "--max-size, over profile balanced"),
    ("compile net.onnx -p realtime-30fps --max-latency 30ms", 5, "a lower percentile of latency has a larger budget"),
    ("compile net.onnx --factory nowhere:build", 13, "nowhere"),
    ("compile net.onnx -p ./fast.toml -r fp32 --no-image -o a-file", 21, "a-file"),
    ("compile net.onnx --cache-dir a-file", 21, "--cache-dir"),
]


@pytest.mark.parametrize(("line", "code", "words"), TABLE, ids=[row[0] for row in TABLE])
def test_one_clear_error(place: Path, typed, line: str, code: int, words: str) -> None:  # type: ignore[no-untyped-def]
    prepare(place)
    before = sorted(path.name for path in place.iterdir())
    ended = typed(line)
    assert ended.code == code, ended.err
    assert words in ended.err
    assert "Traceback" not in ended.err
    errors = [row for row in ended.err.splitlines() if row.startswith(("error:", "Error:"))]
    assert len(errors) == 1, ended.err
    if errors[0].startswith("error:"):
        assert "\n  next:  " in ended.err, "it says what to type next"
    assert not (place / "ran").exists(), "nothing inside the model was run"
    left = sorted(path.name for path in place.iterdir() if path.name not in ("store", "out"))
    assert left == [name for name in before if name not in ("store", "out")]
    assert not list(place.glob("out/*/*/bundle.json")), "no bundle of a failed run"
    assert not list(place.glob("store/scratch/*")), "no half-made result"


def test_spaces_and_other_scripts_in_every_path(place: Path) -> None:
    odd = place / "mes modèles – 模型"
    odd.mkdir()
    for name in ("net.onnx", "samples.npz", "fast.toml"):
        (place / name).rename(odd / f"é {name}")
    asked = ("--samples", odd / "é samples.npz", "-p", odd / "é fast.toml", "-r", "int8-static", "-o", odd / "à voir")
    env = {"MLOPT_CACHE_DIR": str(odd / "le dépôt")}
    ended = walks.mlopt("compile", odd / "é net.onnx", *asked, "--no-image", "-q", cwd=place, env=env)
    assert ended.returncode == 0, ended.stderr
    folder = odd / "à voir" / "é net" / "host"
    assert (folder / "bundle.json").is_file()
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    again = [str(folder / "repro.sh"), "-q", "-o", "again"]
    subprocess.run(again, cwd=place, env={**os.environ, **env, "PATH": path}, check=True, capture_output=True)
    assert (place / "again" / "é net" / "host" / "bundle.json").is_file()


def test_a_folder_of_the_persons_own_is_not_replaced(place: Path) -> None:
    mine = place / "out" / "net" / "host"
    mine.mkdir(parents=True)
    (mine / "thesis.txt").write_text("years of work")
    ended = walks.mlopt("compile", "net.onnx", "-p", "./fast.toml", "-r", "fp32", "--no-image", "-q", cwd=place)
    assert ended.returncode == 21, ended.stderr
    assert (mine / "thesis.txt").read_text() == "years of work"


CRASHY = """\
import os
from mlopt.runners.onnxruntime import OnnxRuntimeRunner
class Crashy(OnnxRuntimeRunner):
    __slots__ = ()
    name = "crashy"
    def infer(self, feeds):
        {what}
"""
DEATHS = {
    "first query": "os.abort()",
    "only where it is measured": """\
if b"measure.worker" in open("/proc/self/cmdline", "rb").read():
            os.abort()
        return super().infer(feeds)""",
}


@pytest.mark.parametrize("when", DEATHS)
def test_a_candidate_that_crashes_its_runtime_is_a_finding(place: Path, when: str) -> None:
    """A runtime that really aborts, installed as a plug-in is: by an entry point."""
    plugin = place / "plugin"
    (plugin / "crashy-1.dist-info").mkdir(parents=True)
    (plugin / "crashy-1.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: crashy\nVersion: 1\n")
    (plugin / "crashy-1.dist-info" / "entry_points.txt").write_text("[mlopt.runners]\ncrashy = crashy:Crashy\n")
    (plugin / "crashy.py").write_text(CRASHY.format(what=DEATHS[when]))
    (place / "doomed.toml").write_text(
        'schema = 1\nsummary = "x"\nprecision = "fp32"\nruntime = "crashy"\n[[step]]\nname = "optimize-graph"\n'
    )
    asked = ("-p", "./fast.toml", "-r", "fp16", "-r", "./doomed.toml", "--no-image")
    env = {"PYTHONPATH": str(plugin)}
    ended = walks.mlopt("compile", "net.onnx", *asked, cwd=place, env=env)
    assert ended.returncode == 0, ended.stderr
    words = " ".join(ended.stdout.split())
    assert "SIGABRT" in words
    assert "fp16" in words
    assert walks.mlopt("compile", "net.onnx", *asked, "--ship", "doomed", cwd=place, env=env).returncode == 4


@pytest.fixture
def mounted(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Path]:
    """A small file system with the mount options of the test's parameter, where this user may mount one."""
    small = tmp_path / "small"
    small.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", request.param, "tmpfs", str(small)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("this user may not mount a small file system")
    yield small
    subprocess.run(["umount", str(small)], check=True)


@pytest.mark.parametrize(
    ("mounted", "flag", "code"),
    [("size=12k", "--cache-dir", 20), ("size=64k", "--out", 20), ("ro", "--cache-dir", 21), ("ro", "--out", 21)],
    indirect=["mounted"],
)
def test_a_disk_that_takes_no_more(place: Path, mounted: Path, flag: str, code: int) -> None:
    asked = ("-p", "./fast.toml", "-r", "fp32", "--no-image", "-q", flag, mounted / "here")
    ended = walks.mlopt("compile", "net.onnx", *asked, cwd=place)
    assert ended.returncode == code, ended.stderr
    assert "\n  next:  " in ended.stderr
    assert "Traceback" not in ended.stderr
    left = [path for path in mounted.rglob("*") if path.is_file() and path.stat().st_size]
    assert [path for path in left if "adopted-" not in str(path) and "results" not in str(path)] == []


@pytest.mark.parametrize("mounted", ["size=24k"], indirect=True)
def test_a_full_disk_for_temporary_files(place: Path, mounted: Path) -> None:
    asked = ("-p", "./fast.toml", "-r", "fp32", "--no-image", "-q")
    ended = walks.mlopt("compile", "net.onnx", *asked, cwd=place, env={"TMPDIR": str(mounted)})
    assert ended.returncode == 20, ended.stderr
    assert "TMPDIR" in ended.stderr or str(mounted) in ended.stderr
    assert not (place / "out" / "net" / "host").exists()


def test_progress_on_a_terminal_is_taken_back_before_an_error(place: Path) -> None:
    """On a pseudo-terminal: the live line of the step that fails does not stand before the message."""
    nets.save(unknown_operator("com.acme"), place / "custom.onnx")
    ours, theirs = pty.openpty()
    typed = [sys.executable, "-m", "mlopt", "compile", "custom.onnx"]
    process = subprocess.Popen(typed, cwd=place, stderr=theirs, stdout=theirs, stdin=subprocess.DEVNULL)
    os.close(theirs)
    said = b""
    try:
        while chunk := os.read(ours, 4096):
            said += chunk
    except OSError:  # Linux says EIO when the other end is closed
        pass
    os.close(ours)
    assert process.wait() == 4
    before = said.decode().split("error:")[0]
    assert "normalize-onnx" in before
    assert before.rstrip("\x1b[0123456789m").endswith("\r\x1b[K")
