"""Numbers in JSON become exactly what they say, or are refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import orjson
import pytest

from mlopt.serve.tensors import NUMPY_OF, Rejected, Tensor, from_json

LARGEST = 2**64 - 1


def read(text: str, datatype: str) -> list[Any]:
    array = from_json(orjson.loads(text), Tensor("x", datatype, (-1,)))
    assert array.dtype == NUMPY_OF[datatype]
    found: list[Any] = array.tolist()
    return found


@pytest.mark.parametrize(
    "values", [[2**63, 1], [1, 2**63], [0, LARGEST, 2**53 + 1], [LARGEST], [2**63 - 1, 2**63], [1, 2]]
)
def test_whole_numbers_of_64_bits_may_be_small_and_large_at_once(values: list[int]) -> None:
    assert read(str(values), "UINT64") == values


@pytest.mark.parametrize("text", ["[9223372036854775808, -1]", "[18446744073709551616, 1]", "[1.5, 1]", "[1, 1.0]"])
def test_what_is_no_such_number_is_refused(text: str) -> None:
    with pytest.raises(Rejected, match="input 'x'"):
        read(text, "UINT64")


@pytest.mark.parametrize("datatype", ["INT64", "UINT32", "INT8"])
def test_large_beside_small_numbers_do_not_fit_into_others(datatype: str) -> None:
    with pytest.raises(Rejected, match="input 'x'"):
        read(f"[{2**63}, 1]", datatype)
    assert read(f"[{2**63}, 1]", "FP64") == [2.0**63, 1.0]


@pytest.mark.parametrize("text", ["[0.1, 2, true]", "[1, 0.1]", "[true, 0.1]", "[1e300, 18446744073709551615]", "[7]"])
@pytest.mark.parametrize("datatype", ["FP16", "FP32", "FP64"])
def test_floats_are_what_numpy_makes_of_them(text: str, datatype: str) -> None:
    with np.errstate(over="ignore"):
        assert read(text, datatype) == np.array(orjson.loads(text), np.float64).astype(NUMPY_OF[datatype]).tolist()


@pytest.mark.parametrize("odd", ['"1.5"', "null", "[1.5]", "{}"])
@pytest.mark.parametrize("text", ["[0.5, {}]", "[{}, 0.5]", "[1, 0.5, {}]"])
def test_what_is_no_number_among_floats_is_refused(text: str, odd: str) -> None:
    with pytest.raises(Rejected, match=r"not all FP32|not a regular array"):
        read(text.replace("{}", odd), "FP32")


def test_a_long_tensor_is_whole() -> None:
    """Longer than what is taken at once, and not by a whole number of times."""
    assert read(str([place / 8 for place in range(200_000)]), "FP64") == [place / 8 for place in range(200_000)]
