"""What a pickle would import if it were loaded, read from its opcodes: nothing is ever unpickled here."""

from __future__ import annotations

import pickletools
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import IO, Final

_STORAGE: Final = "Storage"
# What rebuilding plain tensors needs; torch.load(weights_only=True) permits all of it.
_HARMLESS: Final = frozenset(
    {
        "collections.OrderedDict",
        "builtins.set",
        "__builtin__.set",
        "torch.Size",
        "torch.device",
        "torch.nn.parameter.Parameter",
        "torch._utils._rebuild_tensor",
        "torch._utils._rebuild_tensor_v2",
        "torch._utils._rebuild_parameter",
        "torch._utils._rebuild_qtensor",
        "torch._utils._rebuild_sparse_tensor",
        "torch._utils._rebuild_meta_tensor_no_storage",
        "torch._tensor._rebuild_from_type_v2",
        "torch._tensor.Tensor",
        "torch.Tensor",
        "torch.serialization._get_layout",
    }
)
_TORCH_DTYPE: Final = re.compile(
    r"torch\.(b?float|double|half|u?int|short|long|bool|complex|q(u?int)|per_\w+_affine)\w*"
)
# The magic number that opens torch's format from before 1.6: a row of pickles, then raw storages.
LEGACY_MAGIC: Final = b"\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19\x2e"
_LEGACY_HEADER: Final = 3  # magic number, protocol version, system info


@dataclass(frozen=True, slots=True)
class Scan:
    """`imports` are all globals that unpickling would look up; `code` those of them that are more than tensors."""

    imports: tuple[str, ...]

    @property
    def code(self) -> tuple[str, ...]:
        return tuple(name for name in self.imports if not _harmless(name))


def scan(stream: IO[bytes]) -> Scan:
    """Scan the pickle at the stream's position, or all of the header and body of torch's legacy format.

    Raises `ValueError` when it is no whole pickle: truncated, or something else.
    """
    start = stream.tell()
    head = stream.read(2 + len(LEGACY_MAGIC))
    stream.seek(start)
    found: set[str] = set()
    for _ in range(_LEGACY_HEADER + 1 if head[2:] == LEGACY_MAGIC else 1):
        found.update(_imports(stream))
    return Scan(tuple(sorted(found)))


def _imports(stream: IO[bytes]) -> Iterator[str]:
    """Names behind GLOBAL, INST and STACK_GLOBAL; `?.name` where the module is computed, so never harmless."""
    strings: list[str] = []
    memo: dict[int, str] = {}
    last: str | None = None
    for opcode, argument, _ in pickletools.genops(stream):
        name = opcode.name
        if name in ("GLOBAL", "INST"):
            module, _, attribute = str(argument).partition(" ")
            yield f"{module}.{attribute}"
            last = None
        elif name == "STACK_GLOBAL":
            module, attribute = strings[-2:] if len(strings) >= 2 else ("?", "?")
            yield f"{module}.{attribute}"
            last = None
        elif name.startswith("EXT"):
            yield f"copyreg extension {argument}"
        elif isinstance(argument, str) and ("UNICODE" in name or "STRING" in name):
            strings.append(argument)
            last = argument
        elif name == "MEMOIZE":
            if last is not None:
                memo[len(memo)] = last
            else:
                memo[len(memo)] = "?"
        elif name in ("BINPUT", "LONG_BINPUT", "PUT"):
            memo[int(str(argument))] = last if last is not None else "?"
        elif name in ("BINGET", "LONG_BINGET", "GET"):
            last = memo.get(int(str(argument)), "?")
            strings.append(last)
        else:
            last = None


def _harmless(name: str) -> bool:
    if name in _HARMLESS or _TORCH_DTYPE.fullmatch(name):
        return True
    module, _, attribute = name.rpartition(".")
    return module in ("torch", "torch.storage") and attribute.endswith(_STORAGE)
