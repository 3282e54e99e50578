"""Myelon for PyTorch: the backend ``myelon`` of ``torch.distributed``, a hook for DDP, and all-reduce of tensors.

``init_process_group("myelon")`` runs the all-reduces of a group on Myelon and gives everything else to NCCL, or to gloo on the
CPU. A model whose group is another one takes :func:`ddp_hook`; a tensor takes :func:`all_reduce`.
"""

from __future__ import annotations

from torch._dynamo import trace_rules

from .._autoload import register
from .direct import all_reduce, communicator_of, destroy_communicator
from .hook import HookState, ddp_hook

register()
# WHY: a compiled function calls into a process group, as torch's own are called; followed by the compiler, which knows no members of
# one, it would be an error.
trace_rules.add("myelon_ccl")

__all__ = ["HookState", "all_reduce", "communicator_of", "ddp_hook", "destroy_communicator"]
