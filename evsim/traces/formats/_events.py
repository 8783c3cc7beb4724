"""From a phone's log of events to the intervals in which it was ready."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterable

    from evsim.base.vocabulary import BoolArray, IntArray

_STATES = ("charging", "wifi", "locked", "screen_off")
#: What an event does: a state and whether it begins.
_EVENTS = {
    "battery_charged_on": ("charging", True),
    "battery_charged_off": ("charging", False),
    "wifi": ("wifi", True),
    **dict.fromkeys(("2g", "3g", "4g", "5g", "unknown"), ("wifi", False)),
    "screen_off": ("screen_off", True),
    "screen_on": ("screen_off", False),
    "screen_lock": ("locked", True),
    "screen_unlock": ("locked", False),
}
_WITHOUT_EFFECT = frozenset({"battery_low", "battery_okay", "phone_on", "phone_off"})
_LEVEL = re.compile(r"[0-9.]+%")
_YEARS = 1_000  # either side of 1970: what is beyond is no time stamp
_ORIGIN = np.datetime64("2020-01-02T00:00:00", "s")  # a midnight; FLASH's own reference


def ready_intervals(lines: Iterable[str], groups: tuple[tuple[str, ...], ...]) -> tuple[IntArray, int, int] | None:
    """Intervals in which of each group of states at least one holds, in ms since a midnight.

    Lines need no order; all events of one second take effect together. A state that was not seen yet does not hold.

    Returns:
        Intervals (m, 2), the instants of the first and last line; None if a line is malformed or there is none.
    """
    parsed = _parse(lines)
    if parsed is None:
        return None
    at, events = parsed
    order = np.argsort(at, kind="stable")
    at, events = at[order], [events[row] for row in order]
    states = {state: _held(events, state) for state in _STATES}
    ready = np.logical_and.reduce([np.logical_or.reduce([states[state] for state in group]) for group in groups])
    last_of_second = np.append(at[1:] != at[:-1], True)
    at, ready = at[last_of_second], ready[last_of_second]
    before = np.concatenate([[False], ready[:-1]])
    starts, stops = at[ready & ~before], at[~ready & before]
    if ready[-1]:
        stops = np.append(stops, at[-1])
    return np.stack([starts, stops], axis=1), int(at[0]), int(at[-1])


def _parse(lines: Iterable[str]) -> tuple[IntArray, list[str]] | None:
    pairs = [line.strip().split("\t") for line in lines if line.strip()]
    if not pairs or any(len(pair) != 2 for pair in pairs):  # noqa: PLR2004  time and event
        return None
    events = [event.strip().lower() for _, event in pairs]
    if not all(event in _EVENTS or event in _WITHOUT_EFFECT or _LEVEL.fullmatch(event) for event in events):
        return None
    try:
        stamps = np.array([stamp.strip().replace(" ", "T", 1) for stamp, _ in pairs], dtype="datetime64[s]")
    except ValueError:
        return None
    if np.isnat(stamps).any() or (np.abs(stamps.astype("datetime64[Y]").astype(np.int64)) > _YEARS).any():
        return None
    return (stamps - _ORIGIN).astype(np.int64) * 1_000, events


def _held(events: list[str], state: str) -> BoolArray:
    """Whether a state holds after each event."""
    changes = np.array([_change(event, state) for event in events], np.int8)
    latest = np.maximum.accumulate(np.where(changes >= 0, np.arange(len(changes)), -1))
    return np.asarray((latest >= 0) & (changes[latest] == 1))


def _change(event: str, state: str) -> int:
    """1: the event begins the state, 0: ends it, -1: leaves it."""
    of, begins = _EVENTS.get(event, ("", False))
    return int(begins) if of == state else -1
