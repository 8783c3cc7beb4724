"""Where a trace comes from: a bundled one by name, a file of any known format, or a table of generator parameters."""

from __future__ import annotations

import inspect
import traceback
from collections.abc import Callable, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any, TypeVar

from evsim.base import bundled, registry
from evsim.base.errors import EvsimError, PolicyError, Problem, TraceError, report, suggest
from evsim.traces.availability import AvailabilityTrace
from evsim.traces.formats import _table
from evsim.traces.rates import MOST_DEVICES, as_float, is_by_quantity, is_number, speed_by_quantity
from evsim.traces.speed import DeviceSpeed
from evsim.traces.synthetic import SyntheticAvailability, SyntheticSpeed

Spec = str | Mapping[str, object]

_P = TypeVar("_P", SyntheticAvailability, SyntheticSpeed)
_PRESETS: dict[str, Callable[[], SyntheticAvailability]] = {
    "phones": SyntheticAvailability,
    "charging_only": SyntheticAvailability.charging_only,
}


def load_availability(spec: Spec, *, n_devices: int, seed: int, folder: Path) -> AvailabilityTrace:
    """The availability of trace devices.

    Args:
        spec: "always"; the name of a bundled trace; a path; a table with `path`, and optionally `format` and options of
            that format; or a table of `SyntheticAvailability` parameters, optionally with `preset` ("phones",
            "charging_only"), `devices` and `seed`.
        n_devices: how many devices "always" has, and how many are generated unless the table says.
        seed: of generated traces, unless the table says.
        folder: where relative paths begin.

    Raises:
        TraceError: if there is no such trace, it cannot be used, or the table is wrong; lists all that is wrong in it.
    """
    if spec == "always":
        return AvailabilityTrace.always(n_devices)
    if isinstance(spec, str) or "path" in spec:
        trace: AvailabilityTrace = _from_file("availability", spec, folder)
        return trace
    table = dict(spec)
    preset = table.pop("preset", "phones")
    if not isinstance(preset, str) or preset not in _PRESETS:
        raise TraceError(f"availability.preset: {preset!r}; {suggest(str(preset), _PRESETS)}")
    model, n, own_seed = _generator("availability", _PRESETS[preset](), table, n_devices, seed)
    return model.generate(n, own_seed)


def load_speed(spec: Spec, *, n_devices: int, seed: int, folder: Path) -> DeviceSpeed:
    """The speed of trace devices.

    Args:
        spec: the name of a bundled trace; a path; a table with `path`; a table that gives each quantity a number or a
            law (`speed_by_quantity`); or a table of `SyntheticSpeed` parameters, optionally with `devices` and `seed`.
        n_devices: as for `load_availability`.
        seed: as for `load_availability`.
        folder: as for `load_availability`.

    Raises:
        TraceError: as `load_availability`.
    """
    if isinstance(spec, str) or "path" in spec:
        speed: DeviceSpeed = _from_file("speed", spec, folder)
        return speed
    if is_by_quantity(spec):
        return speed_by_quantity(spec, n_devices=n_devices, seed=seed)
    model, n, own_seed = _generator("speed", SyntheticSpeed(), dict(spec), n_devices, seed)
    return model.generate(n, own_seed)


def recognize(path: Path) -> str:
    """The format of a trace file or folder, by its content.

    Raises:
        TraceError: if there is nothing at the path, or no format claims it.
    """
    if not path.exists():
        raise TraceError(f"{path}: no such file or folder")
    if _table.looks_wide(path):
        raise TraceError(f"{path}: UTF-16; expected text in UTF-8 (in Excel: save as 'CSV UTF-8')")
    kinds = registry.entries("trace_format")
    formats = [registry.load("trace_format", kind) for kind in kinds]
    for kind, each in zip(kinds, formats, strict=True):
        sniff = getattr(each, "sniff", None)  # a function has none: say its name
        if sniff is not None and sniff(path):
            return kind
    hints = [each.hint(path) for each in formats if hasattr(each, "hint")]
    advice = next(filter(None, hints), f"say which with format = ... (known: {', '.join(kinds)})")
    raise TraceError(f"{path}: not a trace of a known format; {advice}")


def _from_file(what: str, spec: Spec, folder: Path) -> Any:
    table = {"path": spec} if isinstance(spec, str) else dict(spec)
    path = table.pop("path")
    if not isinstance(path, str):
        raise TraceError(f"{what}.path: {path!r}; expected text")
    place = _locate(what, path, folder)
    kind = str(table.pop("format", None) or recognize(place))
    reader = _reader(what, kind, folder)
    known = list(inspect.signature(reader).parameters)[1:]
    if unknown := [name for name in table if name not in known]:
        problems = [
            Problem(f"{what}.{name}", "unknown key", "", suggest(name, ("path", "format", *known))) for name in unknown
        ]
        raise TraceError(report(problems))
    try:
        return _checked(what, kind, reader(place, **table))
    except TraceError as error:
        if str(error).partition(": ")[0] in table:  # an option of the format
            raise TraceError(f"{what}.{error}") from error
        if str(place) in str(error):
            raise
        raise TraceError(f"{place}: {error}") from error
    except Exception as error:  # a format of the user's may raise anything; a built-in one may not
        if kind in registry.built_in("trace_format"):
            raise
        raise TraceError(f"{place}: format {kind!r} failed: {_last_call(error, reader)}") from error


def _checked(what: str, kind: str, made: Any) -> Any:
    """What a reader returns, which may be a user's."""
    wanted = AvailabilityTrace if what == "availability" else DeviceSpeed
    if not isinstance(made, wanted):
        raise TraceError(f"{what}.format: {kind!r} gave a {type(made).__name__}; expected a {wanted.__name__}")
    return made


def _last_call(error: Exception, reader: Callable[..., Any]) -> str:
    """An error of a user's code, and the last line of that code that ran."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if frame.filename == _file_of(reader)]
    frame = (own or frames)[-1]
    return f"{type(error).__name__}: {error} (line {frame.lineno} of {Path(frame.filename).name}, in {frame.name})"


def _file_of(reader: Callable[..., Any]) -> str:
    code = getattr(inspect.unwrap(reader), "__code__", None)
    return str(code.co_filename) if code is not None else ""


def _locate(what: str, path: str, folder: Path) -> Path:
    """The bundled trace of that name, otherwise a path in the folder; "./phones" is always a path."""
    inside = bundled.bundled_trace(path)
    if inside is not None:
        return inside
    there = _path(path, folder)
    if there is None:
        names = [found.name for found in bundled.bundled("traces")] + ["always"] * (what == "availability")
        raise TraceError(
            f"{what}: {path[:200]!r} is neither a path below {folder} nor a trace's name; {suggest(path, names)}"
        )
    return there


def _path(path: str, folder: Path) -> Path | None:
    """What is at a path, absolute or relative to the folder; None if nothing is or can be."""
    try:
        there = folder / Path(path).expanduser()
        return there if there.exists() else None
    except (OSError, RuntimeError, ValueError):  # too long, of a user who is not here, with a zero in it
        return None


def _reader(what: str, kind: str, folder: Path) -> Callable[..., Any]:
    """The function that reads a format: `read_...` of its module, or the one named after a colon."""
    is_file = kind.endswith(".py")
    try:
        found = registry.load("trace_format", f"{kind}:" if is_file else kind, folder)
    except EvsimError as error:
        raise TraceError(f"{what}.format: {error}") from error
    reader = getattr(found, f"read_{what}", None if inspect.ismodule(found) else found)
    if not callable(reader):
        raise TraceError(f"{what}.format: {kind!r} has no read_{what}; it cannot be read as {what}")
    return reader  # type: ignore[no-any-return]  # a module's attribute


def _generator(what: str, preset: _P, table: dict[str, object], n: int, seed: int) -> tuple[_P, int, int]:
    """The generator a table describes, how many devices, which seed."""
    kind = table.pop("kind", "synthetic")
    defaults: dict[str, object] = {"devices": n, "seed": seed}
    defaults |= {field.name: getattr(preset, field.name) for field in fields(preset)}
    problems = [Problem(f"{what}.kind", repr(kind), "'synthetic'")] if kind != "synthetic" else []
    problems += [
        _complaint(what, name, value, defaults) for name, value in table.items() if _wrong(name, value, defaults)
    ]
    if problems:
        raise TraceError(report(problems))
    values = {name: _converted(value, defaults[name]) for name, value in (defaults | table).items()}
    count, own_seed = values.pop("devices"), values.pop("seed")
    try:
        return type(preset)(**values), count, own_seed
    except PolicyError as error:
        raise TraceError(f"{what}: {error}") from error


def _wrong(name: str, value: object, defaults: dict[str, object]) -> bool:
    if name not in defaults:
        return True
    if isinstance(defaults[name], tuple):
        return not (isinstance(value, list | tuple) and all(is_number(item) for item in value))
    if isinstance(defaults[name], int):
        return (
            not isinstance(value, int)
            or isinstance(value, bool)
            or (name == "devices" and not 1 <= value <= MOST_DEVICES)
        )
    return not is_number(value)


def _complaint(what: str, name: str, value: object, defaults: dict[str, object]) -> Problem:
    where = f"{what}.{name}"
    if name not in defaults:
        return Problem(where, "unknown key", "", suggest(name, defaults))
    if isinstance(defaults[name], tuple):
        return Problem(where, repr(value), "a list of numbers")
    least = f" >= 1 and <= {MOST_DEVICES}" if name == "devices" else ""
    return Problem(where, repr(value), f"a whole number{least}" if isinstance(defaults[name], int) else "a number")


def _converted(value: Any, default: object) -> Any:
    if isinstance(default, tuple):
        return tuple(as_float(item) for item in value)
    return value if isinstance(default, int) else as_float(value)
