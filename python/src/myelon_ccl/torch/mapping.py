"""Which data types and operators of torch Myelon has, and by which names."""

from __future__ import annotations

from typing import Any, Dict, Optional, Union

import torch
import torch.distributed as dist

from ..types import DType, ReduceOp

_DTYPES: Dict[torch.dtype, DType] = {
    torch.float32: DType.F32,
    torch.float64: DType.F64,
    torch.float16: DType.F16,
    torch.bfloat16: DType.BF16,
    torch.int8: DType.I8,
    torch.uint8: DType.U8,
    torch.int32: DType.I32,
    torch.int64: DType.I64,
}
for _name, _dtype in (
    ("float8_e4m3fn", DType.E4M3),
    ("float8_e5m2", DType.E5M2),
    ("uint32", DType.U32),
    ("uint64", DType.U64),
):
    # Older releases of torch lack some of them.
    if hasattr(torch, _name):
        _DTYPES[getattr(torch, _name)] = _dtype

_OPS = {
    dist.ReduceOp.SUM: ReduceOp.SUM,
    dist.ReduceOp.PRODUCT: ReduceOp.PROD,
    dist.ReduceOp.MIN: ReduceOp.MIN,
    dist.ReduceOp.MAX: ReduceOp.MAX,
    dist.ReduceOp.AVG: ReduceOp.AVG,
}

_FP8 = (DType.E4M3, DType.E5M2)
# The first GPUs that convert 8-bit floats.
_FP8_CAPABILITY = (8, 9)


def dtype_of(tensor: torch.Tensor) -> Optional[DType]:
    """The tensor's element type; ``None`` where Myelon has none like it on the tensor's device."""
    dtype = _DTYPES.get(tensor.dtype)
    if dtype in _FP8 and tensor.is_cuda and torch.cuda.get_device_capability(tensor.device) < _FP8_CAPABILITY:
        return None
    return dtype


def op_of(op: Union["dist.ReduceOp", "dist.ReduceOp.RedOpType"]) -> Optional[ReduceOp]:
    """The operator; ``None`` where Myelon has none like it (bitwise ones, a sum with a factor)."""
    kind: Any = op
    return _OPS.get(getattr(kind, "op", kind))
