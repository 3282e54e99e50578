"""Data types and operators, by the names and codes that the library has for them."""

from __future__ import annotations

import enum
from typing import Type, TypeVar, Union

from .errors import InvalidArgument

_E = TypeVar("_E", bound=enum.IntEnum)


def _by_name_or_code(cls: Type[_E], what: str, value: Union[int, str]) -> _E:
    try:
        return cls[value.upper()] if isinstance(value, str) else cls(value)
    except (KeyError, ValueError):
        known = ", ".join(member.name.lower() for member in cls)
        raise InvalidArgument(f"unknown {what} {value!r}: known are {known}") from None


class DType(enum.IntEnum):
    """Element type of a collective. 16- and 8-bit floats are accumulated in 32 bits; integers wrap."""

    F32 = 0
    F64 = 1
    F16 = 2
    BF16 = 3
    E4M3 = 4
    E5M2 = 5
    I8 = 6
    U8 = 7
    I32 = 8
    U32 = 9
    I64 = 10
    U64 = 11

    @property
    def size_bytes(self) -> int:
        """Size of one element in bytes; also the alignment that a buffer of it needs."""
        return _SIZES[self]

    @classmethod
    def of(cls, value: Union["DType", int, str]) -> "DType":
        """The type of this code, or of this name (``"bf16"``)."""
        return _by_name_or_code(cls, "data type", value)


_SIZES = {
    DType.F32: 4,
    DType.F64: 8,
    DType.F16: 2,
    DType.BF16: 2,
    DType.E4M3: 1,
    DType.E5M2: 1,
    DType.I8: 1,
    DType.U8: 1,
    DType.I32: 4,
    DType.U32: 4,
    DType.I64: 8,
    DType.U64: 8,
}


class Collective(enum.IntEnum):
    """Which collective, where one is named as a value."""

    ALL_REDUCE = 0
    REDUCE_SCATTER = 1
    ALL_GATHER = 2
    BROADCAST = 3


class ReduceOp(enum.IntEnum):
    """Reduction operator. A NaN anywhere gives NaN for ``MIN`` and ``MAX``; ``AVG`` is the sum divided by the world size."""

    SUM = 0
    PROD = 1
    MIN = 2
    MAX = 3
    AVG = 4

    @classmethod
    def of(cls, value: Union["ReduceOp", int, str]) -> "ReduceOp":
        """The operator of this code, or of this name (``"sum"``)."""
        return _by_name_or_code(cls, "operator", value)
