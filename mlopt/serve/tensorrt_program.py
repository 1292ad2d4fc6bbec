#!/usr/bin/env python3
"""Runs one TensorRT engine in a process of its own, by the Python and the TensorRT that the system has.

    python3 tensorrt_program.py ENGINE SHA256     queries on standard input, answers on standard output

One file, the standard library and `tensorrt`, the syntax of Python 3.6: the server has a Python of its own, for which
the system has no TensorRT, and an engine that crashes shall not end the server. A message is a length (4 bytes), JSON
of that length, and the bytes of its tensors one after another.
"""

import ctypes
import hashlib
import json
import os
import struct
import sys
from typing import Any, Dict, List, Sequence, Tuple  # noqa: F401  one of them in a comment

# Bytes of an element, by the name that TensorRT gives the type.
SIZES = {"FLOAT": 4, "HALF": 2, "INT32": 4, "INT64": 8, "INT8": 1, "UINT8": 1, "BOOL": 1}


class Refused(Exception):
    """These inputs: the engine goes on."""


class Broken(Exception):
    """The engine, the driver or TensorRT: nothing more is to be had of this process."""


class Cuda:
    """Memory and one stream of the first GPU, by its driver's own library: there is no other that every system has."""

    def __init__(self) -> None:
        try:
            self.library = ctypes.CDLL("libcuda.so.1")
        except OSError as error:
            raise Broken("there is no driver of an NVIDIA GPU here: %s" % error) from error
        device, context, self.stream = ctypes.c_int(), ctypes.c_void_p(), ctypes.c_void_p()
        self.call("cuInit", ctypes.c_uint(0))
        self.call("cuDeviceGet", ctypes.byref(device), ctypes.c_int(0))
        self.call("cuDevicePrimaryCtxRetain", ctypes.byref(context), device)  # the one that TensorRT uses
        self.call("cuCtxSetCurrent", context)
        self.call("cuStreamCreate", ctypes.byref(self.stream), ctypes.c_uint(1))  # waits for no other stream

    def call(self, name: str, *arguments: Any) -> None:
        code = getattr(self.library, name)(*arguments)
        if code:
            raise Broken("the driver's %s ended with error %d" % (name, code))

    def reserve(self, size: int) -> int:
        address = ctypes.c_uint64()
        self.call("cuMemAlloc_v2", ctypes.byref(address), ctypes.c_size_t(size))
        return address.value

    def release(self, address: int) -> None:
        self.call("cuMemFree_v2", ctypes.c_uint64(address))

    def copy_in(self, address: int, data: bytes) -> None:
        self.call(
            "cuMemcpyHtoDAsync_v2",
            ctypes.c_uint64(address),
            ctypes.c_char_p(data),
            ctypes.c_size_t(len(data)),
            self.stream,
        )

    def copy_out(self, data: bytearray, address: int) -> None:
        view = (ctypes.c_char * len(data)).from_buffer(data)
        self.call("cuMemcpyDtoHAsync_v2", view, ctypes.c_uint64(address), ctypes.c_size_t(len(data)), self.stream)

    def wait(self) -> None:
        self.call("cuStreamSynchronize", self.stream)


class Loaded:
    """An engine on the GPU, and what it takes and gives."""

    def __init__(self, data: bytes, cuda: Cuda) -> None:
        import tensorrt as trt  # type: ignore[import-not-found,unused-ignore]

        self.cuda, self.version = cuda, str(trt.__version__)
        logger = trt.Logger()
        plugins = getattr(trt, "init_libnvinfer_plugins", None)  # of NVIDIA's own; not in every version
        if plugins:
            plugins(logger, "")
        runtime = trt.Runtime(logger)
        engine = runtime.deserialize_cuda_engine(data)
        if engine is None:
            raise Broken("TensorRT %s does not load it" % self.version)
        context = engine.create_execution_context()
        if context is None:
            raise Broken("TensorRT %s has no memory to run it" % self.version)
        self.kept = (logger, runtime, engine)  # the context needs them all
        self.context = context
        self.tensors = [described(engine, engine.get_tensor_name(number)) for number in range(engine.num_io_tensors)]
        self.places = {}  # type: Dict[str, Tuple[int, int]]

    def run(
        self, given: Sequence[Dict[str, Any]], data: Sequence[bytes], wanted: Sequence[str]
    ) -> List[Dict[str, Any]]:
        """The outputs, each with its shape and its bytes."""
        context, cuda = self.context, self.cuda
        takes = {tensor["name"]: tensor for tensor in self.tensors if tensor["input"]}
        for tensor, raw in zip(given, data):
            name = tensor["name"]
            if not context.set_input_shape(name, tuple(tensor["shape"])):
                least, most = takes[name]["least"], takes[name]["most"]
                bounds = "shapes from %s to %s" % (least, most) if least else "shape %s" % takes[name]["shape"]
                raise Refused("the engine takes %s in %s, and not %s" % (name, bounds, tensor["shape"]))
            cuda.copy_in(self.place(name, len(raw)), raw)
        found = []
        for tensor in self.tensors:
            if not tensor["input"]:
                shape = [int(size) for size in context.get_tensor_shape(tensor["name"])]
                if min(shape, default=0) < 0:
                    raise Refused("how large %s is depends on values, which is not served" % tensor["name"])
                size = SIZES[tensor["dtype"]]
                for length in shape:
                    size *= length
                self.place(tensor["name"], size)
                found.append({"name": tensor["name"], "shape": shape, "data": bytearray(size)})
        if not context.execute_async_v3(cuda.stream.value):
            raise Broken("TensorRT %s could not run it" % self.version)
        for output in found:
            if output["data"]:
                cuda.copy_out(output["data"], self.places[output["name"]][0])
        cuda.wait()
        by_name = {output["name"]: output for output in found}
        return [by_name[name] for name in wanted]

    def place(self, name: str, size: int) -> int:
        """Memory of the GPU for that tensor, kept for the next query, and told to TensorRT."""
        address, room = self.places.get(name, (0, 0))
        if size > room or not address:
            if address:
                self.cuda.release(address)
                del self.places[name]
            address = self.cuda.reserve(max(size, 1))
            self.places[name] = address, max(size, 1)
        context = self.context
        context.set_tensor_address(name, address)
        return address


def described(engine: Any, name: str) -> Dict[str, Any]:
    """A tensor as the server is told of it. Raises `Broken` for one that is not served."""
    dtype = str(engine.get_tensor_dtype(name)).rsplit(".", 1)[-1]
    if dtype not in SIZES:
        raise Broken("it has %s as %s, which is not served" % (name, dtype))
    taken = str(engine.get_tensor_mode(name)).rsplit(".", 1)[-1] == "INPUT"
    if taken and engine.is_shape_inference_io(name):
        raise Broken("the values of %s decide shapes in it, which is not served" % name)
    shape = [int(size) for size in engine.get_tensor_shape(name)]
    told = {"name": name, "dtype": dtype, "shape": shape, "input": taken, "least": [], "most": []}
    if taken and -1 in shape:
        least, _, most = engine.get_tensor_profile_shape(name, 0)
        told.update({"least": [int(size) for size in least], "most": [int(size) for size in most]})
    return told


def load(path: str, digest: str) -> Loaded:
    """The engine of that digest: what is loaded are the bytes that were looked at."""
    with open(path, "rb") as stream:
        data = stream.read()
    if hashlib.sha256(data).hexdigest() != digest:
        raise Broken("it is not the engine that was built: its sha256 is another")
    return Loaded(data, Cuda())


def read(stream: Any) -> Any:
    """The head of the next message; None at the end."""
    length = stream.read(4)
    return json.loads(exactly(stream, struct.unpack("<I", length)[0]).decode()) if len(length) == 4 else None


def exactly(stream: Any, size: int) -> bytes:
    data = stream.read(size)  # type: bytes
    if len(data) != size:
        raise EOFError
    return data


def write(stream: Any, head: Dict[str, Any], data: Sequence[Any] = ()) -> None:
    text = json.dumps(head).encode()
    stream.write(struct.pack("<I", len(text)) + text)
    for part in data:
        stream.write(part)
    stream.flush()


def answer(loaded: Loaded, asked: Dict[str, Any], queries: Any, answers: Any) -> None:
    data = [exactly(queries, tensor["bytes"]) for tensor in asked["inputs"]]
    try:
        found = loaded.run(asked["inputs"], data, asked["outputs"])
    except Refused as error:
        write(answers, {"refused": str(error)})
        return
    head = [{"name": one["name"], "shape": one["shape"], "bytes": len(one["data"])} for one in found]
    write(answers, {"outputs": head}, [one["data"] for one in found])


def main(arguments: Sequence[str]) -> int:
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # TensorRT logs to standard output
    queries = sys.stdin.buffer
    try:
        loaded = load(arguments[0], arguments[1])
        write(answers, {"tensors": loaded.tensors, "version": loaded.version})
        while True:
            asked = read(queries)
            if asked is None:
                return 0
            answer(loaded, asked, queries, answers)
    except (BrokenPipeError, EOFError):
        return 0
    except Broken as error:
        write(answers, {"broken": str(error)})
    except Exception as error:  # of TensorRT's module, as of a version without these names
        write(answers, {"broken": "%s: %s" % (type(error).__name__, error)})
    return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
