"""Silence for libraries that print where nobody asked them to."""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress

_STDOUT = 1


@contextmanager
def quiet_stdout() -> Iterator[None]:
    """What compiled code prints to standard output meanwhile goes nowhere; other threads' output too.

    `contextlib.redirect_stdout` changes Python's `sys.stdout` only: the solver HiGHS writes to the file descriptor.
    """
    try:
        kept = os.dup(_STDOUT)
    except OSError:  # there is no standard output
        yield
        return
    _flush()
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, _STDOUT)
        yield
    finally:
        _flush()
        os.dup2(kept, _STDOUT)
        os.close(nowhere)
        os.close(kept)


def _flush() -> None:
    """What Python and the C library still hold back."""
    with suppress(AttributeError, ValueError, OSError):  # None, or closed
        sys.stdout.flush()
    with suppress(AttributeError, OSError, TypeError):  # a platform without a C library of the process
        ctypes.CDLL(None).fflush(None)
