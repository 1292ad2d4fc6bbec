"""Builds over ssh: a real sshd on this machine, whose sessions find the folder of a Jetson and a trtexec's stand-in.

What this cannot show: what the stand-in cannot (see test_builder.py), and how a network behaves that is slow.
"""

from __future__ import annotations

import hashlib
import json
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import jetsons
import nets
import pytest
import walks
from jetsons import Jetson, alive, packed, waiting
from loopback import Loopback, serving

from mlopt.device.remote import build_on
from mlopt.device.ssh import Device
from mlopt.errors import (
    DeviceBuildFailed,
    DeviceUnreachable,
    MissingDependency,
    Misused,
    MloptError,
    NoSpaceLeft,
    UnsupportedModel,
)


@pytest.fixture
def board(tmp_path: Path) -> Jetson:
    return jetsons.jetson(tmp_path / "jetson")


@pytest.fixture
def there(tmp_path: Path, board: Jetson, monkeypatch: pytest.MonkeyPatch) -> Iterator[Loopback]:
    with serving(tmp_path / "ssh", board.env) as server:
        monkeypatch.setenv("PATH", str(server.bin), prepend=os.pathsep)
        yield server


def left_behind() -> list[Path]:
    """What a build leaves in the home of the account, which is nothing."""
    return list(Path(os.path.expanduser("~")).glob("mlopt-build.*"))


def gone(what: str, is_there: object) -> None:
    deadline = time.monotonic() + 20
    while callable(is_there) and is_there():
        assert time.monotonic() < deadline, f"{what} is still there"
        time.sleep(0.05)


def refused(device: str, place: Path, kind: type[MloptError]) -> MloptError:
    with pytest.raises(kind) as caught:
        build_on(Device.parse(device), packed(place / "packed"), place / "engines", print)
    assert not (place / "engines").exists()
    assert not left_behind()
    return caught.value


def test_engines_come_back_with_all_that_was_found_out(there: Loopback, board: Jetson, tmp_path: Path) -> None:
    said: list[str] = []
    parts = packed(tmp_path / "packed", names=("tensorrt-fp16", "tensorrt-fp32"))
    returned = build_on(Device.parse(there.address), parts, tmp_path / "engines", said.append)
    assert set(returned.engines) == {"tensorrt-fp16", "tensorrt-fp32"}
    assert not returned.failures
    for name, engine in returned.engines.items():
        facts = json.loads((engine.path / "engine.json").read_text())
        assert facts["state"] == f"measured on {jetsons.ORIN_NANO}"
        assert (
            facts["sha256"] == hashlib.sha256((tmp_path / "engines" / name / "model.engine").read_bytes()).hexdigest()
        )
        assert {file.name for file in engine.path.iterdir()} == {
            *("model.engine", "engine.json", "timing.cache", "layers.json", "times.json", "build.log")
        }
    assert any("building with TensorRT 10.3.0" in line for line in said)
    assert all(line.startswith(there.address) for line in said)
    assert not left_behind()


def test_nobody_answers(tmp_path: Path, there: Loopback) -> None:
    there.server.terminate()
    there.server.wait(10)
    error = refused(there.address, tmp_path, DeviceUnreachable)
    assert "Connection refused" in error.what
    assert "ssh -p" in error.next


def test_a_host_whose_key_nobody_compared_is_not_trusted(there: Loopback, tmp_path: Path) -> None:
    there.known_hosts.write_text("")
    error = refused(there.address, tmp_path, DeviceUnreachable)
    assert "Host key verification failed" in error.what
    assert "compare the fingerprint" in error.next
    assert there.known_hosts.read_text() == ""


def test_a_host_whose_key_changed_is_not_trusted(there: Loopback, tmp_path: Path) -> None:
    other = (there.folder / "key.pub").read_text().split()
    there.known_hosts.write_text(f"[127.0.0.1]:{there.port} {other[0]} {other[1]}\n")
    assert "before you trust it" in refused(there.address, tmp_path, DeviceUnreachable).next


def test_an_account_that_does_not_know_our_key_and_no_password_is_asked(there: Loopback, tmp_path: Path) -> None:
    (there.folder / "key.pub").write_text("")
    error = refused(there.address, tmp_path, DeviceUnreachable)
    assert "Permission denied" in error.what
    assert "ssh-copy-id" in error.next


def test_another_board(there: Loopback, board: Jetson, tmp_path: Path) -> None:
    board.say("proc/device-tree/model", "NVIDIA Jetson AGX Orin Developer Kit\0")
    error = refused(there.address, tmp_path, DeviceBuildFailed)
    assert "is not jetson-orin-nano-8gb" in error.what
    assert there.address in error.where


def test_no_tensorrt(there: Loopback, board: Jetson, tmp_path: Path) -> None:
    jetsons.without_trtexec(board)
    assert "sudo apt install" in refused(there.address, tmp_path, MissingDependency).next


@pytest.mark.parametrize(
    ("build", "kind", "said"),
    [
        ("killed", DeviceBuildFailed, "not enough memory"),
        ("full", NoSpaceLeft, "became full"),
        ("node-10", UnsupportedModel, "node 'relu1' (Relu)"),
    ],
)
def test_what_the_build_dies_of(
    there: Loopback, board: Jetson, tmp_path: Path, build: str, kind: type[MloptError], said: str
) -> None:
    board.behave(build=build)
    assert said in refused(there.address, tmp_path, kind).what


def test_one_that_fails_is_told_and_the_others_come_back(there: Loopback, board: Jetson, tmp_path: Path) -> None:
    board.behave(build={"tensorrt-fp16": "killed"})
    parts = packed(tmp_path / "packed", names=("tensorrt-fp16", "tensorrt-fp32"))
    returned = build_on(Device.parse(there.address), parts, tmp_path / "engines", print)
    assert set(returned.engines) == {"tensorrt-fp32"}
    assert "not enough memory" in returned.failures["tensorrt-fp16"]


def test_what_was_made_comes_back_when_the_program_there_dies(there: Loopback, board: Jetson, tmp_path: Path) -> None:
    board.behave(build={"tensorrt-fp32": "orphan"})
    parts = packed(tmp_path / "packed", names=("tensorrt-fp16", "tensorrt-fp32"))
    returned = build_on(Device.parse(there.address), parts, tmp_path / "engines", print)
    assert set(returned.engines) == {"tensorrt-fp16"}
    assert "ended with exit code 137" in returned.failures["tensorrt-fp32"]
    assert not left_behind()


def test_a_failure_before_the_program_there_dies_is_not_all_that_failed(
    there: Loopback, board: Jetson, tmp_path: Path
) -> None:
    board.behave(build={"tensorrt-fp16": "node-10", "tensorrt-fp32": "orphan"})
    parts = packed(tmp_path / "packed", names=("tensorrt-fp16", "tensorrt-fp32"))
    with pytest.raises(UnsupportedModel, match="relu1"):
        build_on(Device.parse(there.address), parts, tmp_path / "engines", print)


@pytest.mark.parametrize(
    ("build", "advice"),
    [
        ("killed", "workspace (in MiB) of [engine] in a recipe"),
        ("full", "free some space there"),
        ("other", "compile without --device"),
    ],
)
def test_advice_is_what_somebody_here_can_type(
    there: Loopback, board: Jetson, tmp_path: Path, build: str, advice: str
) -> None:
    board.behave(build=build)
    error = refused(there.address, tmp_path, MloptError)
    assert advice in error.next
    assert "--cache" not in error.next
    assert "--workspace" not in error.next
    assert "mlopt-build." not in error.where  # gone by now


def test_a_full_disk_there_is_seen_before_anything_is_copied(there: Loopback, board: Jetson, tmp_path: Path) -> None:
    says = "print('Filesystem 1024-blocks Used Available Capacity Mounted on')\nprint('/dev/a 9 8 1 99% /')\n"
    jetsons.program(board.folder / "bin" / "df", says)
    assert "0 MB of disk free" in refused(there.address, tmp_path, NoSpaceLeft).what


def test_a_device_that_names_a_folder_of_its_own_choice_is_not_followed(
    there: Loopback, board: Jetson, tmp_path: Path
) -> None:
    jetsons.program(board.folder / "bin" / "mktemp", "print('/etc; reboot')\n")
    assert "gave no folder" in refused(there.address, tmp_path, DeviceBuildFailed).what


def test_an_engine_that_is_not_what_was_built_is_refused(there: Loopback, board: Jetson, tmp_path: Path) -> None:
    """The copy on the way back changes it."""
    scp = there.bin / "scp"
    real = scp.rename(there.bin / "real-scp")
    source = f"""
import pathlib, subprocess, sys
code = subprocess.call([{str(real)!r}, *sys.argv[1:]])
for engine in pathlib.Path(sys.argv[-1]).rglob("model.engine"):
    engine.write_bytes(engine.read_bytes() + b"more")
sys.exit(code)
"""
    jetsons.program(scp, source)
    assert "did not come back whole" in refused(there.address, tmp_path, DeviceBuildFailed).what


def test_a_connection_that_breaks_ends_the_build_there(there: Loopback, board: Jetson, tmp_path: Path) -> None:
    board.behave(build="sleep")
    parts = packed(tmp_path / "packed")
    script = (
        "import sys; from pathlib import Path; from mlopt.device.remote import build_on;"
        "from mlopt.device.ssh import Device; from mlopt.device.pack import Packed\n"
        f"build_on(Device.parse({there.address!r}), Packed(Path({str(parts.folder)!r}), {dict(parts.names)!r}),"
        f" Path({str(tmp_path / 'engines')!r}), print)"
    )
    process = subprocess.Popen([sys.executable, "-c", script], stderr=subprocess.PIPE, text=True)
    trtexec = waiting(board.folder / "bin" / "pid")
    for entry in Path("/proc").iterdir():  # the process of sshd that serves this connection, and no other
        command = (entry / "cmdline").read_bytes() if entry.name.isdigit() and (entry / "cmdline").exists() else b""
        parent = (entry / "stat").read_text().rpartition(")")[2].split()[1] if command.startswith(b"sshd:") else ""
        if parent == str(there.server.pid):
            os.kill(int(entry.name), signal.SIGKILL)
    said = process.communicate(timeout=60)[1]
    assert "DeviceUnreachable" in said
    gone("trtexec", lambda: alive(trtexec))
    gone("the folder", left_behind)


@pytest.fixture
def place(tmp_path: Path) -> Path:
    model = nets.save(nets.conv_net(), tmp_path / "net.onnx")
    walks.labelled(tmp_path / "samples.npz", model)
    walks.profile(tmp_path)
    return tmp_path


def asked(place: Path, there: Loopback) -> tuple[str, ...]:
    return (
        *("compile", "net.onnx", "-p", "./fast.toml", "--no-image", "--target", "jetson", "--device", there.address),
        *(
            "-r",
            "tensorrt-fp16",
            "-r",
            "tensorrt-int8",
            "--samples",
            "samples.npz",
            "--cache-dir",
            str(place / "store"),
        ),
    )


@pytest.mark.slow
def test_the_whole_walk_and_one_that_is_interrupted(there: Loopback, board: Jetson, place: Path) -> None:
    ended = walks.mlopt(*asked(place, there), cwd=place)
    assert ended.returncode == 0, ended.stderr
    bundle = place / "out/net/jetson-orin-nano-8gb"
    manifest = json.loads((bundle / "bundle.json").read_text())
    assert manifest["status"] == "device-built"
    assert set(manifest["engines"]) == {"tensorrt-fp16", "tensorrt-int8"}
    for engine in manifest["engines"].values():
        assert engine["sha256"] == hashlib.sha256((bundle / engine["file"]).read_bytes()).hexdigest()
        assert manifest["files"][engine["file"]]["sha256"] == engine["sha256"]
    assert "device/build.py" in manifest["files"]
    said = " ".join(ended.stdout.split())
    assert f"was built by TensorRT 10.3.0 and measured on {jetsons.ORIN_NANO}: p50 3.00 ms" in said
    assert "power mode 15W" in said
    assert f"What ships was not timed: this machine is not jetson-orin-nano-8gb. {jetsons.ORIN_NANO} timed" in said
    assert f"Measured on {jetsons.ORIN_NANO}, p50: tensorrt-fp16 3.00 ms, tensorrt-int8 3.00 ms." in said

    inspected = walks.mlopt("inspect", bundle, "--json", cwd=place)
    assert f"measured on {jetsons.ORIN_NANO}, p50 3.00 ms" in json.loads(inspected.stdout)["engines"][0]

    ended = walks.mlopt(*asked(place, there), cwd=place)
    assert ended.returncode == 0, ended.stderr
    timed = (bundle / "engines/tensorrt-int8/timing.cache").read_bytes()
    assert timed == b"timed;" * 4  # two engines each time: what the device knew after the first walk was sent along
    manifest = json.loads((bundle / "bundle.json").read_text())

    board.behave(build="sleep")
    process = subprocess.Popen(
        [sys.executable, "-m", "mlopt", *asked(place, there)], cwd=place, stderr=subprocess.PIPE, start_new_session=True
    )
    trtexec = waiting(board.folder / "bin" / "pid")
    os.killpg(process.pid, signal.SIGINT)  # what Ctrl-C does in a terminal
    said = process.communicate(timeout=60)[1].decode()
    assert process.returncode == 130, said
    gone("trtexec", lambda: alive(trtexec))
    assert not left_behind()
    assert json.loads((bundle / "bundle.json").read_text()) == manifest


def test_a_device_that_is_not_there_is_told_before_any_work(there: Loopback, place: Path) -> None:
    there.server.terminate()
    there.server.wait(10)
    ended = walks.mlopt(*asked(place, there), cwd=place)
    assert ended.returncode == DeviceUnreachable.exit_code
    assert "cannot be reached over ssh" in ended.stderr
    assert not (place / "store").exists()


def test_a_target_that_builds_nothing_on_a_device(place: Path) -> None:
    ended = walks.mlopt("compile", "net.onnx", "--target", "rtx4090", "--device", "me@board", cwd=place)
    assert ended.returncode == Misused.exit_code
    assert "There is nothing to build on me@board" in ended.stderr


def test_recipes_that_build_nothing_on_a_device(there: Loopback, place: Path) -> None:
    flags = ("--target", "jetson", "--device", there.address, "--cache-dir", place / "store")
    ended = walks.mlopt("compile", "net.onnx", "-r", "fp16", *flags, cwd=place)
    assert ended.returncode == Misused.exit_code
    assert "no recipe asks for it" in ended.stderr
    ended = walks.mlopt("compile", "net.onnx", "-r", "tensorrt-int8", *flags, cwd=place)
    assert ended.returncode == Misused.exit_code
    assert "it needs samples to observe ranges on" in ended.stderr


@pytest.mark.parametrize(
    ("text", "host", "user", "port"),
    [
        ("nano@192.168.1.20", "192.168.1.20", "nano", None),
        ("board", "board", "", None),
        ("me@[fe80::1%eth0]:2222", "[fe80::1%eth0]", "me", 2222),
        ("me@jetson.lan:22", "jetson.lan", "me", 22),
    ],
)
def test_addresses(text: str, host: str, user: str, port: int | None) -> None:
    assert Device.parse(text) == Device(host, user, port)
    assert str(Device.parse(text)) == text


@pytest.mark.parametrize(
    "text", ["", "@", "me@", "-oProxyCommand=x", "me@-oProxyCommand=x", "a b", "h:0", "h:99999", "h;ls", "me@h:22:1"]
)
def test_what_is_no_address_never_reaches_ssh(text: str) -> None:
    with pytest.raises(Misused, match="no address"):
        Device.parse(text)


def test_words_stay_words_in_the_shell_of_the_device(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "ssh").write_text("#!/bin/sh\n")
    (tmp_path / "ssh").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    *before, last = Device("h", "me", 2222).command("rm", "-rf", "--", "a b; reboot $(x)")
    assert shlex.split(last) == ["rm", "-rf", "--", "a b; reboot $(x)"]
    assert before[-2:] == ["--", "me@h"]
    assert "BatchMode=yes" in before
    assert not [word for word in before if "StrictHostKeyChecking" in word]
