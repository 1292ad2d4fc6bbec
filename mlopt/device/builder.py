#!/usr/bin/env python3
"""Builds the TensorRT engines of this folder on the device that it lies on, checks their answers, and times them.

    python3 build.py                 engines go to engines/NAME/, beside this file

This file is copied to devices as it is: one file, the standard library alone, the syntax of Python 3.6. It uses the
TensorRT that the device has: trtexec, or else the Python module, which builds and cannot run.
"""

import argparse
import array
import ctypes
import errno
import fcntl
import hashlib
import json
import math
import mmap
import os
import platform
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from typing import Any, Dict, List, Optional, Sequence, Tuple

MIB = 1 << 20
# Exit codes: one for each thing that a person does something else about.
WRONG_DEVICE, NO_TENSORRT, UNSUPPORTED, OUT_OF_MEMORY, DISK_FULL, REFUSED, DAMAGED = 10, 11, 12, 13, 14, 15, 16
NO_LINKS = 17
# Found on no device, so an estimate: what a CUDA context and TensorRT's libraries take before they begin.
RUNTIME_MEMORY = 400 * MIB
LEAST_AVAILABLE = 128 * MIB  # with less the system starts to kill, and it may choose somebody else
POLL_SECONDS = 0.1
WARM_UP_MS, RUN_SECONDS = 500, 5
TRTEXEC = ("usr/src/tensorrt/bin/trtexec", "opt/tensorrt/bin/trtexec")
# Where first-start/compose.yaml puts it: containers do not see /proc/device-tree.
MOUNTED_BOARD = "run/device-tree-model"
OLDEST_MODULE = (8, 5)  # since then it has all the names that are used here
PIECE = 1 << 16  # bytes of text that are made into numbers at a time
FULL = (errno.ENOSPC, errno.EDQUOT)
MADE = ("model.engine", "engine.json", "timing.cache", "layers.json", "times.json", "build.log")
FLOATS = {"float32": "f", "float64": "d", "int32": "i", "int64": "q", "int8": "b", "uint8": "B", "bool": "B"}


class Failure(Exception):
    """What a person can act on: the exit code, what happened, where, and what to do next: `next` is for who is at this
    program, `afar` for who had mlopt start it over ssh, where that is something else."""

    def __init__(self, code: int, what: str, where: str = "", next: str = "", afar: str = "") -> None:
        super().__init__(what)
        self.code, self.what, self.where, self.next, self.afar = code, what, where, next, afar or next


class Stopped(BaseException):
    """A signal, or the end of standard input where that was to be watched."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


class TooWide(Exception):
    """A sample that this TensorRT cannot be given: the engine is whole all the same."""


class Log:
    """Lines for a person, or with --json one object a line for a program."""

    def __init__(self, as_json: bool) -> None:
        self.as_json = as_json

    def say(self, text: str) -> None:
        self._line({"say": text}, text)

    def made(self, name: str, text: str, place: str, sha256: str) -> None:
        text = "%s: %s" % (name, text)
        self._line({"made": name, "say": text, "place": place, "sha256": sha256}, text)

    def fail(self, failure: Failure, name: str = "") -> None:
        told = {"build": name, "code": failure.code, "what": failure.what}
        told.update({"where": failure.where, "next": failure.next, "afar": failure.afar})
        text = "%serror: %s" % (name + ": " if name else "", failure.what)
        text += "\n  where: " + failure.where if failure.where else ""
        text += "\n  next:  " + failure.next if failure.next else ""
        self._line({"failed": told}, text)

    def _line(self, told: Dict[str, Any], text: str) -> None:
        line = (json.dumps(told) if self.as_json else text) + "\n"
        sys.stdout.buffer.write(line.encode("utf-8", "replace"))  # Python 3.6 knows ASCII alone where LANG says nothing
        sys.stdout.buffer.flush()


# ---- the device --------------------------------------------------------------------------------------------------


def device_facts(root: str) -> Dict[str, Any]:
    """What this device is: board, system, memory, clocks' setting, GPU. Empty where it does not say."""
    release = re.search(r"# R([0-9]+) \(release\), REVISION: ([0-9.]+)", text_of(root, "etc/nv_tegra_release"))
    driver = re.search(r"Kernel Module.*?\s([0-9]+\.[0-9.]+)", text_of(root, "proc/driver/nvidia/version"))
    board = text_of(root, "proc/device-tree/model") or text_of(root, MOUNTED_BOARD)
    facts = {
        "board": board.strip("\0\n "),
        "l4t": "%s.%s" % release.groups() if release else "",
        "machine": platform.machine(),
        "system": " ".join(re.findall(r'^PRETTY_NAME="?([^"\n]*)', text_of(root, "etc/os-release"), re.M)),
        "cuda": cuda_version(root),
        "driver": driver.group(1) if driver else "",
        "power-mode": power_mode(),
        "memory": meminfo(root, "MemTotal"),
        "swap": meminfo(root, "SwapTotal"),
    }
    facts.update(gpu_facts())
    return facts


def text_of(root: str, name: str) -> str:
    try:
        with open(os.path.join(root, name), "rb") as stream:
            return stream.read().decode("utf-8", "replace")
    except OSError:
        return ""


def meminfo(root: str, key: str) -> int:
    found = re.search(r"^%s:\s+([0-9]+) kB" % key, text_of(root, "proc/meminfo"), re.M)
    return int(found.group(1)) * 1024 if found else 0


def cuda_version(root: str) -> str:
    try:
        return str(json.loads(text_of(root, "usr/local/cuda/version.json"))["cuda"]["version"])
    except (ValueError, KeyError, TypeError):
        found = re.search(r"CUDA Version ([0-9.]+)", text_of(root, "usr/local/cuda/version.txt"))
        return found.group(1) if found else ""


def power_mode() -> str:
    """As `nvpmodel -q` says it; empty where there is none, or it may not be asked."""
    path = os.pathsep.join((os.environ.get("PATH", ""), "/usr/sbin"))  # where ssh alone does not look
    said = output_of([shutil.which("nvpmodel", path=path) or "nvpmodel", "-q"])
    found = re.search(r"NV Power Mode:\s*(\S+)", said)
    return found.group(1) if found else ""


GPU_PROGRAM = """
import ctypes
cuda = ctypes.CDLL("libcuda.so.1")
device, number, name = ctypes.c_int(), ctypes.c_int(), ctypes.create_string_buffer(128)
assert cuda.cuInit(0) == 0 and cuda.cuDeviceGet(ctypes.byref(device), 0) == 0
cuda.cuDeviceGetName(name, 128, device)
numbers = []
for attribute in (75, 76):
    cuda.cuDeviceGetAttribute(ctypes.byref(number), attribute, device)
    numbers.append(number.value)
cuda.cuDriverGetVersion(ctypes.byref(number))
print("%d.%d|%d.%d|%s" % (numbers[0], numbers[1], number.value // 1000, number.value % 1000 // 10, name.value.decode()))
"""


def gpu_facts() -> Dict[str, str]:
    """The first GPU as its driver says it. A process of its own asks: a broken driver must not end this one."""
    cells = output_of([sys.executable, "-c", GPU_PROGRAM]).strip().split("|", 2)
    if len(cells) != 3:
        cells = ["", "", ""]
    return {"compute-capability": cells[0], "driver-cuda": cells[1], "gpu": cells[2]}


def output_of(command: Sequence[str], limit: float = 60) -> str:
    try:
        ended = subprocess.run(
            list(command), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, timeout=limit
        )
    except (OSError, subprocess.SubprocessError):
        return ""
    return ended.stdout.decode("utf-8", "replace")


def check_device(expect: Dict[str, Any], facts: Dict[str, Any], target: str) -> None:
    """Raises `Failure` when this is not what the target says: nothing that is built here would be for it."""
    board = expect.get("board")
    if board and not re.search(board, facts["board"]):
        raise Failure(
            WRONG_DEVICE,
            "This device is not %s: it says that it is %s."
            % (target, repr(facts["board"]) if facts["board"] else "no board at all"),
            where="/proc/device-tree/model",
            next="mlopt targets list shows the boards; compile for the one that this is",
        )
    known = [version for version in expect.get("l4t", ()) if version]
    if known and facts["l4t"].split(".")[0] not in [version.split(".")[0] for version in known]:
        raise Failure(
            WRONG_DEVICE,
            "This device runs Jetson Linux %s, and the target knows %s."
            % (facts["l4t"] or "of an unknown release", ", ".join(known)),
            where="/etc/nv_tegra_release",
            next="flash one of those, or compile for a target file that names this one",
        )
    whole = expect.get("memory")  # one name of the device tree goes for modules of several sizes
    if whole and facts["memory"] and not 0.6 * whole < facts["memory"] <= whole:
        raise Failure(
            WRONG_DEVICE,
            "This device has %s of memory, and %s has %s." % (size(facts["memory"]), target, size(whole)),
            where="/proc/meminfo",
            next="mlopt targets list shows the boards; compile for the one that this is",
        )
    wanted, found = expect.get("compute-capability"), facts["compute-capability"]
    if wanted and found and wanted != found:
        raise Failure(
            WRONG_DEVICE,
            "The GPU here has compute capability %s, and %s has %s." % (found, target, wanted),
            where=facts["gpu"],
            next="compile for the card that this is",
        )
    called = expect.get("gpu")  # cards of one compute capability are not one card
    if called and facts["gpu"] and not re.match("(?:%s)$" % called, facts["gpu"]):
        raise Failure(
            WRONG_DEVICE,
            "The GPU here is not that of %s: its driver calls it %r." % (target, facts["gpu"]),
            where="compute capability " + found,
            next="compile for the card that this is",
        )


# ---- room --------------------------------------------------------------------------------------------------------


def check_room(folder: str, builds: Sequence[Dict[str, Any]], root: str, quota: Optional[int], log: Log) -> None:
    """Raises `Failure` when memory or disk cannot be enough, before hours are spent on it. Both are estimates."""
    largest = max(build["bytes"] for build in builds)
    disk = 2 * sum(build["bytes"] for build in builds) + 64 * MIB  # engines, and one that is being built
    free = shutil.disk_usage(folder).free
    if quota is not None:
        free = min(free, quota)
    if free < disk:
        raise Failure(
            DISK_FULL,
            "The engines need about %s of disk, and %s is free." % (size(disk), size(free)),
            where=folder,
            next="free some space, or build in a folder on another disk: --cache DIR",
            afar="free some space there",
        )
    available, swap = meminfo(root, "MemAvailable"), meminfo(root, "SwapFree")
    least = largest + RUNTIME_MEMORY
    if available and available + swap < least:
        raise Failure(
            OUT_OF_MEMORY,
            "Building needs at least %s of memory, and %s and %s of swap are free."
            % (size(least), size(available), size(swap)),
            where="/proc/meminfo",
            next="stop what else runs there (a desktop takes 1 GB), or add swap",
        )
    if available and available < 3 * largest + 2 * RUNTIME_MEMORY and swap < 1024 * MIB:
        log.say("memory may be short: %s free, %s of swap" % (size(available), size(swap)))


def size(count: float) -> str:
    return "%.1f GB" % (count / 1e9) if count >= 1e9 else "%.0f MB" % (count / 1e6)


# ---- processes that may die --------------------------------------------------------------------------------------


class Guard:
    """Runs a program in a session of its own, with what it prints in a file, and ends it before memory does.

    On a Jetson the GPU takes the system's memory, which no limit of a process counts; so what is watched is what the
    system has left.
    """

    def __init__(self, root: str) -> None:
        self.root = root
        self.least_available = 0
        self.peak_rss = 0
        self.stopped_for_memory = False

    def run(self, command: Sequence[str], output: str) -> int:
        self.least_available, self.stopped_for_memory = meminfo(self.root, "MemAvailable"), False
        with open(output, "wb") as stream:
            process = subprocess.Popen(
                list(command), stdin=subprocess.DEVNULL, stdout=stream, stderr=stream, preexec_fn=first_to_go
            )
            try:
                return self._wait(process)
            except BaseException:
                end(process.pid)
                process.wait()
                raise

    def _wait(self, process: "subprocess.Popen[bytes]") -> int:
        while True:
            done, status, used = os.wait4(process.pid, os.WNOHANG)
            if done:
                end(process.pid)  # whatever it started
                process.returncode = -os.WTERMSIG(status) if os.WIFSIGNALED(status) else os.WEXITSTATUS(status)
                self.peak_rss = used.ru_maxrss * 1024
                return process.returncode
            available = meminfo(self.root, "MemAvailable")
            if available:
                self.least_available = min(self.least_available or available, available)
                left = available + meminfo(self.root, "SwapFree")
                if left < LEAST_AVAILABLE and not self.stopped_for_memory:
                    self.stopped_for_memory = True
                    end(process.pid)
            time.sleep(POLL_SECONDS)


def first_to_go() -> None:
    """In the child: a session of its own, ended with its parent, and what the kernel kills first."""
    os.setsid()
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
    try:
        with open("/proc/self/oom_score_adj", "w") as stream:
            stream.write("1000")
    except OSError:
        pass  # not every container lets one


def end(group: int) -> None:
    try:
        os.killpg(group, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        pass


# ---- TensorRT ----------------------------------------------------------------------------------------------------


class Trtexec:
    """The vendor's own program. Only options that this version lists in its help are given to it."""

    name = "trtexec"

    def __init__(self, path: str, told: str) -> None:
        self.path = path
        self.options = frozenset(re.findall(r"--([A-Za-z]\w+)", told))
        banner = re.search(r"\[TensorRT v([0-9]+)\]", told)
        self.version = version_of(int(banner.group(1))) if banner else ""

    def build(self, asked: Dict[str, Any], guard: Guard, log: str) -> int:
        """Write the engine, and the layer report where this version makes one."""
        command = [self.path, "--onnx=" + asked["model"], "--saveEngine=" + asked["engine"]]
        command += types_of(asked["types"], self.version, self.options)
        if "memPoolSize" in self.options:
            command.append("--memPoolSize=workspace:%d" % (asked["workspace"] // MIB))
        elif "workspace" in self.options:
            command.append("--workspace=%d" % (asked["workspace"] // MIB))
        for option, key in (("minShapes", "least"), ("optShapes", "usual"), ("maxShapes", "most")):
            if asked["shapes"]:
                command.append("--%s=%s" % (option, shapes_of(asked["shapes"], key)))
        if "timingCacheFile" in self.options:
            command.append("--timingCacheFile=" + asked["timing-cache"])
        if asked["sparse"] and "sparsity" in self.options:
            # Permission, not an order: TensorRT times both. Which it took it says in its verbose log alone.
            command += ["--sparsity=enable"] + (["--verbose"] if "verbose" in self.options else [])
        if "exportLayerInfo" in self.options:
            command += ["--profilingVerbosity=detailed"] if "profilingVerbosity" in self.options else []
            command.append("--exportLayerInfo=" + asked["layers"])
        command += ["--" + option for option in ("skipInference", "buildOnly") if option in self.options][:1]
        return guard.run(command, log)

    def run(self, asked: Dict[str, Any], feed: Dict[str, str], guard: Guard, log: str, more: Sequence[str]) -> int:
        """Load the engine and answer one sample, as often as `more` says."""
        command = [self.path, "--loadEngine=" + asked["engine"]]
        command.append("--loadInputs=" + ",".join("%s:%s" % (quoted(name), feed[name]) for name in sorted(feed)))
        if asked["shapes"]:
            command.append("--shapes=" + shapes_of(asked["shapes"], "sample"))
        return guard.run(command + list(more), log)


class PythonModule:
    """TensorRT's Python module: builds, in a process of its own, and runs nothing."""

    name = "tensorrt"

    def __init__(self, version: str) -> None:
        self.version = version

    def build(self, asked: Dict[str, Any], guard: Guard, log: str) -> int:
        told = asked["engine"] + ".asked"
        write_json(told, dict(asked, version=self.version))
        try:
            return guard.run([sys.executable, os.path.abspath(__file__), "--with-module", told], log)
        finally:
            os.remove(told)


def find_tensorrt(root: str) -> Any:
    """trtexec where the vendor puts it or on PATH, else the Python module. Raises `Failure` without either."""
    paths = [os.path.join(root, path) for path in TRTEXEC] + [shutil.which("trtexec") or ""]
    for path in paths:
        if path and os.access(path, os.X_OK):
            found = Trtexec(path, output_of([path, "--help"]))
            if found.version and {"onnx", "saveEngine", "loadEngine"} <= found.options:
                return found
    version = output_of([sys.executable, "-c", "import tensorrt; print(tensorrt.__version__)"]).strip()
    if version:
        module = PythonModule(version.splitlines()[-1])
        if number_of(module.version) >= OLDEST_MODULE:
            return module
        raise Failure(
            NO_TENSORRT,
            "There is no trtexec on this device, and its Python module tensorrt %s is too old." % module.version,
            where=sys.executable,
            next="install trtexec: sudo apt install libnvinfer-bin",
        )
    raise Failure(
        NO_TENSORRT,
        "There is no TensorRT on this device: neither trtexec nor the Python module tensorrt.",
        where=", ".join("/" + path for path in TRTEXEC) + ", PATH, " + sys.executable,
        next="on a Jetson: sudo apt install nvidia-jetpack (or tensorrt)",
    )


def version_of(number: int) -> str:
    """As trtexec prints it: 8502 is 8.5.2, 100300 is 10.3.0."""
    unit = 1000 if number < 10000 else 10000
    return "%d.%d.%d" % (number // unit, number % unit // 100, number % 100)


def number_of(version: str) -> Tuple[int, ...]:
    return tuple(int(part) for part in re.findall("[0-9]+", version))


def major(version: str) -> int:
    return int(version.split(".")[0])


def types_of(types: Sequence[str], version: str, options: "frozenset[str]") -> List[str]:
    """Strong typing wherever it exists; before 10 the flags that let a typed graph be what it is. From 11 on there is
    nothing else, and no option for it."""
    if "stronglyTyped" in options:
        return ["--stronglyTyped"]
    return ["--" + kind for kind in types if kind in ("fp16", "int8")] if major(version) < 10 else []


def shapes_of(shapes: Sequence[Dict[str, Any]], key: str) -> str:
    return ",".join("%s:%s" % (quoted(shape["name"]), "x".join(map(str, shape[key]))) for shape in shapes)


def quoted(name: str) -> str:
    """A name with a colon or a comma in it is to be quoted."""
    return name if re.match(r"[\w./-]+$", name) else "'%s'" % name


def build_with_module(asked: Dict[str, Any]) -> int:
    """In the child: build by the Python module. Exit code 0, or UNSUPPORTED or REFUSED with the reason printed."""
    import tensorrt as trt  # type: ignore[import-not-found,unused-ignore]

    logger = trt.Logger()
    builder = trt.Builder(logger)
    config = builder.create_builder_config()
    flagged = major(asked["version"]) < 10
    network = flagged_network(trt, builder, config, asked["types"]) if flagged else typed_network(trt, builder)
    parser = trt.OnnxParser(network, logger)
    if not parser.parse_from_file(asked["model"]):
        for number in range(parser.num_errors):
            print("[E] " + str(parser.get_error(number)), flush=True)
        return UNSUPPORTED
    config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, asked["workspace"])
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    if asked["sparse"]:
        config.set_flag(trt.BuilderFlag.SPARSE_WEIGHTS)
    if asked["shapes"]:
        profile = builder.create_optimization_profile()
        for shape in asked["shapes"]:
            profile.set_shape(shape["name"], shape["least"], shape["usual"], shape["most"])
        config.add_optimization_profile(profile)
    known = b""
    if os.path.exists(asked["timing-cache"]):
        with open(asked["timing-cache"], "rb") as stream:
            known = stream.read()
    timing = config.create_timing_cache(known)
    config.set_timing_cache(timing, False)
    engine = builder.build_serialized_network(network, config)
    if engine is None:
        return REFUSED
    with open(asked["engine"], "wb") as stream:
        stream.write(engine)
    with open(asked["timing-cache"], "wb") as stream:
        stream.write(timing.serialize())
    return 0


def typed_network(trt: Any, builder: Any) -> Any:
    """TensorRT 10 and later: types are those of the model."""
    return builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))


def flagged_network(trt: Any, builder: Any, config: Any, types: Sequence[str]) -> Any:
    """TensorRT 8: no strong typing yet; the flags allow the types that the model has."""
    for kind in types:
        if kind == "fp16":
            config.set_flag(trt.BuilderFlag.FP16)
        if kind == "int8":
            config.set_flag(trt.BuilderFlag.INT8)
    return builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.EXPLICIT_BATCH))


NODE = (
    # 10 and later: In node 3 with name: conv and operator: Foo (...): UNSUPPORTED_NODE: ...
    re.compile(r"In node [0-9-]+ with name: (?P<name>.*?) and operator: (?P<op>\w+)\s*(?P<said>.*)"),
    # 8: While parsing node number 3 [Foo -> "out"]
    re.compile(r"[Ww]hile parsing node number [0-9]+ \[(?P<op>\w+) -> \"(?P<name>[^\"]*)\"(?P<said>)\]"),
)


def why_failed(code: int, guard: Guard, log: str, version: str) -> Failure:
    """What a build or a run that failed died of, from how it ended and what it printed."""
    with open(log, "rb") as stream:
        said = stream.read().decode("utf-8", "replace")
    errors = [line.split("[E]", 1)[1].strip() for line in said.splitlines() if "[E]" in line]
    last = (errors or said.strip().splitlines()[-1:] or ["it printed nothing"])[0]
    memory = r"out of memory|OutOfMemory|bad_alloc|insufficient memory|Cannot allocate memory"
    if guard.stopped_for_memory:
        return out_of_memory(
            "it was stopped when memory and swap together had less than %s left" % size(LEAST_AVAILABLE)
        )
    if code in (-signal.SIGKILL, 128 + signal.SIGKILL):
        return out_of_memory("the system killed it, as it does when memory ends")
    if "No space left on device" in said or "Disk quota exceeded" in said:
        return Failure(
            DISK_FULL,
            "The disk of the device became full while TensorRT was building.",
            next="free some space, or build on another disk: --cache DIR",
            afar="free some space there",
        )
    for pattern in NODE:
        found = pattern.search(said)
        if found:
            return Failure(
                UNSUPPORTED,
                "TensorRT %s does not take node %r (%s): %s"
                % (version, found.group("name"), found.group("op"), (found.group("said") or last).strip()[:400]),
                where="node %s" % found.group("name"),
                next="replace that operator in the model, or flash a JetPack with a newer TensorRT",
            )
    for line in said.splitlines():  # a warning tells of one kernel that needs more: that is no failure
        if not re.search(r"\[[WV]\]", line) and re.search(memory, line, re.I):
            return out_of_memory(line.strip())
    how = "was ended by signal %d" % -code if code < 0 else "ended with exit code %d" % code
    return Failure(
        REFUSED,
        "TensorRT %s %s: %s" % (version, how, last[:400]),
        where=log,
        next="read that log",
        afar="compile without --device, copy the bundle's device/ there, type python3 build.py in it, and read its log",
    )


def out_of_memory(how: str) -> Failure:
    return Failure(
        OUT_OF_MEMORY,
        "There is not enough memory on this device to build or run the engine: %s." % how,
        where="/proc/meminfo",
        next="stop what else runs there, add swap, or give TensorRT less: --workspace MIB",
        afar="stop what else runs there, add swap, or give TensorRT less: workspace (in MiB) of [engine] in a recipe",
    )


# ---- one engine --------------------------------------------------------------------------------------------------


def build_one(
    build: Dict[str, Any],
    plan: Dict[str, Any],
    tool: Any,
    facts: Dict[str, Any],
    key: Dict[str, Any],
    asked: argparse.Namespace,
    log: Log,
) -> Dict[str, Any]:
    """Engine, parity and times of one model, kept under its key: what is there already is not made again."""
    place = place_of(build, key, asked)
    name = os.path.basename(place)
    kept = intact(place)
    if kept:
        log.say("%s: kept, nothing that decides it has changed" % build["name"])
    else:
        shutil.rmtree(place, ignore_errors=True)
        check_model(plan, build)
        scratch = tempfile.mkdtemp(prefix=".new-", dir=asked.cache)
        try:
            kept = make(build, plan, tool, facts, key, scratch, asked, log)
            write_json(os.path.join(scratch, "engine.json"), kept)
            os.chmod(scratch, 0o755)  # noqa: S103  mkdtemp lets nobody else read
            os.rename(scratch, place)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
    point(os.path.join(asked.cache, build["name"]), name)
    for other in os.listdir(asked.cache):  # engines under keys that are no longer
        if other != name and re.match(re.escape(build["name"]) + "-[0-9a-f]{16}$", other):
            shutil.rmtree(os.path.join(asked.cache, other), ignore_errors=True)
    return kept


IDENTITY = ("board", "l4t", "machine", "cuda", "driver", "driver-cuda", "compute-capability", "gpu")


def key_of(
    build: Dict[str, Any], plan: Dict[str, Any], tool: Any, facts: Dict[str, Any], asked: argparse.Namespace
) -> Dict[str, Any]:
    """All that decides an engine, its times, and what its answers are held against."""
    workspace = asked.workspace * MIB if asked.workspace else build["workspace"] or facts["memory"] // 4 or 1024 * MIB
    key = {
        "model": build["digest"],
        "tensorrt": "%s by %s" % (tool.version, tool.name),
        "types": build["types"],
        "sparse": build["sparse"],
        "shapes": build["shapes"],
        "workspace": workspace,
        "power-mode": facts["power-mode"],
        "samples": samples_digest(plan, build),
    }
    key.update({name: facts[name] for name in IDENTITY})
    return key


def place_of(build: Dict[str, Any], key: Dict[str, Any], asked: argparse.Namespace) -> str:
    return os.path.join(asked.cache, "%s-%s" % (build["name"], digest(key)[:16]))


def samples_of(plan: Dict[str, Any], build: Dict[str, Any]) -> List[str]:
    """The files of the samples, and of the answers that this build must give for them."""
    names = [name for files in plan["samples"]["feeds"] + build["expected"] for name in files]
    return [os.path.join(plan["folder"], name) for name in names]


def samples_digest(plan: Dict[str, Any], build: Dict[str, Any]) -> str:
    paths = samples_of(plan, build)
    return digest([plan["samples"], [sha256_of(path) if os.path.exists(path) else "" for path in paths]])


def make(
    build: Dict[str, Any],
    plan: Dict[str, Any],
    tool: Any,
    facts: Dict[str, Any],
    key: Dict[str, Any],
    scratch: str,
    asked: argparse.Namespace,
    log: Log,
) -> Dict[str, Any]:
    """Everything of one engine, into the folder `scratch`."""
    timing = dict({name: facts[name] for name in IDENTITY}, tensorrt=tool.version, power=facts["power-mode"])
    shared = os.path.join(asked.cache, "timing-%s.cache" % digest(timing)[:16])
    job = {
        "model": os.path.join(plan["folder"], build["model"]),
        "engine": os.path.join(scratch, "model.engine"),
        "timing-cache": os.path.join(scratch, "timing.cache"),
        "layers": os.path.join(scratch, "layers.json"),
        "types": build["types"],
        "sparse": build["sparse"],
        "shapes": build["shapes"],
        "workspace": key["workspace"],
    }
    for known in (shared, os.path.join(plan["folder"], "timing", os.path.basename(shared))):
        if os.path.exists(known):
            shutil.copyfile(known, job["timing-cache"])
            break
    log.say("%s: building with TensorRT %s (%s), this takes minutes" % (build["name"], tool.version, tool.name))
    began, guard, said = time.time(), Guard(asked.root), os.path.join(scratch, "build.log")
    code = tool.build(job, guard, said)
    if code or not os.path.exists(job["engine"]):
        raise why_failed(code, guard, kept_log(asked, build, said), tool.version)
    made = {
        "schema": 1,
        "compiler": "TensorRT " + tool.version,
        "tool": tool.name,
        "key": key,
        "timing-cache": os.path.basename(shared),
        "sha256": sha256_of(job["engine"]),
        "bytes": os.path.getsize(job["engine"]),
        "made-from": "sha256:" + build["digest"],
        "compute-capabilities": [facts["compute-capability"]] if facts["compute-capability"] else [],
        "shapes": build["shapes"],
        "board": facts["board"] or facts["gpu"],
        "device": facts,
        "build": {
            "seconds": round(time.time() - began, 1),
            "peak-rss": guard.peak_rss,
            "least-available": guard.least_available,
        },
    }  # type: Dict[str, Any]
    if build["sparse"]:
        made["sparse-layers"] = sparse_layers(said)
    if os.path.exists(job["timing-cache"]):
        shutil.copyfile(job["timing-cache"], shared + ".new")
        os.replace(shared + ".new", shared)
    made["state"], made["why-not-run"] = "built, not run", ""
    if not isinstance(tool, Trtexec):
        made["why-not-run"] = "there is no trtexec on it"
        return made
    log.say("%s: built in %.0f s; comparing answers, measuring" % (build["name"], made["build"]["seconds"]))
    try:
        made.update(tried(job, build, plan, tool, scratch, asked))
        made["state"] = "measured on " + (made["board"] or "this device")
    except TooWide as error:
        made["why-not-run"] = str(error)
        log.say("%s: %s" % (build["name"], made["why-not-run"]))
    except (ValueError, KeyError, IndexError, TypeError, ArithmeticError) as error:
        # Of another version, perhaps: the engine is whole all the same.
        made["why-not-run"] = "what trtexec wrote of its run could not be read (%s: %s)" % (type(error).__name__, error)
        log.say("%s: %s" % (build["name"], made["why-not-run"]))
    return made


SPARSE = {
    "able": re.compile(r"\(Sparsity\) (?:Found ([0-9]+) layer|Layers eligible for sparse math:(.*))"),
    "chosen": re.compile(r"\(Sparsity\) (?:Chose ([0-9]+) layer|.* picked sparse implementation for layers:(.*))"),
}  # of 10, and of 8, which lists names


def sparse_layers(log: str) -> Dict[str, Optional[int]]:
    """In how many layers TensorRT saw two of four weights zero, and in how many it took kernels that skip them, for
    they were faster; None where its log does not say."""
    found = {"able": None, "chosen": None}  # type: Dict[str, Optional[int]]
    with open(log, "rb") as stream:
        for line in stream:
            for kind, pattern in SPARSE.items():
                said = pattern.search(line.decode("utf-8", "replace")) if b"(Sparsity)" in line else None
                if said:  # the last word is of the engine that was made
                    number, names = said.groups()
                    found[kind] = int(number) if number else len(names.split(",")) if names.strip() else 0
    return found


def kept_log(asked: argparse.Namespace, build: Dict[str, Any], log: str) -> str:
    """The log outlives the scratch folder that a failed build leaves nothing of."""
    place = str(os.path.join(asked.cache, build["name"] + ".log"))
    shutil.copyfile(log, place)
    return place


def tried(
    job: Dict[str, Any],
    build: Dict[str, Any],
    plan: Dict[str, Any],
    tool: Trtexec,
    scratch: str,
    asked: argparse.Namespace,
) -> Dict[str, Any]:
    """The engine's answers against those of the ONNX model on the same samples, then its times. Only what was built a
    moment ago by this program is loaded."""
    samples, guard = plan["samples"], Guard(asked.root)
    job = dict(job, shapes=sample_shapes(job["shapes"], samples["inputs"]))
    answers, said = os.path.join(scratch, "answers.json"), os.path.join(scratch, "run.log")
    found = []  # type: List[Optional[Tuple[float, float, bool]]]
    once = ["--iterations=1", "--duration=0", "--warmUp=0", "--exportOutput=" + answers]
    for number, files in enumerate(samples["feeds"]):
        feed = inputs_of(plan["folder"], samples["inputs"], files, tool.version, scratch)
        code = tool.run(job, feed, guard, said, once)
        if code:
            raise why_failed(code, guard, kept_log(asked, build, said), tool.version)
        given = answers_in(answers)
        for output, expected in zip(samples["outputs"], build["expected"][number]):
            wanted = read_array(os.path.join(plan["folder"], expected), "float32")
            found.append(compared(wanted, given.get(output, ())))
    times, before = os.path.join(scratch, "times.json"), meminfo(asked.root, "MemAvailable")
    long = ["--warmUp=%d" % WARM_UP_MS, "--duration=%d" % RUN_SECONDS, "--exportTimes=" + times]
    code = tool.run(job, feed, guard, said, long)
    if code:
        raise why_failed(code, guard, kept_log(asked, build, said), tool.version)
    os.remove(answers)
    return {
        "parity": parity(found, len(samples["feeds"])),
        "latency": latency(times),
        "memory": {"peak-rss": guard.peak_rss, "of-the-board": max(0, before - guard.least_available)},
    }


def sample_shapes(shapes: Sequence[Dict[str, Any]], inputs: Sequence[Dict[str, Any]]) -> List[Dict[str, Any]]:
    by_name = {one["name"]: one["shape"] for one in inputs}
    return [dict(shape, sample=by_name[shape["name"]]) for shape in shapes]


def inputs_of(
    folder: str, inputs: Sequence[Dict[str, Any]], files: Sequence[str], version: str, scratch: str
) -> Dict[str, str]:
    """Files by input. Before TensorRT 10 inputs of 64-bit integers are read as 32 bits."""
    feed = {}
    for number, (tensor, file) in enumerate(zip(inputs, files)):
        path = os.path.join(folder, file)
        if tensor["dtype"] == "int64" and major(version) < 10:
            try:
                narrow = array.array("i", read_array(path, "int64"))
            except OverflowError as error:
                raise TooWide(
                    "input %s of its samples has numbers of more than 32 bits, and TensorRT %s reads no such"
                    % (tensor["name"], version)
                ) from error
            path = os.path.join(scratch, "input-%d.bin" % number)
            with open(path, "wb") as stream:
                narrow.tofile(stream)
        feed[tensor["name"]] = path
    return feed


def read_array(path: str, dtype: str) -> Sequence[Any]:
    values = array.array(FLOATS[dtype])
    with open(path, "rb") as stream:
        values.fromfile(stream, os.path.getsize(path) // values.itemsize)
    return values


HEAD = re.compile(rb'"name"\s*:\s*"(?P<name>[^"]*)"|"values"\s*:\s*\[')


def answers_in(path: str) -> Dict[str, Sequence[float]]:
    """What --exportOutput wrote, by output. Raises `ValueError`.

    Read in pieces into packed numbers: as Python's own they take eight times the memory, which the GPU of a board
    shares. And C++ prints nan and inf as JSON does not.
    """
    found, name, position = {}, "", 0  # type: Dict[str, Sequence[float]], str, int
    with open(path, "rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as text:
        while True:
            head = HEAD.search(text, position)
            if head is None:
                break
            position = head.end()
            if head.group("name") is not None:
                name = head.group("name").decode("utf-8", "replace")
                continue
            end_of_values = text.find(b"]", position)
            found[name] = numbers_in(text, position, end_of_values)
            position = end_of_values
    if not found:
        raise ValueError("it has no values")
    return found


def numbers_in(text: Any, position: int, last: int) -> Sequence[float]:
    """The numbers between commas in that part of `text`; `last` below zero: the part has no end."""
    if last < 0:
        raise ValueError("its values have no end")
    values = array.array("f")
    while position < last:
        comma = text.find(b",", min(position + PIECE, last), last)
        stop = comma if comma >= 0 else last
        piece = re.sub(rb"\([^)]*\)", b"", text[position:stop])  # of nan(0x...)
        values.extend(map(float, piece.split(b",") if piece.strip() else ()))
        position = stop + 1
    return values


def compared(wanted: Sequence[float], found: Sequence[float]) -> Optional[Tuple[float, float, bool]]:
    """Cosine, largest difference, and whether the first answer is the same; None of what is no answer to compare."""
    if len(wanted) != len(found) or not all(map(math.isfinite, found)):
        return None
    dot = sum(a * b for a, b in zip(wanted, found))
    norm = math.sqrt(sum(a * a for a in wanted)) * math.sqrt(sum(b * b for b in found))
    cosine = dot / norm if norm else 1.0 if not any(wanted) and not any(found) else 0.0
    largest = max((abs(a - b) for a, b in zip(wanted, found)), default=0.0)
    return cosine, largest, largest_at(wanted) == largest_at(found)


def parity(found: Sequence[Optional[Tuple[float, float, bool]]], samples: int) -> Dict[str, Any]:
    """The least cosine over samples and outputs, the largest difference, and how many first answers stay."""
    whole = [one for one in found if one is not None]
    complete = len(whole) == len(found)
    return {
        "samples": samples,
        "against": "the ONNX model in ONNX Runtime",
        "complete": complete,
        "cosine": min(one[0] for one in whole) if whole and complete else None,
        "max-absolute": max(one[1] for one in whole) if whole and complete else None,
        "same-largest-answer": sum(one[2] for one in found[:: len(found) // samples] if one is not None),
    }


def largest_at(values: Sequence[float]) -> int:
    return max(range(len(values)), key=values.__getitem__, default=-1)


def latency(path: str) -> Dict[str, Any]:
    """Seconds, of trtexec's own clocks: what a query takes with copies in and out, and its kernels alone."""
    with open(path) as stream:
        trace = json.load(stream)
    rows = [row for row in trace if row.get("startComputeMs", WARM_UP_MS) >= WARM_UP_MS] or trace
    whole = sorted(row["latencyMs"] / 1e3 for row in rows)
    compute = sorted(row["computeMs"] / 1e3 for row in rows)
    found = {"p%d" % share: rank(whole, share) for share in (50, 90, 99)}  # type: Dict[str, Any]
    found.update({"minimum": whole[0], "maximum": whole[-1], "queries": len(whole), "compute-p50": rank(compute, 50)})
    found["method"] = "trtexec, one query at a time, copies included, after %d ms of warm-up" % WARM_UP_MS
    return found


def rank(ordered: Sequence[float], share: int) -> float:
    return ordered[max(0, math.ceil(len(ordered) * share / 100) - 1)]


# ---- files -------------------------------------------------------------------------------------------------------


def intact(place: str) -> Optional[Dict[str, Any]]:
    """engine.json of a kept engine, if the engine still is what was built."""
    try:
        with open(os.path.join(place, "engine.json")) as stream:
            kept = json.load(stream)  # type: Dict[str, Any]
        return kept if sha256_of(os.path.join(place, "model.engine")) == kept["sha256"] else None
    except (OSError, ValueError, KeyError):
        return None


def check_model(plan: Dict[str, Any], build: Dict[str, Any]) -> None:
    """Raises `Failure` when a file is not what the plan says: nothing else is built."""
    models = {os.path.join(plan["folder"], name): build["files"][name] for name in build["files"]}
    for path in sorted(models) + samples_of(plan, build):
        if not os.path.exists(path) or (path in models and sha256_of(path) != models[path]):
            raise Failure(
                DAMAGED,
                "A file of this folder is missing or was changed.",
                where=path,
                next="copy the folder again",
                afar="run it again",
            )


def sha256_of(path: str) -> str:
    sha = hashlib.sha256()
    with open(path, "rb") as stream:
        for chunk in iter(lambda: stream.read(MIB), b""):
            sha.update(chunk)
    return sha.hexdigest()


def digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def point(link: str, name: str) -> None:
    """`link` leads to the folder `name` beside it, in one move: a reader sees the old one or the new one."""
    fresh = link + ".new"
    if os.path.lexists(fresh):
        os.remove(fresh)
    os.symlink(name, fresh)
    if os.path.isdir(link) and not os.path.islink(link):  # as scp -r copies a link
        shutil.rmtree(link)
    os.replace(fresh, link)


def check_links(folder: str) -> None:
    """Raises `Failure` where `point` could not: that is to be known before hours are spent on an engine."""
    trial = os.path.join(folder, ".link")
    try:
        if os.path.lexists(trial):  # of a run that was killed
            os.remove(trial)
        os.symlink("nowhere", trial)
        os.remove(trial)
    except OSError as error:
        if error.errno in FULL:
            raise
        raise Failure(
            NO_LINKS,
            "This disk takes no symbolic links, by which engines are found: %s." % error.strerror,
            where=folder,
            next="copy the folder to a disk with links, or --cache DIR",
            afar="log in to an account whose home lies on a disk with links",
        ) from error


def write_json(path: str, value: Any) -> None:
    with open(path, "w") as stream:
        json.dump(value, stream, indent=1, sort_keys=True)
        stream.write("\n")


def locked(path: str, log: Log) -> Any:
    """The open lock: one build at a time in a cache; a second one waits, and says so."""
    stream = open(path, "w")
    try:
        fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        log.say("another build is running here; waiting for it")
        fcntl.flock(stream, fcntl.LOCK_EX)
    return stream


# ---- the walk ----------------------------------------------------------------------------------------------------


def build_all(asked: argparse.Namespace, log: Log) -> int:
    """Every build of the plan: one that fails leaves the others. The exit code is that of the first failure."""
    folder = os.path.dirname(os.path.abspath(__file__))
    with open(os.path.join(folder, "build.json")) as stream:
        plan = json.load(stream)
    plan["folder"] = folder
    if asked.only:
        known = [build["name"] for build in plan["builds"]]
        unknown = sorted(set(asked.only) - set(known))
        if unknown:
            raise Failure(
                2, "There is no %s to build here." % unknown[0], where=folder, next="one of " + ", ".join(known)
            )
        plan["builds"] = [build for build in plan["builds"] if build["name"] in asked.only]
    facts = device_facts(asked.root)
    log.say(
        "%s, Jetson Linux %s, power mode %s, %s of memory"
        % (
            facts["board"] or facts["gpu"] or "unknown board",
            facts["l4t"] or "unknown",
            facts["power-mode"] or "unknown",
            size(facts["memory"]),
        )
    )
    check_device(plan["expect"], facts, plan["target"])
    tool = find_tensorrt(asked.root)
    os.makedirs(asked.cache, exist_ok=True)
    results = {"device": facts, "builds": {}, "failures": {}}  # type: Dict[str, Any]
    code = 0
    with locked(os.path.join(asked.cache, ".lock"), log):
        for left in os.listdir(asked.cache):
            if left.startswith(".new-"):  # of a build that was killed
                shutil.rmtree(os.path.join(asked.cache, left), ignore_errors=True)
        check_links(asked.cache)
        keys = [key_of(build, plan, tool, facts, asked) for build in plan["builds"]]
        lacking = [one for one, key in zip(plan["builds"], keys) if not intact(place_of(one, key, asked))]
        if lacking:
            check_room(asked.cache, lacking, asked.root, asked.disk_quota, log)
        for build, key in zip(plan["builds"], keys):
            try:
                made = build_one(build, plan, tool, facts, key, asked, log)
                results["builds"][build["name"]] = made
                log.made(build["name"], summary(made), place_of(build, key, asked), made["sha256"])
            except Failure as failure:
                log.fail(failure, build["name"])
                results["failures"][build["name"]] = {"code": failure.code, "what": failure.what}
                code = code or failure.code
        write_json(os.path.join(asked.cache, "result.json.new"), results)
        os.replace(os.path.join(asked.cache, "result.json.new"), os.path.join(asked.cache, "result.json"))
    return code


def summary(made: Dict[str, Any]) -> str:
    text = "%s, %s" % (made["state"], size(made["bytes"]))
    if "latency" in made:
        text += ", p50 %.3f ms" % (made["latency"]["p50"] * 1e3)
        cosine = made["parity"]["cosine"]
        text += ", answers: cosine %.6f" % cosine if cosine is not None else ", answers are not finite or not complete"
    return text


def watch_input() -> None:
    """Standard input ends when whoever started this over a network is gone: then this ends too."""

    def wait() -> None:
        while os.read(0, 4096):  # not sys.stdin: its lock would be held when this ends
            pass
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=wait, daemon=True).start()


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="build.py", description="Build this folder's TensorRT engines, here.")
    here = os.path.dirname(os.path.abspath(__file__))
    parser.add_argument("--cache", default=os.path.join(here, "engines"), help="where engines are kept")
    parser.add_argument("--only", action="append", metavar="NAME", help="build this one; may be repeated")
    parser.add_argument("--workspace", type=int, help="MiB that TensorRT may use while it tries kernels")
    parser.add_argument("--disk-quota", type=int, help="bytes of disk that may be used, if less than what is free")
    parser.add_argument("--json", action="store_true", help="one JSON object a line, for programs")
    parser.add_argument("--watch-input", action="store_true", help="stop when standard input ends")
    root = os.environ.get("MLOPT_DEVICE_ROOT", "/")
    parser.add_argument("--root", default=root, help="where /proc and /etc lie (MLOPT_DEVICE_ROOT), for tests")
    parser.add_argument("--with-module", help=argparse.SUPPRESS)
    asked = parser.parse_args(arguments)
    if asked.with_module:
        with open(asked.with_module) as stream:
            return build_with_module(json.load(stream))
    log = Log(asked.json)

    def stop(number: int, frame: Any) -> None:
        raise Stopped(number)

    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, stop)
    if asked.watch_input:
        watch_input()
    try:
        return build_all(asked, log)
    except Stopped as stopped:
        log.say("stopped; engines that were there stay")
        return 128 + stopped.number
    except Failure as failure:
        log.fail(failure)
        return failure.code
    except OSError as error:
        if error.errno not in FULL:
            raise
        log.fail(Failure(DISK_FULL, "The disk of this device is full.", where=asked.cache, next="free some space"))
        return DISK_FULL


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
