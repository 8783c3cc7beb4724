"""Which slots cannot work together: found before a run, all at once, each with what to do."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from evsim.algorithms.asynchronous import Mixing
from evsim.algorithms.base import Reports
from evsim.algorithms.dp import DpMean
from evsim.algorithms.local_dp import LocalDpNoise
from evsim.algorithms.weighting import EqualWeights
from evsim.base.errors import PolicyError, Problem

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from evsim.algorithms.base import Method

_PLAIN = frozenset({"model", "buffers"})


def check_method(method: Method, cohort_goal: int) -> list[Problem]:
    """Everything that is wrong with a combination of slots.

    Args:
        method: the policies.
        cohort_goal: reports the aggregator asks for per server step; 0 if it has no such number.
    """
    return [*_payloads(method), *_merge(method, cohort_goal), *_shares(method), *_privacy(method, cohort_goal)]


def _payloads(method: Method) -> Iterator[Problem]:
    rule, broadcast, server = method.client_rule, method.broadcast, method.server_optimizer
    missing = rule.receives - broadcast.sends
    if missing:
        yield Problem(
            "broadcast",
            f"{_name(broadcast)} does not send {_list(missing)}",
            f"a broadcast that does: client rule {_name(rule)} needs it",
            _kinds("broadcast", missing),
        )
    unknown = broadcast.sends - _PLAIN - server.keeps
    if unknown:
        yield Problem(
            "server_optimizer",
            f"{_name(server)} keeps no {_list(unknown)}",
            f"a server optimizer that does: broadcast {_name(broadcast)} sends it",
            _kinds("server_optimizer", unknown),
        )
    wanted, sent = server.needs, rule.sends - {"buffers"}
    if wanted - sent:
        yield Problem(
            "client_rule",
            f"{_name(rule)} does not send {_list(wanted - sent)}",
            f"a client rule that does: server optimizer {_name(server)} needs it",
            _kinds("client_rule", wanted - sent),
        )
    elif sent - wanted:
        yield Problem(
            "server_optimizer",
            f"{_name(server)} does not use {_list(sent - wanted)}",
            f"a server optimizer that does: client rule {_name(rule)} sends it and its update means nothing without",
            _kinds("server_optimizer", sent - wanted),
        )


def _merge(method: Method, cohort_goal: int) -> Iterator[Problem]:
    merge, extra = method.merge, method.client_rule.sends - _PLAIN
    fits = {"mean": True, "whole": True, "coordinate": extra <= {"control"}, "model": not extra}[merge.style]
    if not fits:
        yield Problem(
            "merge",
            f"{_name(merge)} cannot merge {_list(extra)} beside the model",
            "one rule for all payloads of the update",
            "use merge kind = 'mean', 'krum' or 'multi_krum'",
        )
    if 0 < cohort_goal < merge.minimum_updates:
        yield Problem(
            "merge",
            f"{_name(merge)} needs {merge.minimum_updates} updates, the cohort goal is {cohort_goal}",
            f"a cohort goal (and minimum_reports) of at least {merge.minimum_updates}",
            "raise them, or lower attackers",
        )


def _shares(method: Method) -> Iterator[Problem]:
    """Mixing takes a share of the client's model, so a weight that counts samples would throw the server's far away."""
    if not isinstance(method.merge, Mixing):
        return
    large_and_fresh = Reports(np.array([0]), np.array([1000]), np.array([0]))
    weight = float(method.weighting.weights(large_and_fresh)[""][0])
    if weight > 1:
        yield Problem(
            "weighting",
            f"{_name(method.weighting)} gives a fresh report of 1000 samples the weight {weight:g}",
            "weights of at most 1, which merge kind = 'mixing' multiplies by alpha",
            "use weighting kind = 'uniform', or a staleness weighting with base = 'uniform'",
        )


def _privacy(method: Method, cohort_goal: int) -> Iterator[Problem]:
    extra = method.client_rule.sends - _PLAIN
    if extra and any(isinstance(transform, LocalDpNoise) for transform in method.upload):
        yield Problem("upload", f"local_dp_noise does not protect {_list(extra)}", "a client rule that sends the model")
    merge = method.merge
    if not isinstance(merge, DpMean):
        return
    if not isinstance(method.weighting, EqualWeights):
        yield Problem("weighting", _name(method.weighting), "'uniform': the noise is scaled for equal weights")
    try:
        merge.sum_multiplier(merge.divisor(cohort_goal))
    except PolicyError as error:
        yield Problem("merge", str(error), "")


def _name(policy: object) -> str:
    return type(policy).__name__


def _list(names: Iterable[str]) -> str:
    return " and ".join(f"'{name}'" for name in sorted(names))


def _kinds(slot: str, payloads: Iterable[str]) -> str:
    known = {"control": "scaffold", "nova": "fednova", "fair": "qfedavg"}
    kinds = sorted({known[payload] for payload in payloads if payload in known})
    return f"use {slot} kind = '{kinds[0]}'" if kinds else ""
