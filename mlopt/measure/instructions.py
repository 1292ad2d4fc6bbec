"""Instructions that this process and its threads retire, as the processor counts them (the kernel's perf_event_open).

The same work counts the same however busy the machine is: one figure that decides where no clock can.
"""

from __future__ import annotations

import ctypes
import os
import struct
from dataclasses import dataclass
from typing import Final, Self

_CALLS: Final = {"x86_64": 298, "aarch64": 241}  # perf_event_open by architecture
_SIZE: Final = 64  # bytes of perf_event_attr in its first version
INSTRUCTIONS: Final = (0, 1)  # PERF_TYPE_HARDWARE, PERF_COUNT_HW_INSTRUCTIONS
PAGE_FAULTS: Final = (1, 2)  # PERF_TYPE_SOFTWARE, PERF_COUNT_SW_PAGE_FAULTS: what every kernel counts
_INHERIT, _NO_KERNEL, _NO_HYPERVISOR = 1 << 1, 1 << 5, 1 << 6


@dataclass(frozen=True, slots=True)
class Counter:
    """Counts from when it is opened to the end of the process, in threads too that are started after that."""

    file: int

    @classmethod
    def open(cls, event: tuple[int, int] = INSTRUCTIONS) -> Self | None:
        """None where the processor, the hypervisor or the kernel's settings let nobody count it."""
        kind, config = event
        flags = _INHERIT | (_NO_KERNEL | _NO_HYPERVISOR if event == INSTRUCTIONS else 0)
        attributes = struct.pack("=IIQQQQQIIQ", kind, _SIZE, config, 0, 0, 0, flags, 0, 0, 0)
        call = _CALLS.get(os.uname().machine)
        if call is None:
            return None
        buffer = ctypes.create_string_buffer(attributes, _SIZE)
        file = ctypes.CDLL(None, use_errno=True).syscall(call, buffer, 0, -1, -1, 0)
        return cls(file) if file >= 0 else None

    def read(self) -> int:
        return int.from_bytes(os.read(self.file, 8), "little")
