"""What torch calls at the end of its own import, so that ``init_process_group("myelon")`` works by itself."""

from __future__ import annotations

from typing import Any


def register() -> None:
    """Registers the backend ``myelon``; doing it again does nothing. Cheap: the backend is imported at its first use."""
    import torch.distributed as dist

    if not dist.is_available() or "MYELON" in dist.Backend._plugins:
        return
    dist.Backend.register_backend("myelon", _create, extended_api=True, devices=["cuda", "cpu"])


def _create(options: Any, backend_options: Any) -> Any:
    from .torch.process_group import create

    return create(options, backend_options)
