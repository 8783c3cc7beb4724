"""Running a study: processes in parallel, one executor for arms of one kind, finished runs kept."""

from __future__ import annotations

import os
import tomllib
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, final

from evsim.base.culprit import explain
from evsim.base.errors import EvsimError, Problem, ResumeError, ScenarioError, report, require
from evsim.base.lock import BEAT_S, beat, locked
from evsim.base.outside import ending_on_signals, of_a_file, of_the_system
from evsim.results.comparable import flat, other_answers
from evsim.results.standing import BROKEN_ENDS, STUDY_FILE, end_of
from evsim.run.checkpoints import whole
from evsim.run.resuming import resume_folder
from evsim.scenario import Scenario
from evsim.study import folders
from evsim.study.file import Study
from evsim.study.names import slug
from evsim.study.picks import Pick, by_executor, pinned
from evsim.study.processes import in_processes, one_thread
from evsim.training.data.shared import sharing


class RunsFailedError(EvsimError):
    """Some runs of a study failed; all others are done."""


@final
@dataclass(frozen=True)
class Over:
    """How a run ended: why it failed, or what else is to be said."""

    error: str = ""
    note: str = ""


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
    retry: int = 0,
    on_progress: Callable[[Progress], None] = lambda _: None,
) -> Path:
    """Run what is not there yet and return the study's folder: ``out/<arm>/seed-<n>``.

    Every run trains on one core; finished runs are kept. Killed or interrupted, it goes on where it was, and its
    processes end with it. A script calls this below ``if __name__ == "__main__":``, because its processes import the
    script anew.

    Args:
        study: what to run.
        out: the study's folder; evsim removes nothing in it that it did not make.
        processes: runs at a time; default: the cores that this process may use.
        retry: how often a run that fails is tried again, after all others.
        on_progress: called whenever a run is over.

    Raises:
        EvsimError: if a scenario is wrong, the folder is not this study's or in use, it holds another scenario's run,
            or a run failed (`RunsFailedError`, after all others).
    """
    require(retry >= 0, "retry must be >= 0", retry=retry)
    plain = study.scenarios()  # before anything is made: is every arm right?
    _comparable(study, plain)
    folders.claim(out, study.name)
    with ending_on_signals(), locked(out) as lock:
        return _sweep(study, plain, out, lock, processes or cores(), retry, on_progress)


def _sweep(  # noqa: PLR0913, PLR0917  what `sweep` was told
    study: Study,
    plain: Mapping[tuple[str, int], Scenario],
    out: Path,
    lock: Path,
    processes: int,
    retry: int,
    on_progress: Callable[[Progress], None],
) -> Path:
    picks = pinned(out, {arm: plain[arm, study.seeds[0]] for arm in study.arms})
    runs = study.scenarios({arm: pick.executor for arm, pick in picks.items()})
    places = {key: out / slug(key[0]) / f"seed-{key[1]}" for key in runs}
    folders.write_json(out / STUDY_FILE, _as_json(study, picks))
    texts = {places[key]: scenario.to_toml() for key, scenario in runs.items()}
    open_runs = {folder: text for folder, text in texts.items() if not folders.is_done(folder, text)}
    for folder in texts:
        folders.clear_old_parts(folder)
        folders.require_ours(folder)
        if folder not in open_runs:
            folders.clear_part(folder)
    state = Progress(len(texts) - len(open_runs), len(texts) - len(open_runs), len(texts))
    on_progress(state)
    base = str(next(iter(plain.values())).folder.resolve())
    with folders.data(out) as data:
        for folder, over in _in_parallel(open_runs, (base, str(data)), processes, retry, lock):
            failed = {**state.failed, str(folder): over.error} if over.error else state.failed
            last = f"{folder.relative_to(out)}{f' ({over.note})' if over.note else ''}"
            state = replace(state, done=state.done + 1, last=last, failed=failed)
            on_progress(state)
    if state.failed:
        raise RunsFailedError(report(Problem(folder, error, "") for folder, error in state.failed.items()))
    return out


def cores() -> int:
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


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


# -- running -----------------------------------------------------------------------------------------------------------


def _in_parallel(
    runs: Mapping[Path, str], places: tuple[str, str], processes: int, retry: int, lock: Path
) -> Iterator[tuple[Path, Over]]:
    """Each folder when its run is over, and how; what failed is tried again after the others."""
    left = dict(runs)
    for attempts_left in range(retry, -1, -1):
        tasks = {folder: (str(folder), text, *places) for folder, text in left.items()}
        left = {}
        for folder, answer in in_processes(tasks, run_one, processes, every_s=BEAT_S, on_beat=lambda: beat(lock)):
            over = Over(answer.error) if answer.error else answer.value
            if over.error:
                _clean_up_after(folder, over.error, answer.details)
            if over.error and attempts_left:
                left[folder] = runs[folder]
            else:
                yield folder, over


def _clean_up_after(folder: Path, error: str, details: str) -> None:
    with suppress(OSError):  # a disk that is full
        folders.clear_hopeless_part(folder)
        folders.fail(folder, error, details)


def run_one(folder: str, text: str, base: str, data: str) -> Over:
    """One run, in a place of its own until it is whole: a second sweep can never meet half of it.

    What a dead run left there is gone on with; where that cannot be, it begins anew.

    Args:
        folder: of the run.
        text: its scenario.
        base: where relative paths begin.
        data: where data are shared with other processes.
    """
    one_thread()
    part, note = folders.begin(Path(folder)), ""
    try:
        with warnings.catch_warnings(action="ignore", category=UserWarning), sharing(Path(data)):  # warned already
            scenario = Scenario.from_dict(tomllib.loads(text), folder=base)
            note = _run_in(part, scenario, Path(folder))
    except Exception as error:  # a plug-in's or the system's is told as the run's; evsim's own goes on
        said = str(error) if isinstance(error, EvsimError) else None
        said = said or of_the_system(error) or explain(error) or of_a_file(error)
        if said is None:  # a fault of evsim
            raise
        return Over(said)
    if (end := end_of(part)).startswith(BROKEN_ENDS):
        return Over(end)
    folders.finish(Path(folder))
    return Over(note=note)


def _run_in(part: Path, scenario: Scenario, folder: Path) -> str:
    """Run, or go on; returns what is to be said about it."""
    from evsim.run.simulation import Simulation

    goes_on, simulation = bool(whole(resume_folder(part))), Simulation(scenario, device="cpu")
    try:
        simulation.run(part, resume=True)
    except ResumeError as error:
        simulation.run(folders.begin(folder, anew=True))
        return f"begun anew: {' '.join(str(error).split())}"
    return "went on where it was" if goes_on else ""


def _as_json(study: Study, picks: Mapping[str, Pick]) -> dict[str, Any]:
    goal = study.target()
    told = None if goal is None else {key: value for key, value in asdict(goal).items() if value is not None}
    return {
        "name": study.name,
        "scenario": study.scenario,
        "target": told,
        "seeds": list(study.seeds),
        "arms": {arm: {"folder": slug(arm), "overrides": [*study.overrides, *own]} for arm, own in study.arms.items()},
        "executors": by_executor(picks),
    }
