"""Which runs belong together: the arms of a study, or of run folders grouped by what their scenarios say."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, final

from evsim.base.documents import load_json
from evsim.base.errors import PolicyError, Problem, RunFolderError, report, require, suggest
from evsim.base.metrics import Target
from evsim.results.comparable import flat, problems, seed_of
from evsim.results.curves import Crossing
from evsim.results.metrics import RUNNING_MEAN, headline
from evsim.results.run import Run, load_run
from evsim.results.standing import STUDY_FILE, Standing, State, counted, standings

_NO_ARM = frozenset({"seed", "name", "executor", "stop"})  # keys that make no arm of their own


@final
@dataclass(frozen=True, kw_only=True)
class Arms:
    """Runs to compare, by arm; the first arm is the baseline unless another is named.

    Attributes:
        name: what is compared.
        runs: of each arm, in order of their seeds.
        goal: the metric asked for, which way, and how much of it.
        baseline: the arm that speed-ups refer to.
        running_mean: how many evaluations the crossing averages.
        overrides: what makes each arm, as its study says; empty for run folders.
        executors: what trained which arms, as their study says.
        missing: runs of the study that are not finished.
    """

    name: str
    runs: Mapping[str, Sequence[Run]]
    goal: Target
    baseline: str
    running_mean: int = RUNNING_MEAN
    overrides: Mapping[str, Sequence[str]] = field(default_factory=dict)
    executors: Sequence[Mapping[str, Any]] = ()
    missing: Sequence[Standing] = ()

    def _repr_html_(self) -> str:
        """What a notebook shows: the comparison, its caveats, the curves."""
        from evsim.results.displays import arms_html

        return arms_html(self)

    @property
    def target(self) -> float:
        """The value asked for."""
        return self.goal.value

    @property
    def metric(self) -> str:
        """The metric asked for."""
        return self.goal.metric

    @cached_property
    def crossings(self) -> dict[str, dict[int, Crossing | None]]:
        """When each run reached the target, by arm and seed; None: censored."""
        return {
            arm: {seed_of(run): headline(run, self.goal, running_mean=self.running_mean) for run in runs}
            for arm, runs in self.runs.items()
        }

    def times(self) -> dict[str, dict[int, float | None]]:
        """Time to the target in ms by arm and seed; None: censored."""
        return {
            arm: {seed: None if found is None else float(found.at) for seed, found in crossings.items()}
            for arm, crossings in self.crossings.items()
        }

    def only(self, names: Sequence[str]) -> Arms:
        """Some arms, in this order; the baseline stays if it is among them, else the first becomes it.

        Raises:
            RunFolderError: if there is no arm of a name.
        """
        lost = [name for name in names if name not in self.runs]
        if lost:
            raise RunFolderError(report(Problem("arms", repr(each), "", suggest(each, self.runs)) for each in lost))
        runs = {name: self.runs[name] for name in names}
        return replace(self, runs=runs, baseline=self.baseline if self.baseline in runs else names[0])

    def horizon_ms(self) -> int:
        """The common horizon: the earliest end of a run that never reached the target, else the longest time."""
        times = self.times()
        pairs = [(run, times[arm][seed_of(run)]) for arm, runs in self.runs.items() for run in runs]
        censored = [run.end_ms for run, time in pairs if time is None]
        return min(censored) if censored else math.ceil(max(time for _, time in pairs if time is not None))


@final
@dataclass(frozen=True, kw_only=True)
class _Found:
    """Runs by arm, and what their folder says of them."""

    name: str
    runs: Mapping[str, Sequence[Run]]
    goal: Target | None
    overrides: Mapping[str, Sequence[str]] = field(default_factory=dict)
    executors: Sequence[Mapping[str, Any]] = ()
    missing: Sequence[Standing] = ()


def load_arms(
    paths: Sequence[str | Path],
    *,
    target: float | Target | None = None,
    baseline: str | None = None,
    running_mean: int = RUNNING_MEAN,
    metric: str | None = None,
) -> Arms:
    """The arms of a study's folder, or of run folders grouped by what their scenarios say.

    Args:
        paths: one study folder, or run folders.
        target: a number goes in the metric's own direction; default: the study's, or the one that all runs name.
        baseline: an arm; default: the first.
        running_mean: how many evaluations the crossing averages.
        metric: of the test split, unless `target` says it; default: the study's, else the runs' headline.

    Raises:
        RunFolderError: if the runs cannot be compared, with every reason.
        PolicyError: if the target is impossible.
    """
    require(running_mean >= 1, "running_mean must be >= 1", running_mean=running_mean)
    found = _study(Path(paths[0])) if _is_study(paths) else _grouped([load_run(path) for path in paths])
    reasons = problems(found.runs, running_mean)
    goal = target if isinstance(target, Target) else _goal(found, metric, target)
    if goal is None:
        given = f"the runs name none for {metric}" if metric else "the runs name none, or several"
        reasons.append(Problem("target", given, "one value to reach", "give one with --target"))
    if baseline is not None and baseline not in found.runs:
        reasons.append(Problem("baseline", repr(baseline), "an arm", suggest(baseline, found.runs)))
    if reasons or goal is None:
        raise RunFolderError(report(reasons))
    return Arms(
        name=found.name,
        runs=found.runs,
        goal=goal,
        baseline=baseline if baseline is not None else next(iter(found.runs)),
        running_mean=running_mean,
        overrides=found.overrides,
        executors=found.executors,
        missing=found.missing,
    )


def _goal(found: _Found, metric: str | None, target: float | None) -> Target | None:
    """What is asked for: a number given goes before the study's target, which serves its own metric only."""
    known = found.goal
    name = metric if metric is not None else _headline(found.runs) if known is None else known.metric
    if target is not None:
        return Target.of(name, target)
    return known if known is not None and known.metric == name else None


def _headline(runs: Mapping[str, Sequence[Run]]) -> str:
    """The metric that the first run tells first."""
    return next((each for group in runs.values() for run in group if (each := run.headline)), "accuracy")


def _is_study(paths: Sequence[str | Path]) -> bool:
    return len(paths) == 1 and (Path(paths[0]) / STUDY_FILE).is_file()


def read_study(folder: Path) -> Mapping[str, Any]:
    """What the file of a study says.

    Raises:
        RunFolderError: if it is none, or damaged.
    """
    path = folder / STUDY_FILE
    told = load_json(path, what="a study's file", raising=RunFolderError)
    try:
        whole = isinstance(told["name"], str) and all(type(seed) is int for seed in told["seeds"])
        names = [each["folder"] for each in told["arms"].values()]
        inside = all(isinstance(name, str) and Path(name).name == name not in {"", ".."} for name in names)
        executors = all(isinstance(each["executor"], dict) for each in told.get("executors", ()))
        _told_goal(told)
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise RunFolderError(report([Problem(str(path), f"damaged ({error})", "a study's file")])) from error
    if not (whole and inside and names and executors):
        raise RunFolderError(report([Problem(str(path), "damaged", "names, seeds and folders of a study")]))
    return told


def _study(folder: Path) -> _Found:
    """The finished runs of a study, and which are missing."""
    told = read_study(folder)
    found = standings(folder, told)
    runs: dict[str, list[Run]] = {}
    for each in found:
        if each.state is State.DONE:
            runs.setdefault(each.arm, []).append(load_run(each.folder))
    if not runs:
        raise RunFolderError(report([Problem(str(folder), counted(found), "a run that is done", "run evsim sweep")]))
    return _Found(
        name=told["name"],
        runs=runs,
        goal=_told_goal(told),
        overrides={arm: each.get("overrides", []) for arm, each in told["arms"].items() if arm in runs},
        executors=told.get("executors", []),
        missing=[each for each in found if each.state is not State.DONE],
    )


def _told_goal(told: Mapping[str, Any]) -> Target | None:
    """Older studies tell of accuracy only."""
    if told.get("target") is not None:
        return Target(**told["target"])
    accuracy = told.get("target_accuracy")
    return None if accuracy is None else Target.of("accuracy", accuracy)


def _grouped(runs: Sequence[Run]) -> _Found:
    """Runs of one scenario, seeds apart, are an arm; an arm is called by what is its own."""
    flats = {id(run): flat(run.scenario_tables, _NO_ARM) for run in runs}
    groups: dict[str, list[Run]] = {}
    for run in runs:
        groups.setdefault(json.dumps(flats[id(run)], sort_keys=True, default=str), []).append(run)
    told = [flats[id(group[0])] for group in groups.values()]
    keys = sorted({key for keys in told for key in keys if any(keys.get(key) != other.get(key) for other in told)})
    arms = {_label(keys_, keys, group[0]): group for keys_, group in zip(told, groups.values(), strict=True)}
    ordered = {arm: sorted(group, key=seed_of) for arm, group in arms.items()}
    return _Found(name=" against ".join(ordered), runs=ordered, goal=_common_goal(runs))


def _common_goal(runs: Sequence[Run]) -> Target | None:
    try:
        goals = {run.goal for run in runs}
    except (PolicyError, TypeError):  # a manifest that somebody wrote by hand
        return None
    return goals.pop() if len(goals) == 1 else None


def _label(told: Mapping[str, Any], keys: Sequence[str], run: Run) -> str:
    said = [f"{key}={told[key]}" for key in keys if key in told]
    return ", ".join(said) or run.name
