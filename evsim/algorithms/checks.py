"""Which slots cannot work together, whatever fills them: what is sent, kept and merged must meet.

Found before a run, all at once, each with what to do. What one policy needs of others it says itself, in
`Policy.problems`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from evsim.algorithms.base import GroupedBroadcast
from evsim.algorithms.company import name_of
from evsim.base.errors import Problem

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from evsim.algorithms.base import Method

_PLAIN = frozenset({"model", "buffers"})


def check_method(method: Method, cohort_goal: int) -> list[Problem]:
    """Everything that is wrong between the slots themselves.

    Args:
        method: the policies.
        cohort_goal: reports the aggregator asks for per server step; 0 if it has no such number.
    """
    return [*_payloads(method), *_merge(method, cohort_goal), *_work(method)]


def _work(method: Method) -> Iterator[Problem]:
    from evsim.algorithms.base import WorkBySteps

    rule = method.client_rule
    if rule.schedule.is_drawn and not isinstance(rule, WorkBySteps):
        expected = "a rule that is a WorkBySteps, too: work_of says what so many steps cost"
        yield Problem("client_rule", f"{name_of(rule)} draws how many steps each task takes", expected)


def _payloads(method: Method) -> Iterator[Problem]:
    rule, broadcast, server = method.client_rule, method.broadcast, method.server_optimizer
    missing = rule.receives - broadcast.sends
    if missing:
        yield Problem(
            "broadcast",
            f"{name_of(broadcast)} does not send {_list(missing)}",
            f"a broadcast that does: client rule {name_of(rule)} needs it",
            _kinds("broadcast", missing),
        )
    unknown = broadcast.sends - _PLAIN - server.keeps
    if unknown:
        yield Problem(
            "server_optimizer",
            f"{name_of(server)} keeps no {_list(unknown)}",
            f"a server optimizer that does: broadcast {name_of(broadcast)} sends it",
            _kinds("server_optimizer", unknown),
        )
    wanted, sent = server.needs, rule.sends - {"buffers"}
    if wanted - sent:
        yield Problem(
            "client_rule",
            f"{name_of(rule)} does not send {_list(wanted - sent)}",
            f"a client rule that does: server optimizer {name_of(server)} needs it",
            _kinds("client_rule", wanted - sent),
        )
    elif sent - wanted:
        yield Problem(
            "server_optimizer",
            f"{name_of(server)} does not use {_list(sent - wanted)}",
            f"a server optimizer that does: client rule {name_of(rule)} sends it and its update means nothing without",
            _kinds("server_optimizer", sent - wanted),
        )


def _merge(method: Method, cohort_goal: int) -> Iterator[Problem]:
    merge, extra = method.merge, method.client_rule.sends - _PLAIN
    fits = {"mean": True, "whole": True, "coordinate": extra <= {"control"}, "model": not extra}[merge.style]
    if not fits:
        yield Problem(
            "merge",
            f"{name_of(merge)} cannot merge {_list(extra)} beside the model",
            "one rule for all payloads of the update",
            "use merge kind = 'mean', 'krum' or 'multi_krum'",
        )
    if isinstance(method.broadcast, GroupedBroadcast) and not merge.merges_parts:
        yield Problem(
            "merge",
            f"{name_of(merge)} merges whole models, and broadcast {name_of(method.broadcast)} sends parts",
            "a merge that takes each number over the clients that hold it",
            "use merge kind = 'mean'",
        )
    if 0 < cohort_goal < merge.minimum_updates:
        yield Problem(
            "merge",
            f"{name_of(merge)} needs {merge.minimum_updates} updates, the cohort goal is {cohort_goal}",
            f"a cohort goal (and minimum_reports) of at least {merge.minimum_updates}",
            "raise them, or lower attackers",
        )


def _list(names: Iterable[str]) -> str:
    return " and ".join(f"'{name}'" for name in sorted(names))


def _kinds(slot: str, payloads: Iterable[str]) -> str:
    known = {"control": "scaffold", "nova": "fednova", "fair": "qfedavg"}
    kinds = sorted({known[payload] for payload in payloads if payload in known})
    return f"use {slot} kind = '{kinds[0]}'" if kinds else ""
