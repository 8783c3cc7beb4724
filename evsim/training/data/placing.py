"""Arrays on their way to a device."""

from __future__ import annotations

from typing import Any

import torch
from numpy.typing import NDArray


def on_device(array: NDArray[Any], device: torch.device) -> torch.Tensor:
    """An array on the device; the host does not wait for a GPU that still works on something else."""
    tensor = torch.from_numpy(array)
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)
