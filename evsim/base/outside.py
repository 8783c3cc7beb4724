"""What comes from outside of the program: a full disk, no memory, a signal. No fault of evsim: a sentence tells it."""

from __future__ import annotations

import errno
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, final

from evsim.base.user_code import causes

#: What the system lacks, whoever asks: not a plug-in's fault either.
_LACKS = {
    errno.ENOSPC: "the disk is full; free some space, or choose a folder on another disk",
    errno.EFBIG: "the file would grow beyond the limit for files (ulimit -f); raise it",
    errno.EROFS: "the disk is read-only; choose a folder on another one",
    errno.EMFILE: "too many open files (ulimit -n); raise the limit",
    errno.ENFILE: "too many open files on this machine; close some programs",
    errno.ENOMEM: "out of memory; use fewer processes, fewer clients, or a bigger machine",
    errno.EIO: "the disk fails (input/output error); look at it before anything else",
}
if hasattr(errno, "EDQUOT"):
    _LACKS[errno.EDQUOT] = "your share of the disk is used up (quota); free some space, or choose another disk"
_ENDING = ("SIGTERM", "SIGHUP")


@final
class Stopped(KeyboardInterrupt):
    """A signal asked the program to end; its number is the argument."""

    @property
    def number(self) -> int:
        """Of the signal."""
        return int(self.args[0]) if self.args else int(signal.SIGINT)


def of_the_system(error: BaseException) -> str | None:
    """What the system lacks, as a sentence; None if an error, and what caused it, tells of nothing of the kind.

    >>> of_the_system(OSError(28, "No space left on device", "runs/x/tasks.parquet"))
    'runs/x/tasks.parquet: the disk is full; free some space, or choose a folder on another disk'
    """
    for each in causes(error):
        if isinstance(each, MemoryError) or "allocate memory" in str(each)[:500]:
            return _LACKS[errno.ENOMEM]
        if isinstance(each, OSError) and each.errno in _LACKS:
            return _named(each, _LACKS[each.errno])
    return None


def of_a_file(error: BaseException) -> str | None:
    """Any error of a file as a sentence; None if it is none.

    >>> of_a_file(PermissionError(13, "Permission denied", "runs"))
    'runs: Permission denied'
    """
    return _named(error, error.strerror or str(error)) if isinstance(error, OSError) else None


@contextmanager
def ending_on_signals() -> Iterator[None]:
    """SIGTERM and SIGHUP raise `Stopped` inside, so that what was begun is put in order."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(number: int, _: object) -> None:
        raise Stopped(number)

    known = [getattr(signal, name) for name in _ENDING if hasattr(signal, name)]
    before: dict[Any, Any] = {
        number: signal.signal(number, stop)
        for number in known
        if signal.getsignal(number) is not signal.SIG_IGN  # nohup asks not to hear of it
    }
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _named(error: OSError, told: str) -> str:
    return f"{error.filename}: {told}" if error.filename is not None else told
