"""A client manager of your own, as a plain class: FedScale's `register_client`, `register_feedback`, `select_clients`.

The class decides whom to ask and may remember what it likes. It is told of every check-in, report and loss at its own
instant, one client per call; who is online and who has a task is kept, and checked, by evsim's own manager.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar, final

import numpy as np
from typing_extensions import override

from evsim.base import registry
from evsim.base.draws import seeded_generators
from evsim.base.errors import EvsimError, PolicyError, Problem, report, require
from evsim.base.rng import key as key_of
from evsim.base.user_code import user_code
from evsim.selection.base import ClientView, Outcomes, Selector

if TYPE_CHECKING:
    from evsim.base.vocabulary import IntArray

_MS = 1000
#: What each method may ask for, by name. Times are virtual, in seconds.
OFFERED = {
    "register_client": ("client_id", "size", "duration", "cur_time", "host_id"),
    "register_feedback": ("client_id", "reward", "auxi", "time_stamp", "duration", "success", "cur_time"),
    "deregister_client": ("client_id", "cur_time"),
    "select_clients": ("num_of_clients", "cur_time", "feasible_clients"),
}
_OPTIONAL = ("deregister_client",)
_PLAIN = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)


@final
@dataclass
class Driven:
    """A manager at work.

    Attributes:
        manager: the user's object.
        calls: what each of its methods asks for, by name; a method that it does not have is missing.
        working: clients that were chosen and have no feedback yet.
        rewards: of the newest round that brought any: its number, their sum and how many there are.
    """

    manager: Any
    calls: dict[str, tuple[str, ...]]
    working: set[int] = field(default_factory=set)
    rewards: tuple[int, float, int] = (-1, 0.0, 0)


@final
@dataclass(frozen=True, kw_only=True)
class PlainManager(Selector[Driven]):
    """A plain class drives the selection: it is told one thing at a time, and chooses.

    Its methods are `register_client`, `register_feedback`, `select_clients` and, if it has one, `deregister_client`;
    they get what they ask for by the names of their parameters. It may choose fewer clients than are wanted, but
    somebody if anybody is idle.

    Attributes:
        target: the class, as "file.py:Class" or "module:Class".
        options: arguments of its constructor.
    """

    hears: ClassVar[bool] = True
    prompt: ClassVar[bool] = True
    may_choose_fewer: ClassVar[bool] = True

    target: str
    options: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        require(":" in self.target, "target must be 'file.py:Class' or 'module:Class'", target=self.target)
        problems = list(self._lacks())
        if problems:
            raise PolicyError("target " + "; ".join(problems))

    @property
    @override
    def needs_utility(self) -> bool:  # type: ignore[override]  # known once the class is
        """Whether the class asks for rewards; then what is trained is trained before the next selection."""
        asked = self._calls.get("register_feedback", ())
        return "reward" in asked or "auxi" in asked

    @override
    def init(self, n_clients: int) -> Driven:
        with self._at("it is made"), seeded_generators(key_of(n_clients, "manager")):
            return Driven(self._class(**self.options), self._calls)

    @override
    def checked_in(self, state: Driven, view: ClientView, clients: IntArray, at: IntArray) -> Driven:
        for client, instant in zip(clients.tolist(), at.tolist(), strict=True):
            declared = float(view.declared_ms[client]) / _MS
            facts = {"size": int(view.samples[client]), "duration": declared, "cur_time": instant / _MS, "host_id": 0}
            self._call(state, "register_client", {"client_id": client, **facts})
        return state

    @override
    def checked_out(self, state: Driven, view: ClientView, clients: IntArray, at: IntArray) -> Driven:
        if "deregister_client" in state.calls:
            for client, instant in zip(clients.tolist(), at.tolist(), strict=True):
                self._call(state, "deregister_client", {"client_id": client, "cur_time": instant / _MS})
        return state

    @override
    def feedback(self, state: Driven, reports: Outcomes) -> Driven:
        rows = zip(
            reports.clients.tolist(),
            reports.at.tolist(),
            reports.round.tolist(),
            reports.succeeded.tolist(),
            reports.duration_ms.tolist(),
            reports.samples.tolist(),
            reports.utility.tolist(),
            strict=True,
        )
        for client, at, number, success, duration, samples, utility in rows:
            state.working.discard(client)
            facts = {"client_id": client, "time_stamp": number + 1, "duration": duration / _MS, "cur_time": at / _MS}
            reward = self._reward(state, number, samples * utility) if success else _mean_reward(state)
            self._call(state, "register_feedback", {**facts, "reward": reward, "auxi": utility, "success": success})
        return state

    @override
    def select(self, state: Driven, view: ClientView, n: int, key: int) -> tuple[IntArray, Driven]:
        n = min(n, view.n_idle)
        if n == 0:
            return np.empty(0, np.int64), state
        facts: dict[str, Any] = {"num_of_clients": n, "cur_time": view.now / _MS}
        if "feasible_clients" in state.calls["select_clients"]:
            facts["feasible_clients"] = view.idle.tolist()
        with seeded_generators(key):
            given = self._call(state, "select_clients", facts)
        clients = self._checked(given, state, view, n)
        state.working.update(clients)
        return np.array(clients, np.int64), state

    # -- inside -----------------------------------------------------------------------------------------------------

    @cached_property
    def _class(self) -> Any:
        return registry.load("selection", self.target)

    @cached_property
    def _calls(self) -> dict[str, tuple[str, ...]]:
        methods = {name: getattr(self._class, name, None) for name in OFFERED}
        return {name: _asked(method, OFFERED[name]) for name, method in methods.items() if callable(method)}

    def _lacks(self) -> Iterator[str]:
        """What keeps the class from being driven."""
        try:
            found = self._class
        except EvsimError as error:
            yield f"{self.target!r}: {error}"
            return
        if not inspect.isclass(found):
            yield f"{self.target!r} is no class"
            return
        missing = [name for name in OFFERED if name not in _OPTIONAL and not callable(getattr(found, name, None))]
        if missing:
            yield f"{found.__name__} has no {' and no '.join(missing)}, which a client manager must have"
        for name, names in OFFERED.items():
            method = getattr(found, name, None)
            unknown = _unknown(method, names) if callable(method) else []
            if unknown:
                yield f"{found.__name__}.{name} asks for {', '.join(unknown)}; it may ask for {', '.join(names)}"
        try:
            inspect.signature(found).bind(**self.options)
        except TypeError as error:
            yield f"{found.__name__} cannot be made with these options: {error}"

    def _at(self, step: str, **details: object) -> Any:
        return user_code(
            PolicyError, slot="selection", cls=self.target.rpartition(":")[2], **{"while": step}, **details
        )

    def _call(self, state: Driven, method: str, facts: Mapping[str, Any]) -> Any:
        about = {"client": facts["client_id"]} if "client_id" in facts else {}
        with self._at(method, **about, at=f"{facts['cur_time']:g} s"):
            return getattr(state.manager, method)(**{name: facts[name] for name in state.calls[method]})

    def _reward(self, state: Driven, number: int, reward: float) -> float:
        newest, total, count = state.rewards if state.rewards[0] >= number else (number, 0.0, 0)
        if np.isfinite(reward):
            state.rewards = newest, total + reward, count + 1
        return reward

    def _checked(self, given: Any, state: Driven, view: ClientView, n: int) -> list[int]:
        """The clients that the manager chose, as a list of ids."""
        fault = ""
        found: list[int] = []
        if isinstance(given, list | tuple | range) or (isinstance(given, np.ndarray) and given.ndim == 1):
            wrong = [each for each in given if isinstance(each, bool) or not isinstance(each, int | np.integer)]
            found = [] if wrong else [int(each) for each in given]
            fault = f"returned {type(wrong[0]).__name__} {wrong[0]!r} in a {type(given).__name__}" if wrong else ""
        else:
            fault = f"returned {type(given).__name__}"
        fault = fault or _fault(found, state, view, n)
        if fault:
            where = f"{self.target.rpartition(':')[2]}.select_clients"
            expected = f"a list of 1 to {n} different ids of clients that are online and have no task"
            hint = f"at {view.now / _MS:g} s; feasible_clients, if it asks for them, are those"
            raise PolicyError(report([Problem(where, fault, expected, hint)]))
        return found


def _fault(clients: list[int], state: Driven, view: ClientView, n: int) -> str:
    if len(clients) > n:
        return f"returned {len(clients)} clients, {n} were wanted"
    if not clients:
        return "returned nobody"
    seen: set[int] = set()
    for client in clients:
        if not 0 <= client < view.n_clients:
            return f"returned client {client}, which does not exist"
        if client in seen:
            return f"returned client {client} twice"
        if not view.is_idle_one(client):
            why = "has a task already" if client in state.working else "is not online"
            return f"returned client {client}, which {why}"
        seen.add(client)
    return ""


def _mean_reward(state: Driven) -> float:
    """What FedScale credits a client whose report was not used with: the mean of the round."""
    _, total, count = state.rewards
    return total / count if count else 0.0


def _asked(method: Callable[..., Any], offered: tuple[str, ...]) -> tuple[str, ...]:
    """Which of the offered facts a method takes."""
    parameters = inspect.signature(method).parameters.values()
    if any(each.kind is each.VAR_KEYWORD for each in parameters):
        return offered
    names = {each.name for each in parameters if each.kind in _PLAIN}
    return tuple(name for name in offered if name in names)


def _unknown(method: Callable[..., Any], offered: tuple[str, ...]) -> list[str]:
    """Parameters without a default that nobody can fill; the first is the object itself."""
    parameters = list(inspect.signature(method).parameters.values())[1:]
    return [
        each.name
        for each in parameters
        if each.default is each.empty
        and each.kind not in (each.VAR_KEYWORD, each.VAR_POSITIONAL)
        and (each.name not in offered or each.kind not in _PLAIN)
    ]
