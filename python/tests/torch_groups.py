"""What ranks run in the tests of how groups are used wrongly, end and begin anew: in processes of their own, as all of torch_ranks."""

from __future__ import annotations

from typing import List

import torch
import torch.distributed as dist

import myelon_ccl
from torch_ranks import DEVICE, SIZE


def parts_that_do_not_fit() -> List[str]:
    """Sizes and types that the other backend refuses too; memory behind the tensors stays as it was."""
    memory = torch.zeros(64, device=DEVICE)
    ones = torch.ones(16, device=DEVICE)
    told = []
    for call in (
        lambda: dist.all_gather_into_tensor(memory[:4], ones),
        lambda: dist.all_gather_into_tensor(memory[: 16 * SIZE].to(torch.int32), ones),
        lambda: dist.reduce_scatter_tensor(memory[:16], ones),
        lambda: dist.reduce_scatter_tensor(memory[:8].double(), ones),
    ):
        try:
            call()
        except myelon_ccl.InvalidArgument as error:
            told.append(str(error))
    assert memory.sum().item() == 0
    return told
