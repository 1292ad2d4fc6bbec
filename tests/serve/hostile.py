"""Requests that nobody should send, the same for a seed: bytes for a socket, mutated from good ones or made up."""

from __future__ import annotations

import io
import json
import random
import struct
from collections.abc import Callable, Sequence
from typing import Any, Final

from PIL import Image

_FLOATS: Final = [0.5] * 192
_TENSOR: Final = {"name": "pixels", "shape": [1, 3, 8, 8], "datatype": "FP32", "data": _FLOATS}
_NESTED: Final = [[[[0.5] * 8] * 8] * 3]
_PATHS: Final = (
    "/v2/models/colours/infer",
    "/v2/models/colours/versions/3/infer",
    "/v1/models/colours:predict",
    "/v1/models/colours/versions/3:predict",
    "/predictions/colours",
    "/predictions/colours/3",
    "/v1/classify",
    "/v1/classify?top=3",
)
_GETS: Final = ("/", "/metrics", "/ping", "/v2", "/v2/models/colours", "/v1/models/colours", "/v2/health/ready", "/x")
_HEADERS: Final = (
    "Content-Length: -1",
    "Content-Length: 5\r\nContent-Length: 6",
    "Content-Length: 99999999999999999999999999",
    "Content-Length: 2000000",
    "Content-Length: 0x10",
    "Content-Length: 1e3",
    "Content-Length: ٣",
    "Transfer-Encoding: chunked",
    "Transfer-Encoding: chunked, identity",
    "Transfer-Encoding: xchunked",
    "Content-Length: 4\r\nTransfer-Encoding: chunked",
    "Content-Encoding: gzip",
    "Content-Encoding: \xff",
    "Expect: 100-continue",
    "Expect: the-impossible",
    "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: x\r\nSec-WebSocket-Version: 13",
    "Upgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\nConnection: Upgrade, HTTP2-Settings",
    "Inference-Header-Content-Length: 0",
    "Inference-Header-Content-Length: 7",
    "Inference-Header-Content-Length: -7",
    "Inference-Header-Content-Length: ²",
    "Inference-Header-Content-Length: 99999999999999999999",
    "Content-Type: multipart/form-data",
    "Content-Type: multipart/form-data; boundary=" + "-" * 100,
    "Content-Type: multipart/form-data; boundary=b",
    "Content-Type: \x7f",
    "X-Request-Id: a\tb",
    "X-Request-Id: " + "a" * 5000,
    "Authorization: Bearer \xfc\xff",
    "Host: a\r\nHost: b",
    "Host:",
    "Range: bytes=0-,-1",
    "Cookie: " + "a=b; " * 1000,
    "Bad Name: x",
    ": nameless",
    "No-Colon",
    "Folded: a\r\n b",
    "X: \0",
    "X" * 20_000 + ": y",
    "\r\n".join(f"X-{place}: y" for place in range(3000)),
)


_STRANGE: Final = (
    *("*", "", "//", "/..", "/%", "/%zz", "/%00", "/%2e%2e/etc/passwd", "/\xff", "/v2/models/%2F/infer"),
    *("http://elsewhere/x", "/" + "a" * 9000, "/?" + "a=b&" * 500, "/v1/classify?top=" + "9" * 50),
    *("/v1/models/:predict", "/v1/models/colours:predict:predict", "/predictions/" + "%c3%a4" * 30),
    "/v1/classify?top=%D9%A3",
)


def hostile_requests(count: int, *, seed: int) -> list[bytes]:
    """So many requests. Most are cut, bent or stuffed versions of good ones; a few are good, and must be answered."""
    chance = random.Random(seed)
    kinds: list[tuple[int, Callable[[random.Random], bytes]]] = [
        (4, _mutated),
        (5, _wrong_json),
        (3, _wrong_headers),
        (2, _wrong_chunks),
        (2, _wrong_line),
        (1, _wrong_binary),
        (1, _pipelined),
        (1, _good),
    ]
    makers, weights = [maker for _, maker in kinds], [weight for weight, _ in kinds]
    made = [chance.choices(makers, weights)[0](chance) for _ in range(count)]
    for place in range(0, count, 500):  # a MiB each: a few do
        made[place] = _oversized(chance)
    return made


_WEDGES: Final = (b"\0", b"\r\n", b"\r\n\r\n", b"%", b'"', b"[", b"\xff" * 9, b"{" * 99)


def _post(path: str, body: bytes, *lines: str) -> bytes:
    head = [f"POST {path} HTTP/1.1", "Host: x", f"Content-Length: {len(body)}", *lines, "", ""]
    return "\r\n".join(head).encode("latin-1", "replace") + body


def _picture(chance: random.Random) -> bytes:
    stream = io.BytesIO()
    format = chance.choice(["PNG", "JPEG", "GIF", "WEBP", "BMP"])
    Image.new("RGB", (chance.randrange(1, 40), chance.randrange(1, 40)), (200, 10, 10)).save(stream, format)
    return stream.getvalue()


def _binary(size: int = 768) -> tuple[bytes, str]:
    entry = {key: value for key, value in _TENSOR.items() if key != "data"} | {"parameters": {"binary_data_size": size}}
    head = json.dumps({"inputs": [entry]}).encode()
    return head + b"\0" * 768, f"Inference-Header-Content-Length: {len(head)}"


def _good(chance: random.Random) -> bytes:
    body, header = _binary()
    form = b'--b\r\nContent-Disposition: form-data; name="data"\r\n\r\n' + _picture(chance) + b"\r\n--b--\r\n"
    return chance.choice(
        [
            _post(_PATHS[0], json.dumps({"inputs": [_TENSOR]}).encode()),
            _post(_PATHS[1], body, header),
            _post(_PATHS[2], json.dumps({"instances": _NESTED}).encode()),
            _post(_PATHS[3], json.dumps({"inputs": {"pixels": _NESTED}}).encode()),
            _post(_PATHS[4], json.dumps(_NESTED).encode()),
            _post(_PATHS[5], form, "Content-Type: multipart/form-data; boundary=b"),
            _post(_PATHS[6], _picture(chance)),
            f"GET {chance.choice(_GETS)} HTTP/1.1\r\nHost: x\r\n\r\n".encode(),
        ]
    )


def mutated(message: bytes, chance: random.Random, *, wedges: Sequence[bytes] = ()) -> bytes:
    """A message with some of its bytes overwritten, taken out, repeated, cut off, or driven apart by one of these."""
    raw = bytearray(message)
    for _ in range(chance.randrange(1, 6)):
        place = chance.randrange(len(raw) + 1)
        end = min(len(raw), place + chance.choice([1, 2, 8, 100]))
        bend = chance.randrange(5 if wedges else 4)
        if bend == 0:
            raw[place:end] = chance.randbytes(end - place)
        elif bend == 1:
            del raw[place:end]
        elif bend == 2:
            raw[place:place] = raw[place:end] * chance.randrange(1, 20)
        elif bend == 3 and wedges:
            raw[place:place] = chance.choice(wedges)
        else:
            del raw[place:]
        if not raw:
            break
    return bytes(raw)


def _mutated(chance: random.Random) -> bytes:
    return mutated(_good(chance), chance, wedges=_WEDGES)


def _wrong_json(chance: random.Random) -> bytes:
    path, made = chance.choice(_PATHS), _value(chance, 3)
    tensor = _TENSOR | {chance.choice(["name", "shape", "datatype", "data", "parameters", "x"]): made}
    body: Any = chance.choice(
        [
            made,
            {"inputs": [tensor]},
            {"inputs": [tensor, _TENSOR]},
            {"inputs": made},
            {"instances": made},
            {"instances": [{"pixels": made}]},
            {"inputs": {"pixels": made}},
            {"inputs": [_TENSOR], "outputs": made},
            {"inputs": [_TENSOR], "id": made, "parameters": _value(chance, 2)},
            {"instances": _NESTED, "signature_name": made},
        ]
    )
    text = json.dumps(body)
    if chance.random() < 0.1:
        text = chance.choice(
            ["[" * 5000, '{"inputs":' * 2000, '{"instances":' + "[" * 1000 + "]" * 1000 + "}", "1e999"]
        )
    return _post(path, text.encode("utf-8", "surrogatepass"))


_PLAIN: Final[list[Any]] = [
    *(None, True, False, 0, -1, 1, 2**31, 2**63, 2**64, -(2**63), 10**40),
    *(1.5, 1e308, -0.0, float("nan"), float("inf"), [], {}, _FLOATS, _NESTED),
    *("", "x", "pixels", "FP32", "BYTES", "INT64", "\0", "\ud800", "ä" * 50, "a" * 20_000),
]


def _value(chance: random.Random, depth: int) -> Any:
    if depth == 0 or chance.random() < 0.5:
        return chance.choice(_PLAIN)
    if chance.random() < 0.6:
        parts = [_value(chance, depth - 1) for _ in range(chance.randrange(4))]
        return parts * (chance.choice([1, 1, 192, 2000]) if depth == 1 else 1)
    names = ["name", "shape", "data", "datatype", "b64", "pixels", "binary_data", "binary_data_size", "parameters", "ä"]
    return {chance.choice(names): _value(chance, depth - 1) for _ in range(chance.randrange(3))}


def _wrong_headers(chance: random.Random) -> bytes:
    body = chance.choice([b"", json.dumps({"inputs": [_TENSOR]}).encode(), _picture(chance), chance.randbytes(50)])
    lines = chance.sample(_HEADERS, chance.randrange(1, 4))
    if chance.random() < 0.5:
        return _post(chance.choice(_PATHS), body, *lines)
    head = [f"{chance.choice(['POST', 'GET', 'PUT', 'HEAD', 'OPTIONS'])} {chance.choice(_PATHS)} HTTP/1.1", "Host: x"]
    return "\r\n".join([*head, *lines, "", ""]).encode("latin-1", "replace") + body


def _wrong_chunks(chance: random.Random) -> bytes:
    path = chance.choice([*_PATHS, *_GETS])
    head = f"POST {path} HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n".encode()
    sizes = [b"5", b"0", b"-1", b"ffffffffffffffffff", b"5;x=" + b"y" * 300, b"", b"g", b" 5", b"5 ", b"0x5", b"\xff"]
    chunks = [chance.choice(sizes) + b"\r\n" + chance.randbytes(5) + b"\r\n" for _ in range(chance.randrange(1, 5))]
    return head + b"".join(chunks) + chance.choice([b"", b"0\r\n\r\n", b"0\r\nTrailer: x\r\n\r\n"])


def _wrong_line(chance: random.Random) -> bytes:
    method = chance.choice(["GET", "POST", "get", "G\0T", "", "PRI", "CONNECT", "TRACE", "DELETE", "X" * 300])
    path = chance.choice([*_GETS, *_PATHS, *_STRANGE])
    version = chance.choice(["HTTP/1.1", "HTTP/1.0", "HTTP/2.0", "HTTP/0.9", "HTTP/9.9", "HTTP/x", "", "RTSP/1.0"])
    end = chance.choice(["\r\nHost: x\r\n\r\n", "\r\n\r\n", "\n\n", "\r\r", "\r\nHost: x\r\nConnection: close\r\n\r\n"])
    return f"{method} {path} {version}{end}".encode("latin-1")


def _wrong_binary(chance: random.Random) -> bytes:
    body, header = _binary(chance.choice([768, 0, 1, -1, 767, 769, 10**12]))
    cut = body[: chance.randrange(len(body))] if chance.random() < 0.5 else body + struct.pack("<I", 2**32 - 1)
    return _post(_PATHS[0], cut, chance.choice([header, "Inference-Header-Content-Length: 0", header + "9"]))


def _pipelined(chance: random.Random) -> bytes:
    return b"".join(chance.choice([_good, _mutated, _wrong_line])(chance) for _ in range(chance.randrange(2, 5)))


def _oversized(chance: random.Random) -> bytes:
    size = (1 << 20) + chance.randrange(1, 1000)
    if chance.random() < 0.5:
        return _post(chance.choice(_PATHS), b" " * size)
    head = f"POST {chance.choice(_PATHS)} HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n".encode()
    return head + f"{size:x}\r\n".encode() + b" " * size + b"\r\n0\r\n\r\n"
