"""What tests of other instruction sets share."""

from __future__ import annotations

import pytest

from mlopt.emulate.sets import SETS, can_hide


@pytest.fixture
def hides() -> None:
    """Skips where this processor's instruction sets cannot be hidden."""
    if not all(can_hide(SETS[name]) for name in ("avx2", "avx512-vnni")):
        pytest.skip("this processor has no AVX-512 VNNI, or its kernel cannot hide it (no cpuid_fault)")
