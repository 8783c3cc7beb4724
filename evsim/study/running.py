"""Running a study: processes in parallel, one executor for arms of one kind, finished runs kept."""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
import tomllib
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, final

from evsim.base.culprit import explain
from evsim.base.errors import EvsimError, Problem, ScenarioError, report
from evsim.results.arms import STUDY_FILE
from evsim.results.comparable import flat, other_answers
from evsim.scenario import Scenario
from evsim.study.file import Study, picks_itself, slug

_BROKEN_ENDS = ("interrupted", "terminated", "error")


@final
@dataclass(frozen=True)
class Progress:
    """Where a sweep stands: runs over, of them found from before, of how many; and what failed."""

    done: int
    found: int
    total: int
    last: str = ""
    failed: Mapping[str, str] = field(default_factory=dict)


def sweep(
    study: Study,
    out: Path,
    *,
    processes: int | None = None,
    on_progress: Callable[[Progress], None] = lambda _: None,
) -> Path:
    """Run what is not there yet and return the study's folder: ``out/<arm>/seed-<n>``.

    Every run trains on one core; finished runs are kept. Killed or interrupted, it goes on where it was. A script calls
    this below ``if __name__ == "__main__":``, because its processes import the script anew.

    Args:
        study: what to run.
        out: the study's folder.
        processes: runs at a time; default: the cores of this machine.
        on_progress: called whenever a run is over.

    Raises:
        EvsimError: if a scenario is wrong, a folder holds another scenario's run, or a run failed (after all others).
    """
    plain = study.scenarios()  # before anything is made: is every arm right?
    first = next(iter(plain.values()))
    _comparable(study, plain)
    out.mkdir(parents=True, exist_ok=True)
    picks = _pinned(out, {arm: plain[arm, study.seeds[0]] for arm in study.arms})
    runs = study.scenarios({arm: pick.executor for arm, pick in picks.items()})
    folders = {key: out / slug(key[0]) / f"seed-{key[1]}" for key in runs}
    _write(out / STUDY_FILE, _as_json(study, picks))
    texts = {folders[key]: scenario.to_toml() for key, scenario in runs.items()}
    open_runs = {folder: text for folder, text in texts.items() if not _is_done(folder, text)}
    state = Progress(len(texts) - len(open_runs), len(texts) - len(open_runs), len(texts))
    on_progress(state)
    for folder, error in _in_parallel(open_runs, str(first.folder.resolve()), processes or os.cpu_count() or 1):
        failed = {**state.failed, str(folder): error} if error else state.failed
        state = replace(state, done=state.done + 1, last=str(folder.relative_to(out)), failed=failed)
        on_progress(state)
    if state.failed:
        raise EvsimError(report(Problem(folder, error, "") for folder, error in state.failed.items()))
    return out


def _comparable(study: Study, scenarios: Mapping[tuple[str, int], Scenario]) -> None:
    """Refuse before hours are spent what a comparison would refuse afterwards."""
    if study.target() is None:
        return
    told = {arm: flat(tomllib.loads(scenarios[arm, study.seeds[0]].to_toml())) for arm in study.arms}
    dry = [arm for arm, keys in told.items() if keys.get("training") == "none"]
    problems = [
        *other_answers(told, ["evaluation.every"], "set evaluation.every alike"),
        *(Problem(f"arm {arm!r}: training", '"none"', "runs that learn: the study has a target") for arm in dry),
    ]
    if problems:
        raise ScenarioError(report(problems))


# -- one executor for a kind of arm ------------------------------------------------------------------------------------


@final
@dataclass(frozen=True)
class _Pick:
    """An ``[executor]`` table, and where it comes from."""

    executor: Mapping[str, Any]
    why: str


def _pinned(out: Path, first: Mapping[str, Scenario]) -> dict[str, _Pick]:
    """The executor of each arm whose scenario leaves it open: as the study's folder says, else measured once a kind."""
    from evsim.study.probe import kind_of

    open_arms = {arm: scenario for arm, scenario in first.items() if picks_itself(scenario)}
    kinds = {arm: kind_of(scenario) for arm, scenario in open_arms.items()}
    picks = {kinds[arm]: pick for arm, pick in _known(out, list(open_arms)).items() if arm in kinds}
    for arm, scenario in open_arms.items():
        if kinds[arm] not in picks:
            with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
                picks[kinds[arm]] = pool.submit(_measured, scenario.to_toml(), str(scenario.folder.resolve())).result()
    return {arm: picks[kinds[arm]] for arm in open_arms}


def _known(out: Path, arms: Sequence[str]) -> dict[str, _Pick]:
    """What the folder says trained its arms; older ones name one executor for all."""
    try:
        told = json.loads((out / STUDY_FILE).read_text(encoding="utf-8"))
        if told.get("executor"):
            return {arm: _Pick(dict(told["executor"]), "measured on the first arm") for arm in arms}
        return {arm: _Pick(dict(each["executor"]), each["why"]) for each in told["executors"] for arm in each["arms"]}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}


def _measured(text: str, base: str) -> _Pick:
    """What the calibration picks on one core, where every run of the study will live."""
    from evsim.study.probe import SERIAL, measure

    _one_core()
    try:
        with warnings.catch_warnings(action="ignore", category=UserWarning):  # the sweep has said them
            found = measure(Scenario.from_dict(tomllib.loads(text), folder=base))
    except EvsimError:  # the run itself will say it
        found = {}
    return _Pick(found, "measured") if found else _Pick(SERIAL, "too little work to measure")


# -- running -----------------------------------------------------------------------------------------------------------


def _is_done(folder: Path, text: str) -> bool:
    """Whether a finished run of this very scenario lies there; what was broken off is cleared away."""
    try:
        end = str(json.loads((folder / "manifest.json").read_text(encoding="utf-8"))["end"]["reason"])
    except (OSError, ValueError, KeyError):
        end = "error"
    if end.startswith(_BROKEN_ENDS):
        shutil.rmtree(folder, ignore_errors=True)
        return False
    if (folder / "scenario.toml").read_text(encoding="utf-8") != text:
        problem = Problem(str(folder), "a run of another scenario", "runs of this study", "choose another --out")
        raise EvsimError(report([problem]))
    return True


def _in_parallel(runs: Mapping[Path, str], base: str, processes: int) -> Iterator[tuple[Path, str]]:
    """Each folder when its run is over, with an error or ""."""
    pool = ProcessPoolExecutor(processes, mp_context=multiprocessing.get_context("spawn"), initializer=_one_core)
    try:
        going: dict[Future[str], Path] = {pool.submit(_run, str(f), text, base): f for f, text in runs.items()}
        while going:
            over, _ = wait(going, return_when=FIRST_COMPLETED)
            for each in over:
                error = each.exception()
                yield going.pop(each), each.result() if error is None else f"the process died: {error}"
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _one_core() -> None:
    """A run of a study has one core: more would take turns with the other runs."""
    import torch

    torch.set_num_threads(1)
    if hasattr(os, "sched_setaffinity"):
        cores = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, {cores[os.getpid() % len(cores)]})


def _run(folder: str, text: str, base: str) -> str:
    """One run, under a name of its own until it is whole: a second sweep can never meet half of it."""
    from evsim.run.simulation import Simulation

    target = Path(folder)
    part = target.with_name(f".{target.name}.{os.getpid()}")
    shutil.rmtree(part, ignore_errors=True)
    part.parent.mkdir(parents=True, exist_ok=True)
    try:
        with warnings.catch_warnings(action="ignore", category=UserWarning):  # the sweep has said them
            Simulation(Scenario.from_dict(tomllib.loads(text), folder=base), device="cpu").run(part)
    except Exception as error:
        said = str(error) if isinstance(error, EvsimError) else explain(error)
        if said is None:  # a fault of evsim
            raise
        shutil.rmtree(part, ignore_errors=True)
        return said
    shutil.rmtree(target, ignore_errors=True)
    part.rename(target)
    return ""


def _as_json(study: Study, picks: Mapping[str, _Pick]) -> dict[str, Any]:
    goal = study.target()
    told = None if goal is None else {key: value for key, value in asdict(goal).items() if value is not None}
    return {
        "name": study.name,
        "scenario": study.scenario,
        "target": told,
        "seeds": list(study.seeds),
        "arms": {arm: {"folder": slug(arm), "overrides": [*study.overrides, *own]} for arm, own in study.arms.items()},
        "executors": _by_executor(picks),
    }


def _by_executor(picks: Mapping[str, _Pick]) -> list[dict[str, Any]]:
    """Each executor with the arms that it trains."""
    groups: dict[str, dict[str, Any]] = {}
    for arm, pick in picks.items():
        table = asdict(pick)
        groups.setdefault(json.dumps(table, sort_keys=True), {**table, "arms": []})["arms"].append(arm)
    return list(groups.values())


def _write(path: Path, content: Mapping[str, Any]) -> None:
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    temporary.replace(path)
