"""What a file calls its devices: a column of text, or nothing at all for devices that are only numbered."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from evsim.base.errors import TraceError

if TYPE_CHECKING:
    from collections.abc import Sequence

#: Text per device, (n,); of objects, so that taking and repeating devices copies references only.
Names = NDArray[np.object_]


def as_names(given: Sequence[str] | NDArray[Any] | None, n: int) -> Names | None:
    """A read-only column of names of `n` devices, or None."""
    if given is None:
        return None
    names = np.empty(len(given), dtype=object)
    names[:] = given
    if len(names) != n:
        raise TraceError(f"{len(names)} names for {n} devices; expected one name per device")
    names.flags.writeable = False
    return names


def called(names: Names | None, device: int) -> str:
    """A device in an error message: its name in quotes, else its number."""
    return str(device) if names is None else repr(names[device])
