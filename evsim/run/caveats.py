"""What a finished run says against itself: caveats measured on its tables.

`measured` is a pure function of what a run folder holds, so that a run writes them into its manifest and older folders
can be asked as well. It knows nothing of the engine. Columns that an older folder lacks are inferred, or passed over.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, final

import numpy as np

from evsim.base.caveat import Caveat
from evsim.base.units import format_duration
from evsim.run.suspects import suspects

if TYPE_CHECKING:
    import pandas as pd

    from evsim.base.vocabulary import BoolArray, FloatArray, IntArray

    Tables = Mapping[str, pd.DataFrame]

#: The tables that `measured` looks at, and the columns of the one that may be long.
MEASURED_ON = ("tasks", "server_steps", "evaluations", "availability")
TASK_COLUMNS = ("kind", "client", "round", "dispatched_at", "ended_at", "known_at", "outcome")
NOTABLE = 0.1  # a tenth of the rounds, the time or the tasks is worth a word
FEW_EVALUATIONS = 10  # the headline averages five
_LITTLE_SPARE = 1.1  # over-commitment below which a round has next to nobody to lose
_FEW = 0.01  # of the tasks: each time those of the same clients
_FAR = 2.0  # charged and true cost apart by this factor


@final
@dataclass(frozen=True, eq=False)
class _Seen:
    """The tables of a run by name, its manifest, its scenario."""

    tables: Tables
    manifest: Mapping[str, Any]
    scenario: Mapping[str, Any]

    @property
    def end(self) -> int:
        return int(self.manifest["end"]["at"])

    @property
    def aggregation(self) -> Mapping[str, Any]:
        found: Mapping[str, Any] = self.scenario.get("aggregation", {})
        return found

    def rounds(self) -> bool:
        return self.aggregation.get("kind") == "synchronous"

    def buffered(self) -> bool:
        return self.aggregation.get("kind") == "buffered"

    def column(self, table: str, name: str) -> FloatArray:
        """A column as float64, null as NaN."""
        found: FloatArray = self.tables[table][name].to_numpy(np.float64, na_value=np.nan)
        return found

    def outcome(self, *names: str) -> Any:
        return self._among("outcome", names)

    def trains(self) -> Any:
        return self._among("kind", ("train",))

    def _among(self, column: str, names: tuple[str, ...]) -> Any:
        """Which tasks have one of these words in a column; of categories each is compared once."""
        found = self.tables["tasks"][column]
        if found.dtype != "category":
            return found.isin(names).to_numpy()
        wanted = np.append(np.isin(found.cat.categories.astype(str), names), False)
        return wanted[found.cat.codes.to_numpy()]


def measured(tables: Tables, manifest: Mapping[str, Any], scenario: Mapping[str, Any]) -> list[Caveat]:
    """Every caveat of a finished run that can be measured, one of a key, worst kinds first.

    Args:
        tables: tasks, server_steps, evaluations, availability; others are not looked at.
        manifest: as the run folder holds it; `end`, `training`, `cost` and, where there, `period_ms` are read.
        scenario: the tables of the resolved scenario, as ``scenario.toml`` holds them.
    """
    seen = _Seen(tables, manifest, scenario)
    found: list[Caveat] = []
    for check in _CHECKS:
        with suppress(KeyError):  # an older folder lacks the column that the check reads
            found += check(seen)
    return found


def lost_slots(tables: Tables, manifest: Mapping[str, Any], scenario: Mapping[str, Any]) -> tuple[float, int] | None:
    """Slots held by devices that were gone, time average, and how many there are; None unless they are limited.

    A slot is held from the loss to the instant at which the server knows of it.
    """
    seen = _Seen(tables, manifest, scenario)
    slots = seen.aggregation.get("concurrency")
    if not seen.buffered() or not slots or not seen.end:
        return None
    lost = seen.outcome("dropped") & seen.trains()
    ended, known = seen.column("tasks", "ended_at")[lost], seen.column("tasks", "known_at")[lost]
    held = np.minimum(np.where(np.isnan(known), seen.end, known), seen.end) - ended
    return float(np.nansum(np.maximum(held, 0))) / seen.end, int(slots)


# -- learning ----------------------------------------------------------------------------------------------------------


def _diverged(seen: _Seen) -> Iterator[Caveat]:
    """The first model that is not finite, or the first step without a finite update."""
    instants = []
    rows, broken = seen.tables["evaluations"], _not_finite(seen)
    wrong = rows[broken & (rows["metric"] == "loss").to_numpy()] if broken.any() else rows[:0]
    if len(wrong):
        first = wrong.iloc[0]
        instants.append(
            (int(first["at"]), f"{first['metric']} is {first['value']:g} at server step {first['version']}")
        )
    steps = seen.tables["server_steps"]
    invalid = steps[(steps["reason"] == "invalid").to_numpy()]
    if len(invalid):
        first = invalid.iloc[0]
        instants.append((int(first["closed_at"]), f"no finite update in round {first['round']}"))
    if instants:
        at, what = min(instants)
        yield Caveat(
            "diverged",
            "training diverged: what follows is not learning",
            f"{what}, after {format_duration(at)}",
            f"lower client_rule.learning_rate or server_optimizer.learning_rate{suspects(seen.scenario)}",
        )


def _undefined(seen: _Seen) -> Iterator[Caveat]:
    """Metrics without a value although the loss has one, such as an area under a curve where all labels are ones."""
    rows, not_finite = seen.tables["evaluations"], _not_finite(seen)
    if not not_finite.any():
        return
    broken = set(rows.loc[not_finite & (rows["metric"] == "loss").to_numpy(), "version"])
    wrong = rows[not_finite & ~rows["version"].isin(broken).to_numpy()]
    for name in sorted(set(wrong["metric"].astype(str))):
        count = int((wrong["metric"] == name).sum())
        of = int(((rows["metric"] == name) & (rows["split"] == "test")).sum())
        yield Caveat(
            "undefined_metric",
            f"{name} is not defined on the test set: there it is never at a target",
            f"in {count} of {of} evaluations",
            "a larger test set, or another metric of the objective",
        )


def _not_finite(seen: _Seen) -> BoolArray:
    """Which rows of the test set's evaluations hold no number."""
    rows = seen.tables["evaluations"]
    found: BoolArray = ~np.isfinite(seen.column("evaluations", "value"))
    if found.any():
        found &= (rows["split"] == "test").to_numpy()
    return found


def _few_evaluations(seen: _Seen) -> Iterator[Caveat]:
    rows = seen.tables["evaluations"]
    count = len(np.unique(rows.loc[(rows["trigger"] != "final").to_numpy(), "at"]))
    if _learns(seen) and count < FEW_EVALUATIONS:
        yield Caveat(
            "few_evaluations",
            "few evaluations: a time to a target is rounded up to their spacing, and the headline averages five",
            f"{count} in {format_duration(seen.end)}",
            "evaluate more often with evaluation.every",
        )


def _learns(seen: _Seen) -> bool:
    return str(seen.manifest.get("training", "none")) != "none"


# -- nothing happens ---------------------------------------------------------------------------------------------------


def _no_tasks(seen: _Seen) -> Iterator[Caveat]:
    if not len(seen.tables["tasks"]):
        online = seen.tables["availability"]["online"]
        yield Caveat(
            "no_tasks",
            "no client was given any work",
            f"at most {int(online.max()) if len(online) else 0} clients were online at a time",
            "compare aggregation.minimum_cohort with the clients online, and the trace's times with the run's",
        )


def _no_steps(seen: _Seen) -> Iterator[Caveat]:
    """Work was given, and no model came of it: every figure of learning is that of the initial model."""
    if len(seen.tables["tasks"]) and not seen.tables["server_steps"]["applied"].any():
        yield Caveat(
            "no_steps",
            "the run ended before any server step: its model is the initial one",
            f"{len(seen.tables['tasks']):,} tasks given",
            "a later end in [stop], or rounds and buffers that close sooner",
        )


def _nobody_online(seen: _Seen) -> Iterator[Caveat]:
    at, online = seen.column("availability", "at"), seen.column("availability", "online")
    if not len(at) or not seen.end:
        return
    length = np.diff(np.append(at, max(seen.end, at[-1])))
    longest, total = _stretch(length, online == 0), float(length[online == 0].sum())
    if total > NOTABLE * seen.end:
        yield Caveat(
            "nobody_online",
            "nobody is online for long stretches, in which nothing can happen",
            f"{total / seen.end:.0%} of the time, up to {format_duration(longest)} on end",
            "look at the trace with evsim describe: its first and last instant, its period, its time zone",
        )


def _stretch(length: FloatArray, empty: Any) -> float:
    """The longest sum of lengths in a row where `empty` holds."""
    sums = np.cumsum(np.where(empty, length, 0.0))
    before = np.maximum.accumulate(np.where(empty, 0.0, sums))  # the sum when the stretch began
    return float((sums - before).max(initial=0.0))


def _repeated_period(seen: _Seen) -> Iterator[Caveat]:
    period = seen.manifest.get("period_ms", seen.manifest.get("population", {}).get("period_ms"))
    if isinstance(period, int | float) and 0 < period < seen.end:
        yield Caveat(
            "repeated_period",
            "the run outlasts the trace, which then begins anew: the same devices do the same again",
            f"{seen.end / period:.1f} passes of {format_duration(period)}",
            "shorten stop.virtual_time, or use a longer trace",
        )


# -- slots and rounds --------------------------------------------------------------------------------------------------


def _lost_slots(seen: _Seen) -> Iterator[Caveat]:
    found = lost_slots(seen.tables, seen.manifest, seen.scenario)
    if found is not None and found[0] > NOTABLE * found[1]:
        yield Caveat(
            "slots_held_by_lost",
            "lost devices hold slots until the server knows of it, so fewer clients train than concurrency says",
            f"{found[0]:.1f} of {found[1]} slots on average",
            "set aggregation.task_timeout, or shorten it",
        )


def _timed_out(seen: _Seen) -> Iterator[Caveat]:
    """A buffer's server stops tasks for one reason only: they outlast `task_timeout`."""
    stopped, trains = seen.outcome("aborted") & seen.trains(), seen.trains()
    share = float(stopped.sum() / max(trains.sum(), 1))
    if seen.buffered() and share > _FEW:
        yield Caveat(
            "timed_out",
            "tasks outlast task_timeout and are stopped: the model learns from fast devices",
            f"{share:.0%} of tasks",
            "a longer aggregation.task_timeout, or less work for a task",
        )


def _no_choice(seen: _Seen) -> Iterator[Caveat]:
    share = _rounds_without_choice(seen) if seen.rounds() else _time_without_choice(seen) if seen.buffered() else None
    if share is not None and share > NOTABLE:
        yield Caveat(
            "no_choice",
            "the selector had no choice: every idle client was asked, so selectors cannot differ there",
            f"in {share:.0%} of {'rounds' if seen.rounds() else 'the time'}",
            "more population.clients, a smaller cohort_goal or concurrency, or less over_commitment",
        )


def _rounds_without_choice(seen: _Seen) -> float | None:
    """Share of rounds that invited everybody idle; told by `idle`, else by fewer invitations than wanted."""
    steps, wanted = seen.tables["server_steps"], _wanted(seen)
    if not len(steps):
        return None
    invited = seen.column("server_steps", "invited")
    if "idle" in steps:
        return float((invited >= seen.column("server_steps", "idle")).mean())
    return None if wanted is None else float((invited < wanted).mean())


def _wanted(seen: _Seen) -> int | None:
    goal = seen.aggregation.get("cohort_goal")
    return None if goal is None else math.ceil(round(goal * seen.aggregation.get("over_commitment", 1.0), 9))


def _time_without_choice(seen: _Seen) -> float | None:
    """Share of time with a slot free: it would be taken if anybody were idle."""
    slots, kind = seen.aggregation.get("concurrency"), seen.scenario.get("selection", {}).get("kind")
    if not slots or not seen.end or not seen.trains().any() or kind == "manager":  # it may leave slots free
        return None
    trains = seen.trains()
    begin, known = seen.column("tasks", "dispatched_at")[trains], seen.column("tasks", "known_at")[trains]
    end = np.minimum(np.where(np.isnan(known), seen.end, known), seen.end)
    at, inverse = np.unique(np.concatenate([begin, end]), return_inverse=True)
    taken = np.cumsum(np.bincount(inverse, np.repeat([1.0, -1.0], len(begin)), len(at)))
    length = np.diff(np.append(at, seen.end))
    return float(length[taken < slots].sum() + at[0]) / seen.end


def _slowest_client(seen: _Seen) -> Iterator[Caveat]:
    """Rounds without a deadline and without spare clients end with their last report."""
    spare, pacing = seen.aggregation.get("over_commitment", 1.0), "pacing" in seen.aggregation
    if not seen.rounds() or pacing or "reporting_deadline" in seen.aggregation or spare >= _LITTLE_SPARE:
        return
    share = _waited_for_last(seen)
    if share > NOTABLE:
        yield Caveat(
            "slowest_client",
            "a round waits for its slowest client, or until a lost one is known to be lost",
            f"{share:.0%} of the time of rounds comes after all reports but the last",
            "set aggregation.reporting_deadline, or over_commitment = 1.3",
        )


def _waited_for_last(seen: _Seen) -> float:
    """Of the applied rounds with two reports or more: share of their time after the last but one."""
    steps, used = seen.tables["server_steps"], seen.outcome("aggregated")
    arrived, number = seen.column("tasks", "ended_at")[used], seen.tables["tasks"]["round"].to_numpy()[used]
    order = np.lexsort((arrived, number))
    arrived, number = arrived[order], number[order]
    last = np.flatnonzero(np.append(number[1:] != number[:-1], True) & np.append(False, number[1:] == number[:-1]))
    applied = steps["applied"].to_numpy(np.bool_)
    rounds, closed, started = (steps[name].to_numpy()[applied] for name in ("round", "closed_at", "started_at"))
    _, ours, theirs = np.intersect1d(rounds, number[last], return_indices=True)
    before, closed, started = arrived[last - 1][theirs], closed[ours], started[ours]
    whole = float((closed - started).sum())
    return float((closed - before).sum()) / whole if whole else 0.0


def _short_cohorts(seen: _Seen) -> Iterator[Caveat]:
    goal, steps = seen.aggregation.get("cohort_goal"), seen.tables["server_steps"]
    applied = steps["applied"].to_numpy(np.bool_)
    if not seen.rounds() or goal is None or not applied.any():
        return
    invited = seen.column("server_steps", "invited")
    wanted = seen.column("server_steps", "goal") if "goal" in steps else invited  # reports that close the round
    short = applied & (invited < goal) & (wanted >= invited)
    share, least = float(short.sum() / applied.sum()), invited[applied].min()
    if share > NOTABLE:
        yield Caveat(
            "short_cohorts",
            "rounds invited fewer clients than cohort_goal, so they had nobody to lose and wanted every report",
            f"{share:.0%} of applied rounds, down to {int(least)} of {goal}",
            "raise aggregation.minimum_cohort, lower cohort_goal, or add population.clients",
        )


def _failed_rounds(seen: _Seen) -> Iterator[Caveat]:
    applied = seen.tables["server_steps"]["applied"].to_numpy(np.bool_)
    failed = int((~applied).sum())
    if failed > NOTABLE * max(len(applied), 1):
        yield Caveat(
            "failed_rounds",
            "rounds fail and their work is lost",
            f"{failed:,} of {len(applied):,}",
            "a later reporting_deadline, more over_commitment, or fewer minimum_reports",
        )


def _late(seen: _Seen) -> Iterator[Caveat]:
    """Reports that came too late, and clients of whom no other ever came."""
    tasks = seen.tables["tasks"]
    late, arrived = (
        seen.outcome("late", "stale"),
        seen.outcome("late", "stale", "aggregated", "surplus", "round_failed"),
    )
    share = float(late.sum() / max(arrived.sum(), 1))
    if share > NOTABLE:
        client = tasks["client"].to_numpy()
        never: IntArray = np.setdiff1d(client[late], client[seen.outcome("aggregated")])
        yield Caveat(
            "stragglers_lost",
            "reports of slow devices come too late: the model learns from fast ones",
            f"{share:.0%} of reports; {len(never):,} clients reported late only",
            'a later reporting_deadline, more max_staleness, or late_reports = "keep"',
        )


# -- cost --------------------------------------------------------------------------------------------------------------


def _cost(seen: _Seen) -> Iterator[Caveat]:
    """A small model that stands for a big one learns otherwise than the big one would."""
    cost = seen.manifest.get("cost", {})
    charged, true = cost.get("model_bytes"), cost.get("true_model_bytes")
    factors = []
    if _learns(seen) and charged and true and max(charged / true, true / charged) >= _FAR:
        factors.append(f"a model of {_times(charged / true)} its bytes")
    scale = cost.get("sample_scale", 1)
    if _learns(seen) and scale and max(scale, 1 / scale) >= _FAR:
        factors.append(f"{_times(scale)} the samples")
    if factors:
        yield Caveat(
            "charged_cost",
            "the clock charges another model or other data than those that learn",
            " and ".join(factors),
            "say so where the times are shown, or leave out cost.model_bytes and cost.sample_scale",
        )


def _times(factor: float) -> str:
    return f"{factor:,.0f} times" if factor >= 10 else f"{factor:.2g} times"  # noqa: PLR2004  no more digits than matter


_CHECKS: tuple[Callable[[_Seen], Iterator[Caveat]], ...] = (
    _diverged,
    _undefined,
    _no_tasks,
    _no_steps,
    _nobody_online,
    _lost_slots,
    _timed_out,
    _no_choice,
    _slowest_client,
    _short_cohorts,
    _failed_rounds,
    _late,
    _repeated_period,
    _few_evaluations,
    _cost,
)
