"""Seeded mutations of bytes and of the structure of texts and tables."""

from __future__ import annotations

import json
import math

import numpy as np

ODD_BYTES = (
    b"\0",
    b"\xff\xfe",
    b"\xef\xbb\xbf",
    b"\n",
    b"\r\n",
    b'"',
    b"[",
    b"{",
    b"]]",
    b"..",
    b"\x80",
    b"nan",
    b"1e999",
)
ODD_VALUES = (
    *("", "..", "../../x", "/dev/zero", "CON", "a\0b", "<script>", "nan", "1e999d", "é" * 50, "x" * 10_000),
    *(0, -1, 2**31, 2**63 - 1, 1e308, -0.0, math.inf, math.nan, True, False),
    *([], [[]], [1, "a"], {}, {"kind": "x"}, {"kind": "serial", "threads": 10**9}),
)


def of_bytes(content, rng):
    """One to four changes: a bit, a cut, a copy, something odd in between."""
    made = bytearray(content)
    for _ in range(rng.integers(1, 5)):
        at = int(rng.integers(0, len(made) + 1))
        end = min(len(made), at + int(rng.integers(1, 64)))
        match int(rng.integers(0, 6)):
            case 0 if at < len(made):
                made[at] ^= 1 << int(rng.integers(0, 8))
            case 1:
                del made[at:end]
            case 2:
                made[at:at] = made[at:end] * int(rng.integers(1, 4))
            case 3:
                made[at:at] = ODD_BYTES[int(rng.integers(0, len(ODD_BYTES)))]
            case 4:
                del made[at:]
            case _:
                made[at:end] = rng.bytes(end - at)
    return bytes(made)


def of_tables(tables, rng):
    """A copy of nested tables in which one value or key is something else, or gone, or twice as deep."""
    made = json.loads(json.dumps(tables))
    place, key = _somewhere(made, rng)
    match int(rng.integers(0, 5)):
        case 0:
            del place[key]
        case 1 if isinstance(place, dict):
            place[f"{key}x"] = place.pop(key)
        case 2:
            place[key] = {"kind": place[key]} if rng.random() < 0.5 else [place[key]]
        case _:
            place[key] = odd_value(rng)
    return made


def odd_value(rng):
    """A value that few keys take."""
    return ODD_VALUES[int(rng.integers(0, len(ODD_VALUES)))]


def _somewhere(made, rng):
    places = []

    def walk(value):
        for key in range(len(value)) if isinstance(value, list) else list(value):
            places.append((value, key))
            if isinstance(value[key], list | dict):
                walk(value[key])

    walk(made)
    return places[int(rng.integers(0, len(places)))]


def seeded(case):
    """The generator of a case."""
    return np.random.default_rng(case)
