"""Work in processes of its own: one core each, nothing left behind, and all of them end with the one that began them.

A pool of the standard library breaks as a whole when one of its processes dies, and its processes outlive a parent that
is killed. Here each process has a place and a pipe: whoever dies, of memory for instance, takes its own task only.
"""

from __future__ import annotations

import ctypes
import gc
import multiprocessing
import os
import signal
import sys
import threading
import traceback
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any, TypeVar, final

_K = TypeVar("_K")

_GRACE_S = 3.0  # wall-clock that a process has to end when asked
_PR_SET_PDEATHSIG = 1  # of Linux


@final
@dataclass(frozen=True)
class Answer:
    """What became of a task.

    Attributes:
        value: what the work returned; None if there is an error.
        error: why there is none, in words.
        details: the traceback of an error that nobody foresaw.
    """

    value: Any = None
    error: str = ""
    details: str = ""


def in_processes(
    tasks: Mapping[_K, tuple[Any, ...]],
    work: Callable[..., Any],
    processes: int,
    *,
    every_s: float | None = None,
    on_beat: Callable[[], None] = lambda: None,
) -> Iterator[tuple[_K, Answer]]:
    """Each task's key and answer, in the order in which they are over.

    Closed early, or left by an exception, it ends its processes before it returns.

    Args:
        tasks: arguments of `work` by key.
        work: a function of a module; raises what it likes.
        processes: tasks at a time.
        every_s: how often `on_beat` is called while nothing happens.
        on_beat: told that the wait goes on.
    """
    queue = deque(tasks.items())
    busy: list[tuple[_Hand, _K]] = []
    try:
        for place in range(min(processes, len(queue))):  # one by one: what began is known when the next fails
            busy.append(_given(_Hand(place, work), queue))  # noqa: PERF401
        while busy:
            ready = wait([hand.pipe for hand, _ in busy], every_s)
            on_beat()
            for hand, key in [pair for pair in busy if pair[0].pipe in ready]:
                answer = hand.answer()
                busy.remove((hand, key))
                if queue:
                    busy.append(_given(hand if hand.lives else _Hand(hand.place, work), queue))
                else:
                    hand.leave()
                yield key, answer
    finally:
        _end([hand for hand, _ in busy])


@final
class _Hand:
    """A process that does one task after another, as seen from outside."""

    def __init__(self, place: int, work: Callable[..., Any]) -> None:
        context = multiprocessing.get_context("spawn")
        self.place = place
        self.pipe, inner = context.Pipe()
        self.process: BaseProcess = context.Process(target=_serve, args=(inner, place, work))
        self.process.start()
        inner.close()
        self.lives = True

    def answer(self) -> Answer:
        """The answer to the task it has; that it died is one."""
        try:
            found: Answer = self.pipe.recv()
        except (EOFError, OSError):
            self.lives = False
            self.leave()
            return Answer(error=_of_death(self.process.exitcode))
        return found

    def leave(self) -> None:
        """Let it end: there is no more to do."""
        self.pipe.close()
        self.process.join()


def _given(hand: _Hand, queue: deque[tuple[_K, tuple[Any, ...]]]) -> tuple[_Hand, _K]:
    key, arguments = queue.popleft()
    with suppress(OSError):  # it died already: the pipe will say so
        hand.pipe.send(arguments)
    return hand, key


def _end(hands: list[_Hand]) -> None:
    """Ask, wait, kill."""
    for hand in hands:
        hand.process.terminate()
    for hand in hands:
        hand.process.join(_GRACE_S)
        if hand.process.is_alive():
            hand.process.kill()
        hand.leave()


def _of_death(code: int | None) -> str:
    if code is None or code >= 0:
        return f"the process died (exit code {code})"
    name = signal.Signals(-code).name if -code in set(signal.Signals) else f"signal {-code}"
    hint = "; the system may have run out of memory: fewer --processes" if -code == signal.SIGKILL else ""
    return f"the process died ({name}{hint})"


# -- inside ------------------------------------------------------------------------------------------------------------


def _serve(pipe: Connection, place: int, work: Callable[..., Any]) -> None:
    """Do tasks until there are no more."""
    end_with_parent()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal sends it to all; the parent decides
    keep_to_core(place)
    while True:
        try:
            arguments = pipe.recv()
        except EOFError:
            return
        pipe.send(_answer(work, arguments))
        del arguments
        tidy()


def _answer(work: Callable[..., Any], arguments: tuple[Any, ...]) -> Answer:
    try:
        return Answer(work(*arguments))
    except Exception as error:  # whatever it is, the other tasks go on
        return Answer(error=f"{type(error).__name__}: {error}", details=traceback.format_exc())


def end_with_parent() -> None:
    """End this process with its parent, even if that is killed: by the kernel on Linux, by a pipe elsewhere."""
    parent = multiprocessing.parent_process()
    if parent is None:
        return
    if sys.platform == "linux":
        with suppress(OSError, AttributeError):
            ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    threading.Thread(target=_watch, args=(parent.sentinel,), daemon=True).start()


def _watch(sentinel: int) -> None:
    wait([sentinel])
    os._exit(1)


def keep_to_core(place: int) -> None:
    """Keep to the core of a place: two on one core would take turns."""
    if hasattr(os, "sched_setaffinity"):
        cores = sorted(os.sched_getaffinity(0))
        with suppress(OSError):
            os.sched_setaffinity(0, {cores[place % len(cores)]})


def one_thread() -> None:
    """Train on one thread: more would take turns with the other processes."""
    import torch

    torch.set_num_threads(1)


def tidy() -> None:
    """Give back what a finished task leaves: objects in circles to Python, free memory to the system."""
    gc.collect()
    with suppress(OSError, AttributeError, TypeError):
        ctypes.CDLL(None).malloc_trim(0)
