"""What can be plugged in: one slot per axis, each kind a lazy ``"module:Class"`` with a summary line.

Listing imports nothing; loading imports one module. Users add kinds by an entry point in the group ``evsim.<slot>``, by
`register`, or by writing ``kind = "module:Class"`` (or ``"file.py:Class"``) in a scenario.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from importlib.metadata import EntryPoints, entry_points
from inspect import Parameter, signature
from pathlib import Path
from types import ModuleType
from typing import Any

from evsim.base.errors import ScenarioError, suggest
from evsim.base.kinds import BUILT_IN, LIBRARIES
from evsim.base.user_code import own_frames

#: What the names of modules begin with that were loaded from a file beside a scenario.
FILE_MODULE = "evsim_plugin_"


@dataclass(frozen=True)
class Entry:
    """One kind of one slot."""

    slot: str
    kind: str
    target: str  # "module:Class"
    summary: str


#: Slots that any class or function serves which makes the thing: a torch module, a listener, a number.
MADE = frozenset({"model", "listener", "metric"})

#: Packages that a kind may name, and the extra that brings them.
_EXTRAS: dict[str, str] = {"torchmetrics": "metrics"}

_registered: dict[tuple[str, str], Entry] = {}
_loaded: dict[Any, str] = {}  # what is not evsim's own, by class, function or module: its slot


def plug_ins() -> dict[Any, str]:
    """The classes, functions and modules loaded so far that are not evsim's own, with their slots."""
    return dict(_loaded)


def slots() -> tuple[str, ...]:
    """The names of all slots."""
    return tuple(BUILT_IN)


def register(slot: str, kind: str, target: str, summary: str) -> None:
    """Add a kind to a slot; the target is ``"module:Class"`` and is imported only when used."""
    _registered[slot, kind] = Entry(slot, kind, target, summary)


def entries(slot: str) -> dict[str, Entry]:
    """Every kind of a slot, built in first, then installed plug-ins, then registered ones."""
    if slot not in BUILT_IN:
        raise ScenarioError(f"{slot!r} is no slot; {suggest(slot, BUILT_IN)}")
    found = built_in(slot)
    for point in _plug_ins(f"evsim.{slot}"):
        origin = point.dist.name if point.dist else "plug-in"
        found[point.name] = Entry(slot, point.name, point.value, f"from {origin}")
    found.update({entry.kind: entry for (of, _), entry in _registered.items() if of == slot})
    return found


def built_in(slot: str) -> dict[str, Entry]:
    """The kinds of a slot that evsim itself brings."""
    return {kind: Entry(slot, kind, target, summary) for kind, (target, summary) in BUILT_IN[slot].items()}


@lru_cache
def _plug_ins(group: str) -> EntryPoints:
    return entry_points(group=group)  # reads the metadata of every installed package: 5 ms


def library_of(slot: str, kind: str) -> str:
    """The function behind a kind of a library, such as "torchvision:resnet18"; "" if it is no such kind."""
    library, _, name = kind.partition(":")
    return LIBRARIES.get(slot, {}).get(library, "") if name else ""


def load(slot: str, kind: str, folder: Path | None = None) -> Any:
    """The class behind a kind; `folder` is where ``"file.py:Class"`` is looked for.

    Raises:
        ScenarioError: if the kind is unknown or cannot be imported.
    """
    known = entries(slot)
    if kind not in known and library_of(slot, kind):
        return _resolve(library_of(slot, kind), None)(kind.partition(":")[2])
    if kind not in known and ":" not in kind and not kind.endswith(".py"):
        raise ScenarioError(f"unknown kind {kind!r}; {suggest(kind, known)}")
    found = _resolve(known[kind].target if kind in known else kind, folder)
    home = str(getattr(found, "__module__", None) or getattr(found, "__name__", ""))
    if not home.startswith("evsim.") and (callable(found) or isinstance(found, ModuleType)):
        _loaded[found] = slot
    return found


def parameters_of(make: Callable[..., Any]) -> tuple[Parameter, ...]:
    """The parameters of a class or function; of one that does not tell, any by name."""
    try:
        return tuple(signature(make).parameters.values())
    except (ValueError, TypeError):  # written in C
        return (Parameter("options", Parameter.VAR_KEYWORD),)


def _resolve(target: str, folder: Path | None) -> Any:
    where, _, name = target.partition(":")
    try:
        module = _load_file(where, folder) if where.endswith(".py") else importlib.import_module(where)
        if not name:
            return module
        if not hasattr(module, name):
            own = [each for each, value in vars(module).items() if getattr(value, "__module__", "") == module.__name__]
            raise AttributeError(f"{where} has no attribute {name!r}; {suggest(name, own)}".rstrip("; "))  # noqa: TRY301
        return getattr(module, name)
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # importing runs a user's code, which may raise anything
        kind = "" if isinstance(error, ImportError | AttributeError) else f"{type(error).__name__}: "
        lines = "".join(f"\n  {line}" for line in own_frames(error))
        hint = _extra_hint(error) or _file_hint(where, name, folder)
        raise ScenarioError(f"cannot load {target!r}: {kind}{error}{hint}{lines}") from error


def _extra_hint(error: BaseException) -> str:
    """The line that installs a package which is not there, if it is one of the optional ones."""
    name = (error.name or "").partition(".")[0] if isinstance(error, ModuleNotFoundError) else ""
    absent = name in _EXTRAS and importlib.util.find_spec(name) is None
    return f"; install it with: pip install 'evsim[{_EXTRAS[name]}]'" if absent else ""


def _file_hint(where: str, name: str, folder: Path | None) -> str:
    """For a module that is not installed but lies beside the scenario."""
    file = f"{where.replace('.', '/')}.py"
    return f"; did you mean '{file}:{name}'?" if where and ((folder or Path()) / file).is_file() else ""


def _load_file(where: str, folder: Path | None) -> Any:
    path = ((folder or Path()) / where).resolve()
    name = f"{FILE_MODULE}{path.stem}_{zlib.crc32(bytes(path)):08x}"  # files of one name in two folders are two modules
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None or not path.is_file():
        raise ImportError(f"no such file: {path.name}; looked for {path}")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]  # or the next look-up would find it half loaded
        raise
    return module
