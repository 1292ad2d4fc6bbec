"""What nobody should send to a gRPC server, the same for a seed: bent messages, and bytes that are no HTTP/2."""

from __future__ import annotations

import random
import struct
from dataclasses import dataclass
from typing import Any, Final

from hostile import mutated

from mlopt.serve.oip import SERVICE, messages
from mlopt.serve.rpc_health import SERVICE as HEALTH

_METHODS: Final = (
    *("ModelInfer", "ModelInfer", "ModelInfer", "ModelReady", "ModelMetadata", "ServerMetadata", "ServerLive"),
    *("ServerReady", "RepositoryIndex", "ModelStreamInfer", "SystemSharedMemoryRegister", "ä"),
)
_NAMES: Final = ("colours", "pixels", "scores", "", "x", "ä" * 40, "a" * 9000, "\0", "shared_memory_region")
_TYPES: Final = ("FP32", "FP16", "BYTES", "INT64", "UINT8", "BOOL", "", "FP99", "fp32")
_SIZES: Final = (0, 1, -1, 3, 8, 2**31, 2**62, -(2**63), 192)
_PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"


@dataclass(frozen=True, slots=True)
class Sent:
    """One call: its method's path, message and metadata."""

    path: str
    body: bytes
    metadata: tuple[tuple[str, str | bytes], ...] = ()


def good(chance: random.Random) -> Any:
    """A request that must be answered."""
    raw = chance.random() < 0.5
    contents = {} if raw else {"contents": {"fp32_contents": [chance.random()] * 192}}
    return messages()["ModelInferRequest"](
        model_name="colours",
        inputs=[{"name": "pixels", "datatype": "FP32", "shape": [1, 3, 8, 8], **contents}],
        raw_input_contents=[chance.randbytes(768)] if raw else [],
    )


def hostile_calls(count: int, *, seed: int) -> list[Sent]:
    """So many calls; one in sixteen is good."""
    chance = random.Random(seed)
    return [_call(chance, place) for place in range(count)]


def hostile_bytes(count: int, *, seed: int) -> list[bytes]:
    """So many things to say on a plain connection."""
    chance = random.Random(seed)
    return [_frames(chance) for _ in range(count)]


def _call(chance: random.Random, place: int) -> Sent:
    path = (
        f"/{SERVICE}/{chance.choice(_METHODS)}" if place % 8 != 1 else f"/{HEALTH}/{chance.choice(('Check', 'Watch'))}"
    )
    if place % 16 == 0:
        return Sent(f"/{SERVICE}/ModelInfer", good(chance).SerializeToString())
    body = chance.choice([_bent, _bent, _mutated, _mutated, _noise])(chance)
    if place % 500 == 1:
        body = b" " * ((1 << 20) + chance.randrange(1, 1000))
    return Sent(path if chance.random() < 0.4 else f"/{SERVICE}/ModelInfer", body, _metadata(chance))


def _bent(chance: random.Random) -> bytes:
    """A message as such, with one thing or two that it should not say."""
    message = good(chance)
    (tensor,) = message.inputs
    for _ in range(chance.randrange(1, 3)):
        bend = chance.randrange(10)
        if bend == 0:
            message.model_name = chance.choice(_NAMES)
        elif bend == 1:
            message.model_version = chance.choice(("3", "4", "-1", "x" * 300))
        elif bend == 2:
            tensor.name = chance.choice(_NAMES)
        elif bend == 3:
            tensor.datatype = chance.choice(_TYPES)
        elif bend == 4:
            tensor.shape[:] = [chance.choice(_SIZES) for _ in range(chance.randrange(6))]
        elif bend == 5:
            message.raw_input_contents.append(chance.randbytes(chance.choice((0, 1, 767, 768, 769))))
        elif bend == 6:
            message.inputs.append(tensor)
        elif bend == 7:
            message.outputs.add(name=chance.choice(_NAMES))
        elif bend == 8:
            value = {"int64_param": chance.choice(_SIZES)} if chance.random() < 0.5 else {"string_param": "x"}
            kind = messages()["InferParameter"](**value)
            target = chance.choice([message, tensor])
            target.parameters[chance.choice(("binary_data_size", "classification", *_NAMES))].CopyFrom(kind)
        else:
            tensor.contents.bytes_contents.append(chance.randbytes(20))
            tensor.contents.int_contents.extend([2**31 - 1] * chance.choice((1, 192)))
            tensor.contents.fp32_contents.append(float("nan"))
    found: bytes = message.SerializeToString()
    return found


def _mutated(chance: random.Random) -> bytes:
    return mutated(good(chance).SerializeToString(), chance)


def _noise(chance: random.Random) -> bytes:
    nested = b"\x2a\x80\x01" * chance.choice((1, 100, 2000))
    return chance.choice([b"", chance.randbytes(chance.randrange(200)), nested, b"\xff" * 100])


def _metadata(chance: random.Random) -> tuple[tuple[str, str | bytes], ...]:
    choices: list[tuple[str, str | bytes]] = [
        ("x-request-id", "a b; c"),
        ("x-request-id", "a" * 5000),
        ("authorization", "Bearer " + "x" * 100),
        ("x-api-key", ""),
        ("noise-bin", chance.randbytes(50)),
    ]
    return tuple(chance.sample(choices, chance.randrange(3)))


def _frames(chance: random.Random) -> bytes:
    """HTTP/2 that is cut, lies about lengths, or never was any."""
    if chance.random() < 0.2:
        return chance.choice(
            [b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", b"\x16\x03\x01\x02\x00", chance.randbytes(60), b"PRI"]
        )
    said = [_PREFACE if chance.random() < 0.9 else _PREFACE[: chance.randrange(24)]]
    said.append(_frame(4, 0, 0, b""))
    for _ in range(chance.randrange(1, 12)):
        body = chance.randbytes(chance.choice((0, 1, 4, 6, 8, 50)))
        length = None if chance.random() < 0.7 else chance.choice((0, 1, 2**14 + 1, 2**24 - 1))
        stream = chance.choice((0, 1, 2, 3, 2**31 - 1))
        said.append(_frame(chance.randrange(12), chance.randrange(256), stream, body, length))
    return b"".join(said)


def _frame(kind: int, flags: int, stream: int, body: bytes, length: int | None = None) -> bytes:
    return (
        struct.pack(">I", len(body) if length is None else length)[1:] + struct.pack(">BBI", kind, flags, stream) + body
    )
