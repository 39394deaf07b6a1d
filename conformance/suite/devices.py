"""The device that a run is on."""

from __future__ import annotations

import torch


def device_lost(device: str) -> bool:
    """Whether the CUDA context is poisoned: after an illegal access every later call fails as well."""
    if not device.startswith("cuda"):
        return False
    try:
        torch.cuda.synchronize()
    except RuntimeError:
        return True
    return False
