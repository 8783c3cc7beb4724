"""Being asked to stop: the first signal ends a run cleanly, a second breaks off training, none breaks off writing."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import final

from evsim.base.outside import Stopped

#: By signal: why a run then ends. SIGHUP comes when a terminal is closed.
REASONS = {
    getattr(signal, name): reason
    for name, reason in (("SIGINT", "interrupted"), ("SIGTERM", "terminated"), ("SIGHUP", "terminated"))
    if hasattr(signal, name)
}


@final
class Signals:
    """Hears SIGINT, SIGTERM and SIGHUP while `heard` is entered, in the main thread; elsewhere nothing changes.

    A signal that is ignored when the run starts, as SIGHUP is under nohup, stays ignored.

    Attributes:
        number, reason: of the first signal; 0 and "" before it.
    """

    def __init__(self) -> None:
        self.number, self.reason = 0, ""
        self._end: Callable[[], None] = lambda: None
        self._again, self._training = False, False

    @contextmanager
    def heard(self, end: Callable[[], None]) -> Iterator[None]:
        """Call `end` at the first signal."""
        self._end = end
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {each: signal.getsignal(each) for each in REASONS}
        mine = [each for each, handler in before.items() if handler is not signal.SIG_IGN]
        for each in mine:
            signal.signal(each, self._hear)
        try:
            yield
        finally:
            for each in mine:
                signal.signal(each, before[each])

    @contextmanager
    def training(self) -> Iterator[None]:
        """What may be broken off: nothing is half done if it raises.

        Raises:
            Stopped: at a second signal, or at once if it came already.
        """
        self._training = True
        try:
            if self._again:
                raise Stopped(self.number)
            yield
        finally:
            self._training = False

    def _hear(self, number: int, _frame: FrameType | None) -> None:
        if not self.reason:
            self.number, self.reason = number, REASONS[signal.Signals(number)]
            self._end()
            return
        self._again = True
        if self._training:
            raise Stopped(self.number)
