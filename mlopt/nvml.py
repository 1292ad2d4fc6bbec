"""NVIDIA's management library (NVML), asked and never told anything: which card it is, what it holds, how it runs.

Its C interface, called as its documentation has it, needs no package: the library comes with the driver.
"""

from __future__ import annotations

import ctypes
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

LIBRARY: Final = "libnvidia-ml.so.1"
_CUDA: Final = "libcuda.so.1"
_SM, _MEMORY = 1, 2  # nvmlClockType_t
_GPU_TEMPERATURE: Final = 0  # nvmlTemperatureSensors_t
_MISSING, _TOO_FEW = 13, 7  # NVML_ERROR_FUNCTION_NOT_FOUND, NVML_ERROR_INSUFFICIENT_SIZE
_NOT_AVAILABLE: Final = (1 << 64) - 1  # NVML_VALUE_NOT_AVAILABLE
_TEXT: Final = 96  # bytes of the longest name or version
# What keeps clocks down, by its bit in nvmlClocksEventReasons (which were called throttle reasons); 1 is that it idles.
_REASONS: Final[Mapping[int, str]] = {
    0x002: "clocks set by a person",
    0x004: "power cap",
    0x008: "slowed by the hardware",
    0x010: "in step with other cards",
    0x020: "heat, by the driver",
    0x040: "heat, by the hardware",
    0x080: "power brake",
    0x100: "clocks of the display",
}
# Counters of the time in which a policy kept clocks down: nvmlPerfPolicyType_t. Their unit differs between cards.
_POLICIES: Final[Mapping[int, str]] = {0: "power cap", 1: "heat", 3: "limit of the board", 5: "reliability"}


class NvmlError(Exception):
    """What NVML answered instead, or that there is no NVML."""

    def __init__(self, said: str, code: int = 0) -> None:
        super().__init__(said)
        self.code = code


class _Memory(ctypes.Structure):
    _fields_ = (("total", ctypes.c_ulonglong), ("free", ctypes.c_ulonglong), ("used", ctypes.c_ulonglong))


class _Process(ctypes.Structure):
    """nvmlProcessInfo_t of version 2 and 3; the first had neither of the two at the end."""

    _fields_ = (
        ("pid", ctypes.c_uint),
        ("used", ctypes.c_ulonglong),
        ("gpu_instance", ctypes.c_uint),
        ("compute_instance", ctypes.c_uint),
    )


class _Violation(ctypes.Structure):
    _fields_ = (("reference", ctypes.c_ulonglong), ("violation", ctypes.c_ulonglong))


@dataclass(frozen=True, slots=True)
class Card:
    """One card, or the part of one (MIG) that CUDA computes on; clocks and power are those of the whole `chip`.

    Every method raises `NvmlError` where the card or its driver does not tell.
    """

    library: Any
    handle: ctypes.c_void_p
    chip: ctypes.c_void_p

    @property
    def name(self) -> str:
        return self._text("nvmlDeviceGetName", self.chip)

    @property
    def driver(self) -> str:
        return self._text("nvmlSystemGetDriverVersion")

    def used(self) -> int:
        """Bytes in use, whoever asked for them."""
        found = _Memory()
        self._call("nvmlDeviceGetMemoryInfo", self.handle, ctypes.byref(found))
        return int(found.used)

    def processes(self) -> dict[int, int | None]:
        """Bytes of each process that computes on it, None where NVML does not say how many (Windows, some virtual
        machines). In a container an old driver gives the numbers that processes have outside, and a new one shows only
        those of the container."""
        try:
            return self._processes("nvmlDeviceGetComputeRunningProcesses_v3")
        except NvmlError as error:
            if error.code != _MISSING:
                raise
        return self._processes("nvmlDeviceGetComputeRunningProcesses_v2")  # a driver before 510

    def clocks(self) -> tuple[int, int]:
        """Of the multiprocessors and of the memory, in MHz, now."""
        return self._number("nvmlDeviceGetClockInfo", _SM), self._number("nvmlDeviceGetClockInfo", _MEMORY)

    def highest_clocks(self) -> tuple[int, int]:
        return self._number("nvmlDeviceGetMaxClockInfo", _SM), self._number("nvmlDeviceGetMaxClockInfo", _MEMORY)

    def power(self) -> float:
        """Watts; since Ampere the mean of the second before, on most cards."""
        return self._number("nvmlDeviceGetPowerUsage") / 1e3

    def power_limit(self) -> float:
        return self._number("nvmlDeviceGetEnforcedPowerLimit") / 1e3

    def temperature(self) -> int:
        """Degrees Celsius."""
        return self._number("nvmlDeviceGetTemperature", _GPU_TEMPERATURE)

    def joules(self) -> float:
        """Spent since the driver was loaded (Volta and later)."""
        return self._number("nvmlDeviceGetTotalEnergyConsumption", kind=ctypes.c_ulonglong) / 1e3

    def reasons(self) -> frozenset[str]:
        """What keeps the clocks down now, other than that there is nothing to do."""
        try:
            bits = self._number("nvmlDeviceGetCurrentClocksEventReasons", kind=ctypes.c_ulonglong)
        except NvmlError as error:
            if error.code != _MISSING:
                raise
            bits = self._number("nvmlDeviceGetCurrentClocksThrottleReasons", kind=ctypes.c_ulonglong)  # before 535
        return frozenset(name for bit, name in _REASONS.items() if bits & bit)

    def held_back(self) -> dict[str, int]:
        """Counters that grow while a policy keeps the clocks down; those that the card has."""
        found = {}
        for policy, name in _POLICIES.items():
            counted = _Violation()
            try:
                self._call("nvmlDeviceGetViolationStatus", self.chip, ctypes.c_int(policy), ctypes.byref(counted))
            except NvmlError:
                continue
            found[name] = int(counted.violation)
        return found

    def _processes(self, name: str) -> dict[int, int | None]:
        count = ctypes.c_uint(0)
        while True:
            room = (_Process * count.value)()
            try:
                self._call(name, self.handle, ctypes.byref(count), room if count.value else None)
            except NvmlError as error:
                if error.code != _TOO_FEW:
                    raise
                count.value += 8  # some may start meanwhile
                continue
            return {one.pid: None if one.used == _NOT_AVAILABLE else int(one.used) for one in room[: count.value]}

    def _number(self, name: str, *arguments: int, kind: type[Any] = ctypes.c_uint) -> int:
        found = kind()
        self._call(name, self.chip, *(ctypes.c_int(one) for one in arguments), ctypes.byref(found))
        return int(found.value)

    def _text(self, name: str, *arguments: Any) -> str:
        found = ctypes.create_string_buffer(_TEXT)
        self._call(name, *arguments, found, ctypes.c_uint(_TEXT))
        return found.value.decode(errors="replace")

    def _call(self, name: str, *arguments: Any) -> None:
        _call(self.library, name, *arguments)


def card_of(identity: str, *, library: str = LIBRARY) -> Card:
    """The card, or part of one, with this identity (`cuda_identity`). Raises `NvmlError`."""
    try:
        loaded = ctypes.CDLL(library)
    except OSError as error:
        raise NvmlError("there is no NVML (libnvidia-ml.so.1, of the driver)") from error
    _call(loaded, "nvmlInit_v2")
    handle, chip = ctypes.c_void_p(), ctypes.c_void_p()
    try:
        _call(loaded, "nvmlDeviceGetHandleByUUID", f"GPU-{identity}".encode(), ctypes.byref(handle))
    except NvmlError:
        _call(loaded, "nvmlDeviceGetHandleByUUID", f"MIG-{identity}".encode(), ctypes.byref(handle))
        _call(loaded, "nvmlDeviceGetDeviceHandleFromMigDeviceHandle", handle, ctypes.byref(chip))
    return Card(loaded, handle, chip if chip.value else handle)


def cuda_identity(*, library: str = _CUDA) -> str:
    """Which card CUDA calls the first, asked of CUDA itself, in a process that computes on it: CUDA_VISIBLE_DEVICES and
    CUDA_DEVICE_ORDER decide that, and NVML knows neither. Empty where there is no CUDA."""
    try:
        driver = ctypes.CDLL(library)
        ask = getattr(driver, "cuDeviceGetUuid_v2", None) or driver.cuDeviceGetUuid  # of a part of a card, since 11.4
    except (OSError, AttributeError):
        return ""
    device, found = ctypes.c_int(), (ctypes.c_ubyte * 16)()
    if driver.cuInit(0) or driver.cuDeviceGet(ctypes.byref(device), 0) or ask(found, device):
        return ""
    digits = bytes(found).hex()
    return "-".join((digits[:8], digits[8:12], digits[12:16], digits[16:20], digits[20:]))


def _call(library: Any, name: str, *arguments: Any) -> None:
    try:
        function = getattr(library, name)
    except AttributeError:
        raise NvmlError(f"this driver's NVML has no {name}", _MISSING) from None
    if code := function(*arguments):
        say = library.nvmlErrorString
        say.restype = ctypes.c_char_p
        raise NvmlError(f"{name}: {say(code).decode(errors='replace')}", code)
