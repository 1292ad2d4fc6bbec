"""A build on the device over ssh: the folder there, the program run, what it made back, and nothing left behind."""

from __future__ import annotations

import contextlib
import json
import re
import shlex
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Final

from mlopt.artifact import ENGINE, Artifact, digest_of, files
from mlopt.device import builder
from mlopt.device.pack import Packed
from mlopt.device.ssh import Device
from mlopt.errors import DeviceBuildFailed, MissingDependency, MloptError, NoSpaceLeft, UnsupportedModel

_KINDS: Final[Mapping[int, type[MloptError]]] = {
    builder.NO_TENSORRT: MissingDependency,
    builder.UNSUPPORTED: UnsupportedModel,
    builder.DISK_FULL: NoSpaceLeft,
}
_FOLDER: Final = re.compile(r"mlopt-build\.[A-Za-z0-9]{10}")
_STOPPING: Final = 15.0  # the program there needs a moment to end what it started


@dataclass(frozen=True, slots=True)
class Returned:
    """Engines that came back, by candidate, and for each build that failed there the reason."""

    engines: Mapping[str, Artifact]
    failures: Mapping[str, str]


def build_on(device: Device, packed: Packed, into: Path, say: Callable[[str], None]) -> Returned:
    """Build all that was packed on `device`; engines go to `into`/candidate.

    Raises `DeviceUnreachable`, or when no engine came back what the first failure is. Nothing stays on the device.
    """
    with _folder_on(device, say) as there:
        _check_disk(device, there, packed.folder)
        say(f"{device}: copying {sum(one.stat().st_size for one in files(packed.folder)) / 1e6:.1f} MB")
        device.send(packed.folder, there)
        home = f"{there}/{packed.folder.name}"
        failures = _run(device, home, packed, say)
        made = [name for name in packed.names if packed.names[name] not in failures]
        if not made:
            raise next(iter(failures.values()))
        with tempfile.TemporaryDirectory(prefix="mlopt-device-") as scratch:
            for name in made:
                device.fetch(f"{home}/engines/{packed.names[name]}", Path(scratch))
                _check(Path(scratch) / packed.names[name], packed, name, device)
            into.mkdir(exist_ok=True)
            for name in made:
                _copy_engine(Path(scratch) / packed.names[name], into / name)
    engines = {name: Artifact(ENGINE, digest_of(into / name), into / name) for name in made}
    return Returned(engines, {name: failures[packed.names[name]].what for name in packed.names if name not in made})


@contextmanager
def _folder_on(device: Device, say: Callable[[str], None]) -> Iterator[str]:
    """A fresh folder in the account's home, gone at the end, whatever the end is."""
    printed = device.ask("mktemp", "-d", "mlopt-build.XXXXXXXXXX")
    there = printed.strip().rpartition("\n")[2]  # a login shell may have greeted first
    if not _FOLDER.fullmatch(there):
        raise DeviceBuildFailed(
            "The device gave no folder to work in.", where=f"{device}: mktemp printed {printed[:80]!r}"
        )
    try:
        yield there
    finally:
        if hindered := device.remove(there):
            say(f"{device}: {there} could not be removed there: {hindered}")


def _check_disk(device: Device, there: str, folder: Path) -> None:
    needed = sum(one.stat().st_size for one in files(folder))
    said = device.ask("df", "-Pk", there).splitlines()[-1].split()
    free = int(said[3]) * 1024 if len(said) > 3 and said[3].isdigit() else None
    if free is not None and free < needed:
        raise NoSpaceLeft(
            f"The device has {free / 1e6:.0f} MB of disk free, and the folder alone takes {needed / 1e6:.0f} MB.",
            where=f"{device}: {said[-1]}",
            next="free some space there",
        )


def _run(device: Device, home: str, packed: Packed, say: Callable[[str], None]) -> dict[str, MloptError]:
    """Run the program there and pass on what it says. Every build that it did not say it made has its failure.

    It ends when its input does: so it is stopped by Ctrl-C here, and by a connection that breaks. ssh itself is kept
    out of this terminal's interrupts, so that there is time for that.
    """
    program = shlex.join(("python3", f"{home}/build.py", "--json", "--watch-input"))
    # The shell stays: ssh says of a program that a signal ended what it says of a connection that broke.
    command = device.command("sh", "-c", f"{program}; exit $?")
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            errors="replace",
            start_new_session=True,
        )
        try:
            made, failures = _listen(process, device, say)
            code = process.wait()
        finally:
            _stop(process)
        log.seek(0)
        said = log.read().decode(errors="replace")
    if code == 255:
        raise device.lost(said)
    last = _plain((said.strip().splitlines() or ["it printed nothing"])[-1][:300])
    died = DeviceBuildFailed(f"The program on the device ended with exit code {code}: {last}", where=str(device))
    of_all = failures.pop("", died)
    untold = [name for name in packed.names.values() if name not in made and name not in failures]
    return failures | dict.fromkeys(untold, of_all)


def _listen(
    process: subprocess.Popen[str], device: Device, say: Callable[[str], None]
) -> tuple[set[str], dict[str, MloptError]]:
    """Which builds it told that it made, and the failures it told of, by build; "" is one of all that is left."""
    made: set[str] = set()
    failures: dict[str, MloptError] = {}
    stream: IO[str] | None = process.stdout
    assert stream
    for line in stream:
        try:
            told: dict[str, Any] = json.loads(line)
        except ValueError:
            continue  # what a login shell greets with
        if failed := told.get("failed"):
            kind = _KINDS.get(failed["code"], DeviceBuildFailed)
            name = str(failed["build"])
            gone = not failed["where"] or _FOLDER.search(failed["where"])  # a file there, removed when this is read
            where = str(device) if gone else f"{device}: {failed['where']}"
            failures[name] = kind(_plain(failed["what"]), where=_plain(where), next=_plain(failed["afar"]))
            say(f"{device}: {name + ': ' if name else ''}{failures[name].what}")
        elif "say" in told:
            made |= {str(told["made"])} if "made" in told else set()
            say(f"{device}: {_plain(told['say'])}")
    return made, failures


def _stop(process: subprocess.Popen[str]) -> None:
    with contextlib.suppress(OSError):
        assert process.stdin
        process.stdin.close()
    try:
        process.wait(_STOPPING)
    except (subprocess.TimeoutExpired, KeyboardInterrupt):
        process.kill()
        process.wait()


def _check(folder: Path, packed: Packed, name: str, device: Device) -> None:
    """What came back is whole, and made from what was sent."""
    plan = json.loads((packed.folder / "build.json").read_bytes())
    sent = next(build["digest"] for build in plan["builds"] if build["name"] == packed.names[name])
    try:
        facts = json.loads((folder / "engine.json").read_bytes())
        whole = facts["sha256"] == digest_of(folder / "model.engine") and facts["made-from"] == f"sha256:{sent}"
    except (OSError, ValueError, KeyError):
        whole = False
    if not whole:
        raise DeviceBuildFailed(
            f"The engine of {name} did not come back whole from the device.", where=str(device), next="run it again"
        )


def _copy_engine(folder: Path, into: Path) -> None:
    """Only files that the program is known to make, and no links."""
    into.mkdir()
    for name in builder.MADE:
        file = folder / name
        if file.is_file() and not file.is_symlink():
            (into / name).write_bytes(file.read_bytes())


def _plain(text: object) -> str:
    return "".join(letter if letter.isprintable() else " " for letter in str(text))[:600]
