"""Time and sizes: conversion happens here, once, at the edge.

Inside evsim virtual time is an integer number of milliseconds since the scenario starts.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Annotated

from evsim.base.errors import PolicyError

MS_PER_SECOND = 1_000
MS_PER_MINUTE = 60_000
MS_PER_HOUR = 3_600_000
MS_PER_DAY = 86_400_000

#: The longest duration anybody can write: a thousand years.
LONGEST = 365_250 * MS_PER_DAY

#: The longest a download, a computation or an upload may take; beyond it something was typed wrong.
LONGEST_PHASE = 3_652 * MS_PER_DAY

#: "never": later than any instant of any scenario, and safe to add a week to.
FOREVER = 2**62

_UNITS = {
    "ms": 1,
    "s": MS_PER_SECOND,
    "min": MS_PER_MINUTE,
    "h": MS_PER_HOUR,
    "d": MS_PER_DAY,
    "w": 7 * MS_PER_DAY,
}
_DURATION = re.compile(
    r"\s*([-+]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][-+]?[0-9]+)?|[-+]?inf|nan)\s*(ms|s|min|h|d|w)\s*"
)
_SHOWN = 60  # characters of what was given
_TIME_OF_DAY = re.compile(r"([01]?[0-9]|2[0-3]):([0-5][0-9])(?::([0-5][0-9]))?")


@dataclass(frozen=True)
class Edge:
    """Marks a field that users write in human units and evsim holds in ms."""

    expected: str


#: A field in ms that a scenario file writes as a number of seconds or as "90s", "10min", "2h", "7d".
Duration = Annotated[int, Edge('a duration: a number of seconds or text such as "90s", "10min", "2h", "7d"')]
#: A field in ms since midnight that a scenario file writes as "18:00".
TimeOfDay = Annotated[int, Edge('a time of day such as "18:00"')]


def parse_duration(value: object) -> int:
    """A duration in ms, from a number of seconds or a text with a unit.

    >>> parse_duration("10min"), parse_duration(1.5)
    (600000, 1500)
    >>> parse_duration("1e300d")
    Traceback (most recent call last):
    evsim.base.errors.PolicyError: '1e300d' is longer than 1000 years

    Raises:
        PolicyError: if it is not a duration, or negative, or not finite, or longer than a thousand years.
    """
    number, unit = _duration(value)
    if not (number < 0 or number >= 0):
        raise PolicyError(f"{_short(value)} is not a duration: it is not a number")
    if number < 0:
        raise PolicyError(f"{_short(value)} is not a duration: it is negative")
    if number * unit > LONGEST:
        raise PolicyError(f"{_short(value)} is longer than 1000 years")
    return round(number * unit)


def _duration(value: object) -> tuple[float, int]:
    """A number and the ms of its unit."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        return value, MS_PER_SECOND
    match = _DURATION.fullmatch(value) if isinstance(value, str) else None
    if match is None:
        raise PolicyError(f"{_short(value)} is not a duration")
    return float(match[1]), _UNITS[match[2]]


def _short(value: object) -> str:
    """What was given, for a message; a whole number of thousands of digits has no text."""
    try:
        text = repr(value)
    except ValueError:
        return "a number of thousands of digits"
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."


def parse_time_of_day(value: object) -> int:
    """A time of day in ms since midnight.

    >>> parse_time_of_day("18:30")
    66600000
    """
    match = _TIME_OF_DAY.fullmatch(value) if isinstance(value, str) else None
    if match is None:
        raise PolicyError(f"{value!r} is not a time of day such as '18:00'")
    return int(match[1]) * MS_PER_HOUR + int(match[2]) * MS_PER_MINUTE + int(match[3] or 0) * MS_PER_SECOND


def format_duration(ms: float) -> str:
    """A duration as people say it, two units at most.

    >>> format_duration(93_784_000), format_duration(1_500), format_duration(0)
    ('1d 2h', '1.5 s', '0 s')
    """
    if ms < MS_PER_MINUTE:
        return f"{ms / MS_PER_SECOND:g} s"
    parts = []
    rest = round(ms / MS_PER_SECOND) * MS_PER_SECOND
    for name, size in (("d", MS_PER_DAY), ("h", MS_PER_HOUR), ("min", MS_PER_MINUTE), ("s", MS_PER_SECOND)):
        count, rest = divmod(rest, size)
        if count:
            parts.append(f"{count:g}{name}")
    return " ".join(parts[:2])


def format_clock(ms: int, start_ms: int = 0) -> str:
    """A virtual instant as day and time of day, given the time of day at which virtual time 0 falls.

    >>> format_clock(7 * MS_PER_HOUR, start_ms=18 * MS_PER_HOUR)
    'day 2 01:00'
    """
    day, rest = divmod(ms + start_ms, MS_PER_DAY)
    return f"day {day + 1} {rest // MS_PER_HOUR:02d}:{rest // MS_PER_MINUTE % 60:02d}"


def format_bytes(count: float) -> str:
    """A number of bytes with a decimal unit.

    >>> format_bytes(20_000_000)
    '20 MB'
    """
    step, units = 1000, ("B", "kB", "MB", "GB", "TB")
    power = 0
    while count >= step and power < len(units) - 1:
        count, power = count / step, power + 1
    return f"{count:.3g} {units[power]}"
