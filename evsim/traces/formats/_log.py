"""From a log of check-ins and check-outs to intervals."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, final

import numpy as np

from evsim.base.caveat import Caveat
from evsim.base.vocabulary import BoolArray, IntArray
from evsim.traces.formats import _table

if TYPE_CHECKING:
    from evsim.traces.formats._table import Table

_IN = (
    *("1", "1.0", "in", "check_in", "checkin", "online", "on", "start", "begin", "available", "true", "up"),
    *("connect", "connected", "login"),
)
_OUT = (
    *("0", "0.0", "out", "check_out", "checkout", "offline", "off", "stop", "end", "unavailable", "false", "down"),
    *("disconnect", "disconnected", "logout"),
)


@final
@dataclass(frozen=True)
class Log:
    """Intervals, one entry each, ms; and what had to be assumed."""

    device: IntArray
    start: IntArray
    stop: IntArray
    caveats: tuple[Caveat, ...]


def sessions(table: Table, device: IntArray, at: IntArray, no_time: BoolArray, *, n_devices: int) -> Log:
    """The intervals of a log whose rows may come in any order; rows of one device and instant count as they stand.

    A device whose first event is a check-out was online since the log began, one whose last event is a check-in stays
    until it ends; the log begins and ends with the earliest and the latest event of all devices. An event that repeats
    the one before it says nothing.

    Raises:
        TraceError: with a line for each event that is neither, and each row without a time.
    """
    comes_in = _directions(table, no_time)
    if not len(device):
        return Log(device, at, at, ())
    order = np.lexsort((at, device))  # stable: the file's order within an instant
    device, at, comes_in = device[order], at[order], comes_in[order]
    first = np.append(True, device[1:] != device[:-1])
    news = first | np.append(True, comes_in[1:] != comes_in[:-1])
    repeated = int((~news).sum())
    device, at, comes_in, begin, end = device[news], at[news], comes_in[news], int(at.min()), int(at.max())
    first = np.append(True, device[1:] != device[:-1])
    last = np.append(first[1:], True)
    early, late = first & ~comes_in, last & comes_in
    ends = np.append(at[1:], end)
    ends[late] = end
    start = np.concatenate([at[comes_in], np.full(int(early.sum()), begin)])
    stop = np.concatenate([ends[comes_in], at[early]])
    of = np.concatenate([device[comes_in], device[early]])
    return Log(of, start, stop, _caveats(int(early.sum()), int(late.sum()), repeated, n_devices))


def _directions(table: Table, no_time: BoolArray) -> BoolArray:
    """True for check-ins."""
    words = _plain_words(table.columns["event"])
    comes_in, goes_out = np.isin(words, _IN), np.isin(words, _OUT)
    bad = ~(comes_in | goes_out)
    problems = table.problems(bad, "event", "in or out, or 1 or 0")
    time = next(name for name in ("time_ms", "time_s", "time") if name in table.columns)
    problems += table.problems(no_time, time, "a time")
    if problems:
        raise _table.fail(table.path, problems)
    return np.asarray(comes_in)


def _plain_words(column: Any) -> Any:
    import pyarrow.compute as pc

    coded = column.combine_chunks().dictionary_encode()
    plain = np.array(
        [_table.plain_name(str(word)) if "." not in str(word) else word for word in coded.dictionary.to_pylist()]
    )
    return plain[np.asarray(pc.cast(coded.indices, "int64").to_numpy(zero_copy_only=False))]


def _caveats(early: int, late: int, repeated: int, n_devices: int) -> tuple[Caveat, ...]:
    found = []
    if early or late:
        found.append(
            Caveat(
                "open_sessions",
                "devices whose log begins with a check-out or ends with a check-in were taken to be online from its "
                "beginning, or to its end",
                f"{early} and {late} of {n_devices} devices",
                "add the missing events",
            )
        )
    if repeated:
        found.append(Caveat("repeated_events", "events that repeat the one before were left out", f"{repeated} events"))
    return tuple(found)
