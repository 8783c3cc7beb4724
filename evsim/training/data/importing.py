"""From data as people have them to evsim's own store."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, get_args, get_type_hints

from evsim.base import registry
from evsim.base.errors import DataError, EvsimError, Problem, TraceError, report, suggest
from evsim.training.data.table import Table
from evsim.training.data.writing import Limits, write_store


def import_data(
    kind: str, source: str, out: Path, *, options: Mapping[str, Any] | None = None, limits: Limits | None = None
) -> None:
    """Read data in a known format and write a store.

    Args:
        kind: the format: a kind of the slot `data_format`.
        source: a file or folder, or what else the format reads from.
        out: the folder of the store.
        options: of the format.
        limits: which natural clients are kept.

    Raises:
        DataError: if there is nothing there, the format is another, or the data cannot be used.
    """
    options = dict(options or {})
    read = reader(kind)
    check_options(kind, read, options)
    about = {"source": {"format": kind, "name": Path(source).name, "options": {k: str(v) for k, v in options.items()}}}
    try:
        write_store(out, read(source, **options), about=about, limits=limits)
    except TraceError as error:  # of the unpickler
        raise DataError(str(error)) from error
    except EvsimError:
        raise
    except Exception as error:  # a broken file fails in any operation at all, and a torch data set is a user's code
        raise DataError(f"{source}: cannot be read as {kind}: {type(error).__name__}: {error}") from error


def reader(kind: str) -> Callable[..., Table]:
    """The function that reads a format.

    Raises:
        DataError: if there is no such format.
    """
    kinds = registry.entries("data_format")
    if kind not in kinds:
        raise DataError(f"{kind!r} is no format of data; {suggest(kind, kinds)}; see: evsim list data_format")
    read: Callable[..., Table] = registry.load("data_format", kind).read
    return read


def check_options(kind: str, read: Callable[..., Table], options: Mapping[str, Any]) -> None:
    """Compare options with the parameters of a reader.

    Raises:
        DataError: all problems at once.
    """
    known = {name: each for name, each in inspect.signature(read).parameters.items() if each.kind == each.KEYWORD_ONLY}
    hints = get_type_hints(read)
    problems = []
    for name, value in options.items():
        if name not in known:
            problems.append(Problem(f"-o {name}", "no option of this format", "", suggest(name, known)))
        elif not _fits(value, hints[name]):
            expected = getattr(hints[name], "__name__", str(hints[name]))
            problems.append(Problem(f"-o {name}", repr(value), expected))
    missing = [name for name, each in known.items() if each.default is each.empty and name not in options]
    problems += [Problem(f"-o {name}", "missing", f"{name}=...", f"format {kind} needs it") for name in missing]
    if problems:
        raise DataError(report(problems))


def _fits(value: object, hint: Any) -> bool:
    kinds = [each for each in (get_args(hint) or (hint,)) if each is not type(None)]
    if any(isinstance(each, str) for each in kinds):  # the values of a Literal
        return value in kinds
    return type(value) in kinds
