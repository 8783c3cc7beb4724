"""Plain tables in, frozen dataclasses out, and every problem on the way, not only the first."""

from __future__ import annotations

import inspect
import math
import re
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import MISSING, Field, is_dataclass
from pathlib import Path
from typing import Any, Final, final

from evsim.base import registry
from evsim.base.errors import EvsimError, Problem, ScenarioError, suggest
from evsim.base.user_code import own_frames, said
from evsim.scenario.contracts import lacks
from evsim.scenario.guesses import meant, share
from evsim.scenario.hints import (
    MismatchError,
    describe,
    fields_of,
    hints_of,
    is_policy,
    is_table,
    item_of,
    members,
    parse,
    plain_class,
    says_none,
    slot_of,
)

Tables = dict[str, Any]

_MOST = 10**15  # of integers: products with another stay integers of 64 bits, or are refused where they are made
#: Where a number is part of the arithmetic of learning: squares of what is larger are no float32.
_LEARNING = ("broadcast", "client_rule", "upload", "weighting", "merge", "server_optimizer", "model", "selection")

#: Stands for a value that could not be made; the problem is on the list.
FAILED: Final = object()

_JSON = (str, int, float, bool)
_NAMED = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
_NONE = "none"
_LONGEST = 80  # characters of a value in a message


@final
class Checker:
    """Checks tables against dataclasses and collects problems.

    Args:
        origin: says where a dotted key was written, such as a file name.
        folder: where files named by a kind (``"rule.py:MyRule"``) are looked for.
        top: keys of the top level, which a file may write into a table by mistake.
        dropped: what became of the options of a policy whose kind changed, by its dotted key, in words.
    """

    def __init__(
        self,
        origin: Callable[[str], str],
        folder: Path,
        top: Collection[str] = (),
        dropped: Mapping[str, str] | None = None,
    ) -> None:
        self.problems: list[Problem] = []
        self._origin, self._folder, self._top, self._dropped = origin, folder, top, dropped or {}

    def add(self, at: str, given: str, expected: str = "", hint: str = "", said_at: str | None = None) -> object:
        """Note a problem at a dotted key; who said another one may be to blame."""
        origin = self._origin(at if said_at is None else said_at)
        where = f"-o {at}" if origin.startswith("-o ") else ": ".join(filter(None, (origin, at)))
        inherited = self._inherited(at) if at and given != "missing" else ""
        self.problems.append(Problem(where, given, expected, "; ".join(filter(None, (hint, inherited)))))
        return FAILED

    def values(self, cls: type, table: Mapping[str, Any], at: str) -> Tables:
        """The values of a dataclass's fields that could be made, by field name."""
        known, hints = fields_of(cls), hints_of(cls)
        for key, given in table.items():
            if key not in known:
                hint = _above(key, given) if at and key in self._top else suggest(key, known)
                self.add(_join(at, key), f"unknown key, given {_show(given)}", "", hint)
        found = {}
        for key, field in known.items():
            made = self._field(key, field, hints[field.name], table, at)
            if made is not MISSING:
                found[field.name] = made
        return found

    def table(self, cls: type, given: object, at: str) -> Any:
        """A dataclass made of a table, or FAILED."""
        if not isinstance(given, Mapping):
            return self.add(at, _show(given), "a table")
        before = len(self.problems)
        values = self.values(cls, given, at)
        if len(self.problems) > before:
            return FAILED
        try:
            return cls(**values)
        except (ValueError, EvsimError) as error:  # PolicyError is both
            return self._refused(str(error), cls, given, at)
        except Exception as error:  # whatever a user's own check raises
            lines = "".join(f"; {line}" for line in own_frames(error))
            return self.add(at, f"{cls.__name__} cannot be made: {said(error)}{lines}")

    def policy(self, slot: str, given: object, at: str, base: type | None = None) -> Any:
        """A policy of a slot made of its kind, or of a table with a kind, or FAILED."""
        table = {"kind": given} if isinstance(given, str) else given
        if not isinstance(table, Mapping):
            return self.add(at, _show(given), "a kind or a table with a kind")
        kind = table.get("kind")
        if not isinstance(kind, str):
            shown = "missing" if kind is None else _show(kind)
            return self.add(_join(at, "kind"), shown, f"one of {', '.join(registry.entries(slot))}")
        try:
            cls = registry.load(slot, kind, self._folder)
        except ScenarioError as error:
            return self.add(_join(at, "kind"), str(error).rstrip("; "))
        options = {key: value for key, value in table.items() if key != "kind"}
        if isinstance(options.get("target"), str):
            options["target"] = self._found(options["target"])
        if slot in registry.MADE and callable(cls) and not _fits(cls, base):
            return self._factory(slot, kind, cls, options, at)
        unfit = list(_unfit(cls, base, kind))
        for problem in unfit:
            self.add(_join(at, "kind"), *problem)
        return FAILED if unfit else self.table(cls, options, at)

    # -- inside -----------------------------------------------------------------------------------------------------

    def _refused(self, message: str, cls: type, given: Mapping[str, Any], at: str) -> object:
        """A dataclass did not take its values: which key is to blame, and which others it speaks of come from where."""
        blamed = _blame(message, fields_of(cls), at)
        others = [_join(at, key) for key in given if key in re.findall(r"\w+", message) and _join(at, key) != blamed]
        inherited = [self._inherited(key) for key in others if self._origin(key) != self._origin(blamed)]
        return self.add(blamed, message, "", "; ".join(filter(None, (share(message), *inherited))))

    def _inherited(self, at: str) -> str:
        """Which file a key comes from, if that is not the one that is run."""
        origin = self._origin(at)
        main = self._origin("")
        if origin.startswith("-o ") or origin == main or not main:
            return ""
        return f"`{at.rsplit('.', 1)[-1]}` is inherited from {Path(origin).name}"

    def _factory(self, slot: str, kind: str, make: Callable[..., Any], options: Tables, at: str) -> Any:
        """Any ``module:factory`` that returns a torch module serves as a model, any plain class as a listener."""
        parameters = registry.parameters_of(make)
        names = [each.name for each in parameters if each.kind in _NAMED]
        shared = (set(fields_of(_maker(slot))) - {"target", "options"}) & set(options)
        own = {key: options.pop(key) for key in sorted(shared)}
        for key in [key for key in own if key in names]:
            given = f"a parameter of {kind}, and a key of every {slot}"
            self.add(_join(at, key), given, "a parameter with another name", "rename it in your code")
        for key in options:
            if key not in names and not any(each.kind is each.VAR_KEYWORD for each in parameters):
                self.add(_join(at, key), f"unknown key, given {_show(options[key])}", "", suggest(key, names))
        return self.table(_maker(slot), {"target": self._found(kind), "options": options, **own}, at)

    def _found(self, target: str) -> str:
        """Code named by a file, looked up beside the scenario."""
        is_file = target.partition(":")[0].endswith(".py")
        return str((self._folder / target).resolve()) if is_file else target

    def _field(self, key: str, field: Field[Any], hint: Any, table: Mapping[str, Any], at: str) -> Any:
        if key in table:
            if table[key] == _NONE and says_none(field, hint):
                return None
            return self._value(hint, table[key], _join(at, key), key)
        if field.default is MISSING and field.default_factory is MISSING:
            dropped = self._dropped.get(at, "")
            self.add(_join(at, key), "missing", _wanted(key, hint), dropped, _join(at, "kind") if dropped else None)
        return MISSING

    def _value(self, hint: Any, given: object, at: str, key: str) -> Any:
        for member in members(hint):
            if is_policy(member) and isinstance(given, Mapping | str):
                return self.policy(slot_of(key, member), given, at, plain_class(member))
            if is_table(member) and isinstance(given, Mapping):
                return self.table(plain_class(member) or object, given, at)
            item = item_of(member)
            if item is not None and isinstance(given, list):
                made = [self._value(item, each, f"{at}[{place}]", key) for place, each in enumerate(given)]
                return FAILED if any(each is FAILED for each in made) else tuple(made)
        return self._plain(hint, given, at) if self._writable(hint, given, at) else FAILED

    def _plain(self, hint: Any, given: object, at: str) -> Any:
        for member in members(hint):
            if not is_policy(item_of(member) or member) and not is_table(item_of(member) or member):
                try:
                    return parse(member, given)
                except MismatchError:
                    continue
        return self.add(at, _show(given), describe(hint), meant(hint, given))

    def _writable(self, hint: Any, given: object, at: str) -> bool:
        """Whether a value is plain and finite, all the way down; TOML also knows dates, nan and inf."""
        if isinstance(given, Mapping | list):
            fine = [self._writable(Any, each, below) for below, each in _below(given, at)]  # a list: look at all
            return all(fine)
        if not isinstance(given, _JSON):
            self.add(at, str(given), "text or a number" if hint is Any else describe(hint), "put it in quotes")
            return False
        if isinstance(given, float) and not math.isfinite(given):
            self.add(at, str(given), "a finite number")
            return False
        if isinstance(given, float) and abs(given) > _MOST and re.split(r"[.\[]", at)[0] in _LEARNING:
            self.add(at, str(given), f"a number of at most {float(_MOST):g}")
            return False
        if isinstance(given, int) and abs(given) > _MOST and not at.endswith("seed"):
            self.add(at, str(given), f"an integer of at most {_MOST:,}".replace(",", "_"))
            return False
        return True


def _maker(slot: str) -> type:
    """The policy that makes something of a slot from a class or function."""
    from evsim.scenario.listening import Listening
    from evsim.training.models.factory import Factory
    from evsim.training.objectives.metrics.library import LibraryMetric

    return {"model": Factory, "listener": Listening, "metric": LibraryMetric}[slot]


def _above(key: str, given: object) -> str:
    """What to do with a key of the top level that stands in a table: all that follows a header is of its table."""
    place = f"as a table [{key}] of its own" if isinstance(given, Mapping) else "above the first [table]"
    return f"it belongs to the top level: write it {place}"


def _join(at: str, key: str) -> str:
    return f"{at}.{key}" if at else key


def _below(given: Mapping[str, Any] | list[Any], at: str) -> list[tuple[str, Any]]:
    """The entries of a table or list with their dotted keys."""
    if isinstance(given, Mapping):
        return [(_join(at, str(key)), each) for key, each in given.items()]
    return [(f"{at}[{place}]", each) for place, each in enumerate(given)]


def slots_of(key: str, hint: Any) -> list[str]:
    """The slots whose policies a field takes, alone or in a list."""
    found = [item_of(member) or member for member in members(hint)]
    return [slot_of(key, each) for each in found if is_policy(each)]


def _wanted(key: str, hint: Any) -> str:
    """What a missing field takes; for a policy, the kinds there are."""
    slots = slots_of(key, hint)
    return f"a table with a kind: {', '.join(registry.entries(slots[0]))}" if slots else describe(hint)


def _show(given: object) -> str:
    text = repr(given)
    return text if len(text) <= _LONGEST else text[: _LONGEST - 3] + "..."


def _blame(message: str, known: Mapping[str, object], at: str) -> str:
    """The dotted key a message talks about: the field it begins with, else the whole table."""
    first = message.split(" ", 1)[0]
    return _join(at, first) if first in known else at


def _unfit(cls: Any, base: type | None, kind: str) -> Iterator[tuple[str, str]]:
    """Why a class cannot fill a slot: what was given, what was expected."""
    if base is not None and inspect.isclass(cls) and issubclass(cls, base) and not _decorated(cls, base):
        yield repr(kind), f"a frozen dataclass: write @dataclass(frozen=True, kw_only=True) above class {cls.__name__}"
    elif not _fits(cls, base):
        yield repr(kind), f"a frozen dataclass derived from {base and base.__name__}"
    elif base is not None and not cls.__module__.startswith("evsim."):
        yield from ((each, "") for each in lacks(cls, base))


def _fits(cls: object, base: type | None) -> bool:
    return inspect.isclass(cls) and _decorated(cls, base) and (base is None or issubclass(cls, base))


def _decorated(cls: type, base: type | None) -> bool:
    """Whether a class is a dataclass by itself or by a policy it derives from, not only by the base of its slot."""
    own = (each for each in cls.__mro__ if base is None or (each is not base and issubclass(each, base)))
    return is_dataclass(cls) and any("__dataclass_fields__" in vars(each) for each in own)
