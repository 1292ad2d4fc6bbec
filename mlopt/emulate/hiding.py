"""This x86 processor with some of its instruction sets hidden from this process: CPUID is answered by a handler.

Linux can make the CPUID instruction fault (arch_prctl, ARCH_SET_CPUID) where the processor or the hypervisor can. The
handler asks the processor, clears bits, and steps over the instruction. What was loaded before has asked already, so
`hide` comes before the runtime is imported; threads that were there before see everything.
"""

from __future__ import annotations

import ctypes
import mmap
import runpy
import signal
import sys
from collections.abc import Iterable, Mapping
from typing import Any, Final

_ARCH_PRCTL, _SET_CPUID = 158, 0x1012
_EAX, _EBX, _ECX, _EDX = range(4)
# Bits of CPUID by (leaf, subleaf), register and number, as Intel's manual (volume 2A, CPUID) numbers them.
_BITS: Final[Mapping[str, tuple[tuple[int, int, int, tuple[int, ...]], ...]]] = {
    "avx512": (
        (7, 0, _EBX, (16, 17, 21, 26, 27, 28, 30, 31)),
        (7, 0, _ECX, (1, 6, 11, 12, 14)),
        (7, 0, _EDX, (2, 3, 8, 23)),
        (7, 1, _EAX, (5,)),
    ),
    "avx512-vnni": ((7, 0, _ECX, (11,)),),
    "avx-vnni": ((7, 1, _EAX, (4,)), (7, 1, _EDX, (4, 10))),
    "amx": ((7, 0, _EDX, (22, 24, 25)), (7, 1, _EAX, (21,))),
}
# mov eax, edi; mov ecx, esi; cpuid; the four registers to [rdx], which cpuid overwrites and r8 keeps.
_CODE: Final = bytes.fromhex("5389f889f14989d00fa241890041895804418948084189500c5bc3")
_CPUID: Final = b"\x0f\xa2"
_REGISTERS: Final = (
    40  # bytes of ucontext_t before its registers: r8 to r15, rdi, rsi, rbp, rbx, rdx, rax, rcx, rsp, rip
)
_RBX, _RDX, _RAX, _RCX, _RIP = 11, 12, 13, 14, 16
_FLAGS: Final = 0x4 | 0x40000000  # SA_SIGINFO, SA_NODEFER
_kept: list[Any] = []  # what the handler needs must live as long as the process


def main(names: str, module: str) -> None:
    """Run a module by name with these sets hidden: `python -m mlopt.emulate.hiding avx512,amx MODULE`."""
    hide(names.split(","))
    sys.argv = [module]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


class _Action(ctypes.Structure):
    _fields_ = [
        ("handler", ctypes.c_void_p),
        ("mask", ctypes.c_ulong * 16),
        ("flags", ctypes.c_int),
        ("restorer", ctypes.c_void_p),
    ]


def hide(names: Iterable[str]) -> None:
    """Hide instruction sets (the keys of `_BITS`) from whatever this thread loads from now on.

    Raises `OSError` where the kernel or the processor cannot let CPUID fault.
    """
    hidden: dict[tuple[int, int], list[int]] = {}
    for leaf, subleaf, register, bits in (one for name in names for one in _BITS[name]):
        mask = hidden.setdefault((leaf, subleaf), [0, 0, 0, 0])
        mask[register] |= sum(1 << bit for bit in bits)
    libc = ctypes.CDLL(None, use_errno=True)
    ask = _asking()
    answer = (ctypes.c_uint32 * 4)()

    def handle(number: int, info: int, context: int) -> None:
        registers = ctypes.cast(context + _REGISTERS, ctypes.POINTER(ctypes.c_uint64))
        if ctypes.string_at(registers[_RIP], len(_CPUID)) != _CPUID:
            libc.signal(signal.SIGSEGV, 0)  # a real fault: it happens again, and ends the process
            return
        leaf, subleaf = registers[_RAX] & 0xFFFFFFFF, registers[_RCX] & 0xFFFFFFFF
        libc.syscall(_ARCH_PRCTL, _SET_CPUID, 1)
        ask(leaf, subleaf, answer)
        libc.syscall(_ARCH_PRCTL, _SET_CPUID, 0)
        away = hidden.get((leaf, subleaf), (0, 0, 0, 0))
        for place, value, mask in zip((_RAX, _RBX, _RCX, _RDX), answer, away, strict=True):
            registers[place] = value & ~mask
        registers[_RIP] += len(_CPUID)

    handler = ctypes.CFUNCTYPE(None, ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p)(handle)
    action = _Action(handler=ctypes.cast(handler, ctypes.c_void_p), flags=_FLAGS)
    _kept.extend((handler, action, ask, answer))
    if libc.sigaction(signal.SIGSEGV, ctypes.byref(action), None) or libc.syscall(_ARCH_PRCTL, _SET_CPUID, 0):
        raise OSError(ctypes.get_errno(), "CPUID cannot be made to fault here")


def _asking() -> Any:
    """CPUID as a function (leaf, subleaf, where four words go)."""
    page = mmap.mmap(-1, mmap.PAGESIZE, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    page.write(_CODE)
    _kept.append(page)
    kind = ctypes.CFUNCTYPE(None, ctypes.c_uint32, ctypes.c_uint32, ctypes.POINTER(ctypes.c_uint32))
    return kind(ctypes.addressof(ctypes.c_char.from_buffer(page)))


if __name__ == "__main__":
    main(*sys.argv[1:])
