"""The digest that names a timeline."""

from __future__ import annotations

import hashlib
import struct
from typing import TYPE_CHECKING, Any, final

import numpy as np

if TYPE_CHECKING:
    from evsim.base.vocabulary import IntArray

_WIDTH = 6


@final
class TimelineHash:
    """A digest of rows of six integers, the same however many are given at once."""

    def __init__(self) -> None:
        self._digest = hashlib.blake2b(digest_size=16)
        self._pack = struct.Struct(f"<{_WIDTH}q").pack

    def add(self, *columns: IntArray | Any) -> None:
        """Rows one after the other, as columns of equal length."""
        self._digest.update(np.stack([np.asarray(c, np.int64) for c in columns], axis=1).astype("<i8").tobytes())

    def add_one(self, *numbers: int) -> None:
        """One row; the same bytes without array overhead."""
        self._digest.update(self._pack(*numbers))

    def hexdigest(self) -> str:
        """The digest so far."""
        return self._digest.hexdigest()
