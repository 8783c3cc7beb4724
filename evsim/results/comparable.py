"""Why runs cannot be compared: two of a seed, other data, other evaluations, runs cut off at their target."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from evsim.base.errors import Problem
from evsim.base.units import format_duration
from evsim.results.run import Run

#: What a study asks: accuracy on one data set says nothing about time to accuracy on another.
_QUESTION = ("data.dataset", "data.test_fraction", "training")
_RATES_DIFFER = 1.1  # a grid in server steps serves arms whose steps come equally fast, up to a tenth

Runs = Mapping[str, Sequence[Run]]


def problems(runs: Runs, running_mean: int) -> list[Problem]:
    """Every reason against a comparison."""
    grids = _other_grids(runs)
    told = {arm: flat(group[0].scenario_tables) for arm, group in runs.items()}
    return [
        *_two_of_a_seed(runs),
        *other_answers(told, _QUESTION, "another question: not comparable"),
        *(grids or _other_rates(runs)),
        *_stopped_at_target(runs, running_mean),
    ]


def flat(tables: Mapping[str, Any], without: frozenset[str] = frozenset(), prefix: str = "") -> dict[str, Any]:
    """Nested tables as dotted keys; top-level keys named in `without` are left out."""
    found: dict[str, Any] = {}
    for key, value in tables.items():
        if prefix or key not in without:
            found |= flat(value, without, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
    return found


def seed_of(run: Run) -> int:
    """The seed; -1 where a killed run did not say."""
    return -1 if run.seed is None else run.seed


def _two_of_a_seed(runs: Runs) -> list[Problem]:
    found = []
    for arm, group in runs.items():
        seeds = [seed_of(run) for run in group]
        twice = sorted({seed for seed in seeds if seeds.count(seed) > 1})
        if twice:
            found.append(Problem(arm, f"several runs of seed {twice[0]}", "one run per arm and seed"))
    return found


def other_answers(told: Mapping[str, Mapping[str, Any]], keys: Sequence[str], hint: str) -> list[Problem]:
    """Arms whose scenario, as dotted keys, says something else than the first's about one of some keys or tables."""
    found = []
    for question in keys:
        answers = {
            arm: {key: value for key, value in own.items() if (key + ".").startswith(question + ".")}
            for arm, own in told.items()
        }
        first = next(iter(answers))
        found += [
            Problem(arm, f"{question} is {answer}", f"{answers[first]} as in {first}", hint)
            for arm, answer in answers.items()
            if answer != answers[first]
        ]
    return found


def _other_grids(runs: Runs) -> list[Problem]:
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


def _other_rates(runs: Runs) -> list[Problem]:
    """Evaluations every n steps are a finer grid for the arm that steps more often: it is seen to cross sooner."""
    at = {arm: [_steps_at(run) for run in group] for arm, group in runs.items()}
    watched = min((int(each[-1]) for each in _chain(at) if len(each)), default=0)
    rates = {arm: float(np.mean([(each <= watched).sum() for each in group])) for arm, group in at.items()}
    slow, fast = min(rates, key=rates.__getitem__), max(rates, key=rates.__getitem__)
    if rates[fast] <= max(_RATES_DIFFER * rates[slow], rates[slow] + 1):
        return []
    given = (
        f"evaluated every so many server steps, and steps come at different rates: in {format_duration(watched)} "
        f"{rates[slow]:g} evaluations of {slow}, {rates[fast]:g} of {fast}"
    )
    hint = 'set evaluation.every to a duration, such as "10min": a grid in steps favors the arm that steps more often'
    return [Problem("evaluation.every", given, "one grid in virtual time for all arms", hint)]


def _chain(groups: Mapping[str, Sequence[Any]]) -> list[Any]:
    return [each for group in groups.values() for each in group]


def _steps_at(run: Run) -> Any:
    rows = run.evaluations
    return np.unique(rows.loc[rows["trigger"] == "step", "at"])


def _stopped_at_target(runs: Runs, running_mean: int) -> list[Problem]:
    """A run that ends at its first crossing is over before a running mean can cross: its censoring would tell."""
    if running_mean == 1:
        return []
    hint = "evsim sweep leaves the target out of the runs; or compare first crossings with --running-mean 1"
    return [
        Problem(str(run.folder), "the run stopped when it first reached its target", "a run that goes on", hint)
        for group in runs.values()
        for run in group
        if run.manifest["end"]["reason"] in ("target_accuracy", "target")
    ]
