"""What a value of the wrong form seems to mean: only ever a question in a message, never taken for granted."""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Iterator, Mapping
from typing import Any

from evsim.scenario.hints import MismatchError, edge_of, is_policy, is_table, item_of, members, parse

_PERCENT = re.compile(r"([0-9.]+) ?%")
_COMMA = re.compile(r"(-?\d+),(\d+)")
_SIZE = re.compile(r"([0-9.]+) ?([kMGT])i?B?")
_SIZES = {"k": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}
_EXACT = 2**53  # beyond it a float is no whole number that somebody wrote
_TRUTH = {"yes": True, "true": True, "on": True, "no": False, "false": False, "off": False}
_TIME = re.compile(r"([0-9.]+) ?(d|h|m|s)[a-z]*\.?", re.IGNORECASE)
_UNITS = {"d": "d", "h": "h", "m": "min", "s": "s"}
#: "x must lie in (0, 1], but got x=93": a share, and what was given for it.
_SHARE = re.compile(r"[\[(]0, 1[\])].* but got \w+=([0-9.]+(?:e[+-]?\d+)?)$")


def meant(hint: Any, given: object) -> str:
    """The value that would fit and that somebody may have had in mind, as a question; "" if there is none.

    >>> meant(float, "0,05"), meant(int, "40MB"), meant(tuple[int, ...], 32)
    ('did you mean 0.05?', 'did you mean 40000000?', 'did you mean [32]?')
    """
    if any(is_policy(item_of(member)) for member in members(hint)) and isinstance(given, str | Mapping):
        return "did you mean a list of one? [[...]] in a file, [{kind = ...}] on the command line"
    for guess, note in _guesses(given):
        if any(_fits(member, guess) for member in members(hint)):
            return f"did you mean {json.dumps(guess)}{note}?"
    return ""


def share(message: str) -> str:
    """For a share that was given in percent, from the message that refuses it.

    >>> share("target_accuracy must lie in (0, 1], but got target_accuracy=93.0")
    'did you mean 0.93?'
    """
    given = _SHARE.search(message)
    if given is None or not 1 < float(given[1]) <= 100:  # noqa: PLR2004
        return ""
    return f"did you mean {float(given[1]) / 100:g}?"


def _guesses(given: object) -> Iterator[tuple[object, str]]:
    """What could have been meant, the likeliest first, each with a note."""
    if isinstance(given, float) and given.is_integer() and abs(given) < _EXACT:
        yield int(given), ""
    if isinstance(given, str):
        yield from _of_text(given.strip())
    if not isinstance(given, list):
        yield [given], ""


def _of_text(text: str) -> Iterator[tuple[object, str]]:
    if (percent := _PERCENT.fullmatch(text)) is not None:
        yield round(float(percent[1]) / 100, 12), ""
    if (comma := _COMMA.fullmatch(text)) is not None:
        yield float(f"{comma[1]}.{comma[2]}"), ""
    if (size := _SIZE.fullmatch(text)) is not None:
        yield round(float(size[1]) * _SIZES[size[2]]), ""
    if (time := _TIME.fullmatch(text)) is not None:
        yield f"{time[1]}{_UNITS[time[2].lower()]}", ""
    if text.lower() in _TRUTH:
        yield _TRUTH[text.lower()], ", without quotes" if text in ("true", "false") else ""
    try:
        yield tomllib.loads(f"v = {text}")["v"], ", without quotes"
    except (ValueError, KeyError, RecursionError):
        return


def _fits(member: Any, guess: object) -> bool:
    """Whether a guess is a value of this annotation; a time is guessed for durations only."""
    if isinstance(guess, str) and edge_of(member) is None:
        return False
    inner = item_of(member) or member
    if is_policy(inner) or is_table(inner) or (isinstance(guess, list) and inner is member):
        return False
    try:
        parse(member, guess)
    except MismatchError:
        return False
    return True
