"""One executor for a kind of arm: as the study's folder says, else measured once, before anything runs."""

from __future__ import annotations

import json
import tomllib
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, final

from evsim.base.documents import load_json
from evsim.base.errors import EvsimError, RunFolderError
from evsim.results.standing import STUDY_FILE
from evsim.scenario import Scenario
from evsim.study.file import picks_itself
from evsim.study.processes import in_processes, one_thread


@final
@dataclass(frozen=True)
class Pick:
    """An ``[executor]`` table, and where it comes from."""

    executor: Mapping[str, Any]
    why: str


def pinned(out: Path, first: Mapping[str, Scenario]) -> dict[str, Pick]:
    """The executor of each arm whose scenario leaves it open."""
    from evsim.study.probe import kind_of

    open_arms = {arm: scenario for arm, scenario in first.items() if picks_itself(scenario)}
    kinds = {arm: kind_of(scenario) for arm, scenario in open_arms.items()}
    picks = {kinds[arm]: pick for arm, pick in _known(out, list(open_arms)).items() if arm in kinds}
    wanted = {kinds[arm]: scenario for arm, scenario in open_arms.items() if kinds[arm] not in picks}
    tasks = {kind: (scenario.to_toml(), str(scenario.folder.resolve())) for kind, scenario in wanted.items()}
    for kind, answer in in_processes(tasks, _measured, 1):  # one at a time: nothing else may run beside it
        if answer.error:
            raise EvsimError(f"choosing an executor failed: {answer.details or answer.error}")
        picks[kind] = answer.value
    return {arm: picks[kinds[arm]] for arm in open_arms}


def by_executor(picks: Mapping[str, Pick]) -> list[dict[str, Any]]:
    """Each executor with the arms that it trains."""
    groups: dict[str, dict[str, Any]] = {}
    for arm, pick in picks.items():
        table = asdict(pick)
        groups.setdefault(json.dumps(table, sort_keys=True), {**table, "arms": []})["arms"].append(arm)
    return list(groups.values())


def _known(out: Path, arms: Sequence[str]) -> dict[str, Pick]:
    """What the folder says trained its arms; older ones name one executor for all."""
    try:
        told = load_json(out / STUDY_FILE, what="a study's file", raising=RunFolderError)
        if told.get("executor"):
            return {arm: Pick(dict(told["executor"]), "measured on the first arm") for arm in arms}
        return {arm: Pick(dict(each["executor"]), each["why"]) for each in told["executors"] for arm in each["arms"]}
    except (EvsimError, ValueError, KeyError, TypeError, AttributeError):
        return {}


def _measured(text: str, base: str) -> Pick:
    """What the calibration picks on one core, where every run of the study will live."""
    from evsim.study.probe import SERIAL, measure

    one_thread()
    try:
        with warnings.catch_warnings(action="ignore", category=UserWarning):  # the sweep has said them
            found = measure(Scenario.from_dict(tomllib.loads(text), folder=base))
    except EvsimError:  # the run itself will say it
        found = {}
    return Pick(found, "measured") if found else Pick(SERIAL, "too little work to measure")
