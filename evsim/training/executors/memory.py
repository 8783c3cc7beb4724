"""Keep freed memory in the process, so that large temporaries do not cost page faults again and again.

glibc gives every block above 128 KiB back to the system when it is freed. Training allocates such blocks for every
step, and the kernel must clear each page anew: on two cores this halves the speed of stacked training.
"""

from __future__ import annotations

import ctypes
import sys

_M_TRIM_THRESHOLD = -1
_M_MMAP_THRESHOLD = -3
_LIMIT = 1 << 30


def keep_freed_memory() -> bool:
    """Ask the allocator to reuse freed blocks up to 1 GiB each; False where there is no such wish (not glibc)."""
    if not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    return mallopt is not None and bool(mallopt(_M_MMAP_THRESHOLD, _LIMIT) and mallopt(_M_TRIM_THRESHOLD, _LIMIT))
