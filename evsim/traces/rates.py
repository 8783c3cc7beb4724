"""The speed of devices quantity by quantity: a number for all of them, or a named law from which each draws its own."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import MISSING, fields
from typing import Any

import numpy as np

from evsim.base import rng
from evsim.base.caveat import Caveat
from evsim.base.errors import PolicyError, Problem, TraceError, report, suggest
from evsim.base.vocabulary import FloatArray
from evsim.traces.laws import LAWS, Law
from evsim.traces.speed import DeviceSpeed

RATES = ("compute_ms_per_sample", "download_kbps", "upload_kbps")
MOST_DEVICES = 10**8  # to generate
_DRAWN = (*RATES, "latency_ms")
_JITTERS = ("compute_jitter", "network_jitter")
_WHOLE = ("devices", "seed")
_BOUNDS = ("at_least", "at_most")


def is_by_quantity(spec: Mapping[str, object]) -> bool:
    """Whether a table says how fast devices are quantity by quantity, rather than by the calibrated generator.

    >>> is_by_quantity({"compute_ms_per_sample": 20}), is_by_quantity({"upload_ratio": 0.5})
    (True, False)
    """
    return any(name in spec for name in _DRAWN)


def speed_by_quantity(spec: Mapping[str, object], *, n_devices: int, seed: int) -> DeviceSpeed:
    """The speed of devices of which each quantity is a number or a table with a law.

    A device's draw is a function of seed, quantity and the device's number: the first devices of a large population are
    those of a small one.

    Args:
        spec: the three `RATES`, each a number or a table of a law (`kind`, its parameters, `at_least`, `at_most`);
            optionally likewise `latency_ms`; the jitters, numbers; `devices` and `seed`.
        n_devices: how many, unless the table says.
        seed: unless the table says.

    Raises:
        TraceError: lists all that is wrong in the table.
    """
    if problems := list(_problems(spec)):
        raise TraceError(report(problems))
    n, own_seed = (int(spec.get(name, default)) for name, default in zip(_WHOLE, (n_devices, seed), strict=True))  # type: ignore[call-overload]  # checked above
    columns = {name: _column(name, spec[name], n, own_seed) for name in _DRAWN if name in spec}
    jitters = {name: as_float(spec[name]) for name in _JITTERS if name in spec}
    return DeviceSpeed(**columns, **jitters, caveats=tuple(_slow_links(spec, columns)))  # type: ignore[arg-type]  # an array per device, a number per jitter


def as_float(value: Any) -> float:
    """A number of any size; too large is infinite."""
    try:
        return float(value)
    except OverflowError:  # a whole number of more than 300 digits
        return math.inf


def is_number(value: object) -> bool:
    """Whether a value of a table is a number; true and false are none."""
    return isinstance(value, int | float) and not isinstance(value, bool)


# -- drawing ---------------------------------------------------------------------------------------------------------


def _column(name: str, given: Any, n: int, seed: int) -> FloatArray:
    """A quantity of every device, (n,)."""
    if is_number(given):
        return np.full(n, as_float(given))
    law = _law(given)
    names = ("tier",) if law.joint else (name,)
    drawn = law.quantile(rng.uniform(rng.key(seed, "speed", *names), np.arange(n, dtype=np.int64)))
    return np.clip(drawn, as_float(given.get("at_least", 0.0)), as_float(given.get("at_most", math.inf)))


def _law(table: Mapping[str, Any]) -> Law:
    cls = LAWS[table["kind"]]
    given = {field.name: table[field.name] for field in fields(cls) if field.name in table}  # type: ignore[arg-type]  # all laws are dataclasses
    return cls(**{name: _converted(value) for name, value in given.items()})


def _converted(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return tuple(as_float(each) for each in value)
    return value if isinstance(value, int) and abs(value) < 1 << 53 else as_float(value)


def _slow_links(spec: Mapping[str, Any], columns: Mapping[str, FloatArray]) -> Iterator[Caveat]:
    """Rates whose law reaches down to 0: a few links are so slow that the mean transfer has no end."""
    for name in (each for each in RATES if each.endswith("kbps")):
        given = spec[name]
        if isinstance(given, Mapping) and LAWS[given["kind"]].reaches_zero and not given.get("at_least"):
            yield Caveat(
                "rates_reach_zero",
                f"the law {given['kind']} of {name} reaches down to 0: the slowest devices are as slow as chance wants",
                f"slowest device {columns[name].min():.3g} kbit/s, median {np.median(columns[name]):.3g}",
                f"say at_least = ... in population.speed.{name}",
            )


# -- checking --------------------------------------------------------------------------------------------------------


def _problems(spec: Mapping[str, object]) -> Iterator[Problem]:
    known = (*_DRAWN, *_JITTERS, *_WHOLE)
    yield from (Problem(f"speed.{name}", "unknown key", "", suggest(name, known)) for name in spec if name not in known)
    yield from (Problem(f"speed.{name}", "missing", _NUMBER_OR_LAW) for name in RATES if name not in spec)
    for name, value in spec.items():
        where = f"speed.{name}"
        if name in _DRAWN and isinstance(value, Mapping):
            yield from _problems_of_law(where, value)
        elif name in _DRAWN and not is_number(value):
            yield Problem(where, repr(value), _NUMBER_OR_LAW)
        elif name in _JITTERS and not is_number(value):
            yield Problem(where, repr(value), "a number")
        elif name in _WHOLE and not _is_whole(value):
            yield Problem(where, repr(value), "a whole number")
        elif name == "devices" and not 1 <= value <= MOST_DEVICES:  # type: ignore[operator]  # whole
            yield Problem(where, repr(value), f"a whole number >= 1 and <= {MOST_DEVICES}")


_NUMBER_OR_LAW = 'a number, or a table such as { kind = "log_normal", median = 20, sigma = 0.5 }'


def _problems_of_law(where: str, table: Mapping[str, Any]) -> Iterator[Problem]:
    kind = table.get("kind")
    if not isinstance(kind, str) or kind not in LAWS:
        given = "missing" if kind is None else repr(kind)
        yield Problem(f"{where}.kind", given, "the name of a law", suggest(str(kind), LAWS))
        return
    found = [*_misfits(where, LAWS[kind], table)]
    yield from found
    if found:
        return
    low, high = (as_float(table.get(name, default)) for name, default in zip(_BOUNDS, (0.0, math.inf), strict=True))
    if not 0 <= low <= high or low == math.inf:
        yield Problem(where, f"at_least = {low:g}, at_most = {high:g}", "0 <= at_least <= at_most")
    try:
        _law(table)
    except PolicyError as error:
        yield Problem(where, str(error), "")


def _misfits(where: str, law: type[Law], table: Mapping[str, Any]) -> Iterator[Problem]:
    """Keys that the law has not, misses, or cannot take."""
    parameters = {field.name: field for field in fields(law)}  # type: ignore[arg-type]  # all laws are dataclasses
    known = ("kind", *parameters, *_BOUNDS)
    for name, value in table.items():
        if name not in known:
            yield Problem(f"{where}.{name}", "unknown key", "", suggest(name, known))
        elif name != "kind":
            expected = _EXPECTED[str(parameters[name].type) if name in parameters else "float"]
            if not _FITS[expected](value):
                yield Problem(f"{where}.{name}", repr(value), expected)
    for name, field in parameters.items():
        if name not in table and field.default is MISSING:
            yield Problem(f"{where}.{name}", "missing", _EXPECTED[str(field.type)])


def _is_whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _are_numbers(value: object) -> bool:
    return isinstance(value, list | tuple) and all(is_number(each) for each in value)


_EXPECTED = {"float": "a number", "int": "a whole number", "tuple[float, ...]": "a list of numbers"}
_FITS = {"a number": is_number, "a whole number": _is_whole, "a list of numbers": _are_numbers}
