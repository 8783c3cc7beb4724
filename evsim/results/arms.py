"""Which runs belong together: the arms of a study, or of run folders grouped by what their scenarios say."""

from __future__ import annotations

import json
import math
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import numpy as np

from evsim.base.errors import Problem, RunFolderError, report, require, suggest
from evsim.base.units import format_duration
from evsim.results.metrics import RUNNING_MEAN, headline_ms
from evsim.results.run import Run, load_run

STUDY_FILE = "study.json"
_NO_ARM = {"seed", "name", "executor", "stop"}  # keys that make no arm of their own
_SAME = ("data.dataset", "data.test_fraction", "training")  # the question: other data are another question


@final
@dataclass(frozen=True, kw_only=True)
class Arms:
    """Runs to compare, by arm; the first arm is the baseline unless another is named.

    Attributes:
        name: what is compared.
        runs: of each arm, in order of their seeds.
        target: the accuracy asked for.
        baseline: the arm that speed-ups refer to.
        running_mean: how many evaluations the crossing averages.
        metric: of the test split; larger must be better.
    """

    name: str
    runs: Mapping[str, Sequence[Run]]
    target: float
    baseline: str
    running_mean: int = RUNNING_MEAN
    metric: str = "accuracy"

    def times(self) -> dict[str, dict[int, float | None]]:
        """Time to the target in ms by arm and seed; None: censored."""
        return {
            arm: {
                _seed(run): headline_ms(run, self.target, metric=self.metric, running_mean=self.running_mean)
                for run in runs
            }
            for arm, runs in self.runs.items()
        }

    def horizon_ms(self) -> int:
        """The common horizon: the earliest end of a run that never reached the target, else the longest time."""
        times = self.times()
        pairs = [(run, times[arm][_seed(run)]) for arm, runs in self.runs.items() for run in runs]
        censored = [run.end_ms for run, time in pairs if time is None]
        return min(censored) if censored else math.ceil(max(time for _, time in pairs if time is not None))


def load_arms(
    paths: Sequence[str | Path],
    *,
    target: float | None = None,
    baseline: str | None = None,
    running_mean: int = RUNNING_MEAN,
    metric: str = "accuracy",
) -> Arms:
    """The arms of a study's folder, or of run folders grouped by what their scenarios say.

    Args:
        paths: one study folder, or run folders.
        target: default: the study's, or the one that all runs name.
        baseline: an arm; default: the first.
        running_mean: how many evaluations the crossing averages.
        metric: of the test split.

    Raises:
        RunFolderError: if the runs cannot be compared, with every reason.
    """
    name, runs, known = _study(Path(paths[0])) if _is_study(paths) else _grouped([load_run(path) for path in paths])
    problems = [*_two_of_a_seed(runs), *_other_questions(runs), *_other_grids(runs)]
    goal = known if target is None else target
    if goal is None:
        problems.append(Problem("target", "the runs name none, or several", "one accuracy", "give one with --target"))
    if baseline is not None and baseline not in runs:
        problems.append(Problem("baseline", repr(baseline), "an arm", suggest(baseline, runs)))
    problems += _stopped_at_target(runs, running_mean)
    if problems or goal is None:
        raise RunFolderError(report(problems))
    require(running_mean >= 1, "running_mean must be >= 1", running_mean=running_mean)
    require(0 < goal <= 1 or metric != "accuracy", "target must lie in (0, 1]", target=goal)
    first = baseline if baseline is not None else next(iter(runs))
    return Arms(name=name, runs=runs, target=goal, baseline=first, running_mean=running_mean, metric=metric)


def _seed(run: Run) -> int:
    return -1 if run.seed is None else run.seed


def _is_study(paths: Sequence[str | Path]) -> bool:
    return len(paths) == 1 and (Path(paths[0]) / STUDY_FILE).is_file()


def _study(folder: Path) -> tuple[str, dict[str, list[Run]], float | None]:
    try:
        told = json.loads((folder / STUDY_FILE).read_text(encoding="utf-8"))
        arms, seeds, name, target = told["arms"], told["seeds"], told["name"], told["target_accuracy"]
    except (OSError, ValueError, KeyError) as error:
        raise RunFolderError(report([Problem(str(folder / STUDY_FILE), str(error), "a study's file")])) from error
    folders = {arm: [folder / each["folder"] / f"seed-{seed}" for seed in seeds] for arm, each in arms.items()}
    missing = [str(path) for paths in folders.values() for path in paths if not (path / "manifest.json").is_file()]
    if missing:
        given = f"{len(missing)} of its runs missing, such as {missing[0]}"
        raise RunFolderError(report([Problem(str(folder), given, "a finished study", "evsim sweep goes on with it")]))
    return name, {arm: [load_run(path) for path in paths] for arm, paths in folders.items()}, target


def _grouped(runs: Sequence[Run]) -> tuple[str, dict[str, list[Run]], float | None]:
    """Runs of one scenario, seeds apart, are an arm; an arm is called by what is its own."""
    flats = {id(run): _flat(tomllib.loads(run.scenario_toml)) for run in runs}
    groups: dict[str, list[Run]] = {}
    for run in runs:
        groups.setdefault(json.dumps(flats[id(run)], sort_keys=True, default=str), []).append(run)
    told = [flats[id(group[0])] for group in groups.values()]
    keys = sorted({key for flat in told for key in flat if any(flat.get(key) != other.get(key) for other in told)})
    arms = {_label(flat, keys, group[0]): group for flat, group in zip(told, groups.values(), strict=True)}
    targets = {run.manifest.get("target_accuracy") for run in runs}
    ordered = {arm: sorted(group, key=_seed) for arm, group in arms.items()}
    return " against ".join(ordered), ordered, targets.pop() if len(targets) == 1 else None


def _label(flat: Mapping[str, Any], keys: Sequence[str], run: Run) -> str:
    said = [f"{key}={flat[key]}" for key in keys if key in flat]
    return ", ".join(said) or run.name


def _flat(tables: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in tables.items():
        if prefix or key not in _NO_ARM:
            found |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
    return found


def _two_of_a_seed(runs: Mapping[str, Sequence[Run]]) -> list[Problem]:
    problems = []
    for arm, group in runs.items():
        seeds = [_seed(run) for run in group]
        twice = sorted({seed for seed in seeds if seeds.count(seed) > 1})
        if twice:
            problems.append(Problem(arm, f"several runs of seed {twice[0]}", "one run per arm and seed"))
    return problems


def _other_questions(runs: Mapping[str, Sequence[Run]]) -> list[Problem]:
    """Accuracy on one data set says nothing about time to accuracy on another."""
    told = {arm: _flat(tomllib.loads(group[0].scenario_toml)) for arm, group in runs.items()}
    problems = []
    for question in _SAME:
        answers = {
            arm: {key: value for key, value in flat.items() if (key + ".").startswith(question + ".")}
            for arm, flat in told.items()
        }
        first = next(iter(answers))
        problems += [
            Problem(
                arm, f"{question} is {answer}", f"{answers[first]} as in {first}", "another question: not comparable"
            )
            for arm, answer in answers.items()
            if answer != answers[first]
        ]
    return problems


def _other_grids(runs: Mapping[str, Sequence[Run]]) -> list[Problem]:
    """The spacing of evaluations shifts a crossing, so it must be the same everywhere."""
    grids = {run.folder: grid for group in runs.values() for run in group if (grid := _grid(run)) is not None}
    first = next(iter(grids), None)
    return [
        Problem(str(folder), f"evaluated {grid}", f"{grids[first]} as in {first}", "set evaluation.every alike")
        for folder, grid in grids.items()
        if first is not None and grid != grids[first]
    ]


def _grid(run: Run) -> str | None:
    rows = run.evaluations.drop_duplicates("at")
    for trigger, column in (("grid", "at"), ("step", "version")):
        spacing = np.diff(np.unique([0, *rows.loc[rows["trigger"] == trigger, column]]))
        if len(spacing):
            return f"every {format_duration(spacing.min()) if trigger == 'grid' else f'{spacing.min()} server steps'}"
    return None


def _stopped_at_target(runs: Mapping[str, Sequence[Run]], running_mean: int) -> list[Problem]:
    """A run that ends at its first crossing is over before a running mean can cross: its censoring would tell."""
    if running_mean == 1:
        return []
    hint = "evsim sweep leaves the target out of the runs; or compare first crossings with --running-mean 1"
    return [
        Problem(str(run.folder), "the run stopped when it first reached its target", "a run that goes on", hint)
        for group in runs.values()
        for run in group
        if run.manifest["end"]["reason"] == "target_accuracy"
    ]
