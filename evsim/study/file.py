"""What a study file says: a scenario, arms as overrides, seeds."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any, final

import tomli_w

from evsim.base.bundled import bundled_scenario
from evsim.base.documents import load_toml
from evsim.base.errors import PolicyError, Problem, ScenarioError, report, suggest
from evsim.base.metrics import Target
from evsim.scenario import Scenario
from evsim.study.names import arm_problems, study_problems

_MOST_RUNS = 100_000
_KEYS = ("name", "scenario", "seeds", "target_accuracy", "target", "overrides", "arms", "grid")
#: A run of a study never stops at its target: a first crossing would cut off the running mean.
_NO_TARGET = ("stop.target_accuracy=", "stop.target=")


@final
@dataclass(frozen=True, kw_only=True)
class Study:
    """What a study file says.

    Attributes:
        name: of the study.
        scenario: a scenario file or the name of a bundled one.
        arms: overrides of each arm; the first arm is the baseline.
        seeds: each arm runs with each.
        target_accuracy: what comparisons ask for; default: the scenario's.
        overrides: for all arms.
        goal: a target of another metric, instead of `target_accuracy`: ``target = { metric = "loss", at_most = 0.5 }``.
        folder: where relative paths in overrides begin: that of the study file.
    """

    name: str
    scenario: str
    arms: Mapping[str, tuple[str, ...]]
    seeds: tuple[int, ...]
    target_accuracy: float | None = None
    overrides: tuple[str, ...] = ()
    goal: Target | None = None
    folder: Path = Path()

    def __post_init__(self) -> None:
        """Refuse names that are no folders', wherever the study comes from."""
        if problems := [*study_problems(self.name), *arm_problems(self.arms)]:
            raise ScenarioError(report(problems))

    @classmethod
    def load(cls, path: str | Path) -> Study:
        """A study file; every problem is reported at once.

        Raises:
            ScenarioError: with every problem found.
        """
        file = _find(path)
        given = load_toml(file, what="a study file in TOML", raising=ScenarioError)
        if given and not set(given) & (set(_KEYS) - {"name"}):
            expected = "a study: a file that names a scenario, and arms or seeds"
            problem = Problem(str(path), "a scenario, not a study", expected, f"evsim run {path} runs it")
            raise ScenarioError(report([problem]))
        problems = list(_problems(given, file))
        if problems:
            raise ScenarioError(report(problems))
        beside = file.parent / given["scenario"]
        arms = _arms(given)
        name = given.get("name", file.stem)
        if problems := [*study_problems(name), *arm_problems(arms)]:
            raise ScenarioError(report(replace(each, where=f"{file}: {each.where}") for each in problems))
        seeds = given.get("seeds", 5)
        return cls(
            name=name,
            scenario=str(beside) if beside.is_file() else given["scenario"],
            arms=arms,
            seeds=tuple(range(seeds)) if isinstance(seeds, int) else tuple(seeds),
            target_accuracy=given.get("target_accuracy"),
            overrides=tuple(given.get("overrides", ())),
            goal=Target(**given["target"]) if "target" in given else None,
            folder=file.parent,
        )

    def scenarios(self, executors: Mapping[str, Mapping[str, Any]] | None = None) -> dict[tuple[str, int], Scenario]:
        """The scenario of every run, by arm and seed; `executors`, by arm, replace those that pick themselves.

        Raises:
            ScenarioError: with the first arm that has problems, and all of them.
        """
        found: dict[tuple[str, int], Scenario] = {}
        for arm, own in self.arms.items():
            try:
                texts = [*self.overrides, *own, *_NO_TARGET]
                base = self._load(texts)
                if arm in (executors or {}) and picks_itself(base):
                    base = self._load([*texts, f"executor={_inline((executors or {})[arm])}"])
            except ScenarioError as error:
                raise ScenarioError(f"arm {arm!r}: {error}") from error
            self._check_target(arm, base)
            found |= {(arm, seed): replace(base, seed=seed) for seed in self.seeds}
        return found

    def _check_target(self, arm: str, scenario: Scenario) -> None:
        """Refuse a target that the runs of an arm would never tell."""
        told = scenario.objective.names
        if self.goal is not None and scenario.training != "none" and self.goal.metric not in told:
            given = f"the objective of arm {arm!r} does not tell {self.goal.metric!r}"
            hint = f"{suggest(self.goal.metric, told)}; name it in objective.metrics if it is one"
            raise ScenarioError(report([Problem("target.metric", given, "", hint)]))

    def _load(self, overrides: Sequence[str]) -> Scenario:
        return Scenario.load(self.scenario, overrides, paths_from=self.folder)

    def target(self) -> Target | None:
        """What is asked for: the study's target, else the scenario's if anything learns."""
        if self.goal is not None:
            return self.goal
        accuracy = self.target_accuracy
        if accuracy is None:
            scenario = self._load(self.overrides)
            return scenario.stop.goal if scenario.training != "none" else None
        return Target.of("accuracy", accuracy)


def _find(path: str | Path) -> Path:
    found = Path(path) if Path(path).is_file() else bundled_scenario(str(path))
    if found is None:
        raise ScenarioError(report([Problem(str(path), "no such file", "a study file")]))
    return found


def _problems(given: Mapping[str, Any], file: Path) -> Iterator[Problem]:
    for key in given:
        if key not in _KEYS:
            yield Problem(f"{file}: {key}", "unknown key", "", suggest(key, _KEYS))
    for key, (fits, expected) in _RULES.items():
        if (key in given or key == "scenario") and not fits(given.get(key)):
            yield Problem(f"{file}: {key}", repr(given.get(key)), expected)
    if "target" in given:
        yield from _target_problems(given, file)
    if not given.get("arms") and not given.get("grid"):
        yield Problem(f"{file}: arms", "no arms", "a table [arms] of lists of overrides, or [grid] of lists of values")
    if (runs := _count(given)) > _MOST_RUNS:
        yield Problem(f"{file}: grid", f"{runs:,} runs", f"at most {_MOST_RUNS:,}", "fewer values or seeds")


def _count(given: Mapping[str, Any]) -> int:
    """How many runs arms, grid and seeds make; 0 if one of them is wrong."""
    if not all(fits(given[key]) for key, (fits, _) in _RULES.items() if key in given):
        return 0
    seeds = given.get("seeds", 5)
    points = math.prod(len(values) for values in given.get("grid", {}).values())
    return len(given.get("arms", {"": ()})) * points * (seeds if isinstance(seeds, int) else len(seeds))


def _target_problems(given: Mapping[str, Any], file: Path) -> Iterator[Problem]:
    target, expected = given["target"], 'a table such as { metric = "loss", at_most = 0.5 }'
    if "target_accuracy" in given:
        yield Problem(f"{file}: target", "given beside target_accuracy", "one of them")
    if not isinstance(target, dict) or not isinstance(target.get("metric"), str):
        yield Problem(f"{file}: target", repr(target), expected)
        return
    numbers = {key: value for key, value in target.items() if key != "metric"}
    if not set(numbers) <= {"at_least", "at_most"} or any(type(each) not in {int, float} for each in numbers.values()):
        yield Problem(f"{file}: target", repr(target), expected)
        return
    try:
        Target(**target)
    except PolicyError as error:
        yield Problem(f"{file}: target", str(error), "")


def _texts(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(each, str) for each in value)


def _is_seeds(value: object) -> bool:
    if isinstance(value, list):
        return all(type(each) is int and each >= 0 for each in value) and len(set(value)) == len(value) > 0
    return type(value) is int and 1 <= value <= _MOST_RUNS


_RULES: dict[str, tuple[Callable[[Any], bool], str]] = {
    "name": (lambda value: isinstance(value, str), "a text"),
    "scenario": (lambda value: isinstance(value, str), "a scenario file, or the name of a bundled scenario"),
    "seeds": (_is_seeds, "a number of seeds from 1 to 100,000, or a list of different ones"),
    "target_accuracy": (lambda value: type(value) in {int, float} and 0 < value <= 1, "an accuracy above 0, at most 1"),
    "overrides": (_texts, 'a list of texts such as "stop.virtual_time=1d"'),
    "arms": (
        lambda value: isinstance(value, dict) and bool(value) and all(_texts(each) for each in value.values()),
        "lists of overrides by the arm's name",
    ),
    "grid": (
        lambda value: isinstance(value, dict) and all(isinstance(each, list) and each for each in value.values()),
        "lists of values by the quoted dotted key",
    ),
}


def _arms(given: Mapping[str, Any]) -> dict[str, tuple[str, ...]]:
    """Arms times the points of the grid."""
    named = {name: tuple(own) for name, own in given.get("arms", {"": ()}).items()}
    grid: Mapping[str, list[object]] = given.get("grid", {})
    arms = {}
    for (name, own), values in product(named.items(), product(*grid.values())):
        point = [f"{key}={_toml(value)}" for key, value in zip(grid, values, strict=True)]
        short = [f"{key.rsplit('.', 1)[-1]}={value}" for key, value in zip(grid, values, strict=True)]
        arms[", ".join([name, *short] if name else short)] = (*own, *point)
    return arms


def _toml(value: object) -> str:
    return value if isinstance(value, str) else tomli_w.dumps({"v": value}).partition("=")[2].strip()


def picks_itself(scenario: Scenario) -> bool:
    """Whether the executor of a scenario is a matter of calibration."""
    return scenario.training != "none" and type(scenario.executor).__name__ == "Auto"


def _inline(table: Mapping[str, Any]) -> str:
    return "{" + ", ".join(f"{key} = {json.dumps(value)}" for key, value in table.items()) + "}"
