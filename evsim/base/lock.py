"""A lock on a folder: one process writes there at a time; a lock whose holder is gone counts for nothing.

The file names the holder and is touched every few seconds. On one machine the kernel says whether the holder lives (the
lock of the file goes with its process); across machines that share a disk, only how long ago it was touched.
"""

from __future__ import annotations

import json
import os
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import final

from typing_extensions import override

from evsim.base.errors import Problem, RunFolderError, report

if sys.platform != "win32":  # there pid and age have to do
    import fcntl

LOCK_FILE = ".evsim-lock"
BEAT_S = 15.0  # wall-clock between two touches
_STALE_S = 120.0  # untouched for so long, its holder is gone
_MOST_BYTES = 10_000


@final
@dataclass(frozen=True)
class Holder:
    """Who works in a folder: process number, machine, and since when (seconds since 1970)."""

    pid: int
    host: str
    since: float

    @override
    def __str__(self) -> str:
        """As a message names it."""
        return f"process {self.pid} on {self.host}"


def holder(folder: Path) -> Holder | None:
    """Who works in a folder now; nobody if the lock is not there, damaged, or its holder gone."""
    try:
        found = _told((folder / LOCK_FILE).read_bytes()[:_MOST_BYTES])
        age = _now() - (folder / LOCK_FILE).stat().st_mtime
    except OSError:
        return None
    if found is None or age > _STALE_S or (found.host == socket.gethostname() and not _lives(found.pid)):
        return None
    return found


def is_locked_by_evsim(folder: Path) -> bool:
    """Whether a folder has such a lock, held or not: then evsim has worked there."""
    return (folder / LOCK_FILE).is_file()


@contextmanager
def locked(folder: Path) -> Iterator[Path]:
    """Hold the lock of a folder; yields the lock's file, to be touched with `beat` at least every `BEAT_S`.

    Raises:
        RunFolderError: if somebody else holds it.
    """
    path = folder / LOCK_FILE
    number = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        other = holder(folder)
        if not _took(number) or (other is not None and not _is_over(other)):
            raise _refused(folder, other)
        os.ftruncate(number, 0)
        os.write(number, json.dumps(asdict(Holder(os.getpid(), socket.gethostname(), _now()))).encode())
        try:
            yield path
        finally:
            with suppress(OSError):
                os.ftruncate(number, 0)  # not removed: whoever waits for this very file would lock nothing
    finally:
        os.close(number)


@contextmanager
def waiting_for(path: Path) -> Iterator[None]:
    """One process at a time inside, by the lock of a file; the others wait. Nobody waits where there are no locks."""
    with path.open("wb") as file:
        if sys.platform != "win32":
            with suppress(OSError):
                fcntl.flock(file, fcntl.LOCK_EX)
        yield


def beat(path: Path) -> None:
    """Say that the holder still lives."""
    with suppress(OSError):
        os.utime(path)


def _now() -> float:
    return time.time()  # noqa: TID251  what other processes and machines mean by it


def _took(number: int) -> bool:
    if sys.platform == "win32":
        return True
    try:
        fcntl.flock(number, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # a disk that knows no such locks: pid and age have to do
        return True
    return True


def _is_over(other: Holder) -> bool:
    """Whether a holder can hold nothing more, the kernel having given us its lock."""
    return sys.platform != "win32" and other.host == socket.gethostname() and other.pid != os.getpid()


def _told(content: bytes) -> Holder | None:
    try:
        return Holder(**json.loads(content))
    except (ValueError, TypeError, RecursionError):
        return None


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError, TypeError):
        return False
    except OSError:  # of another user
        return True
    return True


def _refused(folder: Path, other: Holder | None) -> RunFolderError:
    who = "another process" if other is None else str(other)
    hint = f"wait for it, choose another --out, or end it; if it is gone, remove {folder / LOCK_FILE}"
    return RunFolderError(
        report([Problem(str(folder), f"{who} works in it", "a folder of one process at a time", hint)])
    )
