"""What must hold between the tables of a scenario."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from types import SimpleNamespace
from typing import Any

from evsim.base import registry
from evsim.base.errors import Problem, suggest
from evsim.base.policy import policies
from evsim.base.units import MS_PER_DAY, MS_PER_SECOND
from evsim.scenario.checking import FAILED
from evsim.scenario.dumping import kind_of

_NAME = re.compile(r"[^./\\\x00-\x1f][^/\\\x00-\x1f]{0,99}")
_MAX_SEED = 2**63

Values = Mapping[str, Any]  # by field of a Scenario; what could not be made is not in it


def problems(values: Values) -> list[Problem]:
    """Everything that does not fit together; `where` is a dotted key."""
    made = {name: value for name, value in values.items() if value is not FAILED}
    found = [problem for check in _CHECKS for problem in check(made)]
    if len(made) == len(values):  # a policy may look at everything
        whole = SimpleNamespace(**made)
        found += [each for policy in policies(list(made.values())) for each in policy.problems(whole)]
    return list(dict.fromkeys(found))


def _simple(values: Values) -> Iterator[Problem]:
    name, seed, start = values.get("name", "x"), values.get("seed", 0), values.get("start", 0)
    if not _NAME.fullmatch(name):
        yield Problem("name", repr(name), "1 to 100 characters without slashes, not beginning with a dot")
    if not 0 <= seed < _MAX_SEED:
        yield Problem("seed", str(seed), "an integer >= 0 and < 2^63")
    if not 0 <= start < MS_PER_DAY or start % MS_PER_SECOND:
        yield Problem("start", f"{start} ms", "a whole second of the day")


def _training(values: Values) -> Iterator[Problem]:
    if values.get("training") != "real":
        return
    for table, what in (("data", "a [data] table: what is learnt from"), ("model", "a [model] table")):
        if table in values and values[table] is None:
            yield Problem(table, "missing", what, 'or training = "none" for a dry run')


def _dry(values: Values) -> Iterator[Problem]:
    if values.get("training") != "none":
        return
    from evsim.algorithms.base import GroupedBroadcast

    cost, stop = values.get("cost"), values.get("stop")
    if cost is not None and cost.model_bytes is None:
        yield Problem(
            "cost.model_bytes", "missing", "the size of the model in bytes", "a dry run has no model to measure"
        )
    if stop is not None and stop.server_steps is None and stop.rounds is None and stop.virtual_time is None:
        expected = "server_steps, rounds or virtual_time"
        key = "target_accuracy" if stop.target is None else "target"
        yield Problem("stop", f"only {key}", expected, "a dry run learns nothing and would never end")
    if values.get("keep"):
        yield Problem("keep", "leaves of a model", "nothing here", "a dry run has no model whose leaves could stay")
    if isinstance(values.get("broadcast"), GroupedBroadcast):
        given = f"{type(values['broadcast']).__name__} sends parts of a model"
        yield Problem("broadcast", given, 'one that sends it whole, or training = "real"', "a dry run has no model")
    selection = values.get("selection")
    if selection is not None and selection.needs_training:
        given, hint = f"{type(selection).__name__} learns from losses", 'or set training = "real"'
        yield Problem("selection", given, "a selector that does not, such as uniform, in a dry run", hint)


def _objective(values: Values) -> Iterator[Problem]:
    """Metrics that the objective's decisions have, and a target that is one of them, the right way."""
    objective, stop = values.get("objective"), values.get("stop")
    if objective is None:
        return
    kind = kind_of("objective", type(objective))
    for metric in objective.metrics:
        if objective.form not in metric.forms:
            known = [each for each in registry.entries("metric") if _serves(each, objective.form)]
            yield Problem("objective.metrics", f"{metric.name} is no metric of {kind}", "", suggest(metric.name, known))
    names = list(objective.names)
    for name in sorted({each for each in names if names.count(each) > 1}):
        yield Problem("objective.metrics", f"{name} is told more than once", "each metric once")
    if stop is not None and stop.goal is not None:
        yield from _target(stop, objective, kind)


def _target(stop: Any, objective: Any, kind: str) -> Iterator[Problem]:
    goal, key = stop.goal, "stop.target_accuracy" if stop.target is None else "stop.target.metric"
    if goal.metric not in objective.names:
        hint = "name it in objective.metrics if it is one" if stop.target is not None else "say stop.target instead"
        given = f"objective {kind} does not tell {goal.metric}"
        yield Problem(key, given, "", f"{suggest(goal.metric, objective.names)}; {hint}")
        return
    told = {each.name: each.direction for each in objective.metrics}.get(goal.metric)
    if told is not None and told.larger_is_better != goal.rising:
        better, right = ("larger", "at_least") if told.larger_is_better else ("smaller", "at_most")
        yield Problem("stop.target", str(goal), f"{right}: of {goal.metric} {better} is better")


def _serves(kind: str, form: str) -> bool:
    return form in getattr(registry.load("metric", kind), "forms", ())


def _data(values: Values) -> Iterator[Problem]:
    population, data, cost = values.get("population"), values.get("data", FAILED), values.get("cost")
    if data is None and population is not None and population.clients is None:
        yield Problem("population.clients", "missing", "an integer", "without [data] nothing else says how many")
    if data not in (None, FAILED) and cost is not None and cost.samples_per_client is not None:
        hint = "[data] already says how many samples each client has; see cost.sample_scale"
        yield Problem("cost.samples_per_client", str(cost.samples_per_client), "nothing here", hint)


def _cohort(values: Values) -> Iterator[Problem]:
    population, aggregation = values.get("population"), values.get("aggregation")
    if population is None or population.clients is None or aggregation is None:
        return
    if population.clients < aggregation.minimum_clients:
        needed = f"at least {aggregation.minimum_clients}, the clients that [aggregation] needs before it starts"
        yield Problem("population.clients", str(population.clients), needed)


def _method(values: Values) -> Iterator[Problem]:
    if any(slot not in values for slot in (*_METHOD, "aggregation")):
        return
    from evsim.algorithms.base import Method
    from evsim.algorithms.checks import check_method

    method = Method(**{slot: values[slot] for slot in _METHOD})
    yield from check_method(method, values["aggregation"].reports_per_step)


_METHOD = ("broadcast", "client_rule", "upload", "weighting", "merge", "server_optimizer")
_CHECKS: tuple[Callable[[Values], Iterator[Problem]], ...] = (
    _simple,
    _training,
    _dry,
    _objective,
    _data,
    _cohort,
    _method,
)
