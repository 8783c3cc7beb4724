"""A run folder that can be gone on with: what lies beside its tables while it is not over, and who works in it."""

from __future__ import annotations

import shutil
import tomllib
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, final

from evsim.base.documents import load_json
from evsim.base.errors import Problem, ResumeError, RunFolderError, report
from evsim.base.lock import LOCK_FILE, locked
from evsim.run.checkpoints import Saved, newest, tidy
from evsim.run.identity import (
    check_same,
    has_identity,
    identity,
    keep_identity,
    kept_identity,
    tables_of,
    without_stop,
)
from evsim.run.recorder import Recorder, is_unfinished, keep_scenario, read_journal
from evsim.run.schema import TABLES
from evsim.scenario import Scenario

if TYPE_CHECKING:
    from evsim.run.assembly import Parts

_FOLDER = "resume"
_AT_START = {"journal", "scenario.toml", "scenario.toml.tmp", ".writable", _FOLDER}
_CUT = ("interrupted", "terminated", "error")  # how the reasons begin of runs that can go on


def resume_folder(run: Path) -> Path:
    """Where checkpoints and the run's identity lie."""
    return run / _FOLDER


def is_new(run: Path) -> bool:
    """Whether nothing is there yet, or a run that was killed before anything happened: then resuming is starting."""
    if not run.is_dir():
        return not run.exists()
    if has_identity(resume_folder(run)):
        return False
    return {path.name for path in run.iterdir()} <= _AT_START and not any(
        len(read_journal(run, name)) for name in TABLES
    )


def _clear(run: Path) -> None:
    """Remove what a run left that was killed before anything happened."""
    for name in _AT_START if run.is_dir() else ():
        shutil.rmtree(run / name) if (run / name).is_dir() else (run / name).unlink(missing_ok=True)


def is_over(run: Path) -> bool:
    """Whether the run in a folder ended by itself: then nothing is left to do."""
    return _reason(run) is not None and not str(_reason(run)).startswith(_CUT)


def scenario_of(run: Path) -> Scenario:
    """The scenario of the run in a folder, with its relative paths beginning where they did.

    Raises:
        RunFolderError: if no run that can be resumed lies there.
    """
    require_resumable(run)
    return _kept_scenario(run)


def longer(run: Path, overrides: Sequence[str]) -> Scenario:
    """The scenario of a run that is over, with another end.

    Args:
        run: its folder.
        overrides: of `[stop]`.

    Raises:
        EvsimError: if no run lies there, or an override is wrong.
    """
    _require_extendable(run)
    return _kept_scenario(run, overrides)


def _kept_scenario(run: Path, overrides: Sequence[str] = ()) -> Scenario:
    kept = kept_identity(resume_folder(run))
    return Scenario.from_dict(tables_of(kept["scenario"], str(run)), overrides, folder=kept["paths_from"])


def require_resumable(run: Path) -> None:
    """Refuse a folder without a run that was started by this version or a later one.

    Raises:
        ResumeError: if there is none.
    """
    if has_identity(resume_folder(run)):
        return
    given = (
        "a run that is over" if is_over(run) else "a folder without resume/run.json" if run.is_dir() else "no folder"
    )
    hint = "evsim run SCENARIO --out DIR starts a run that can be resumed"
    raise ResumeError(report([Problem(str(run), given, "a run that was interrupted or killed", hint)]))


def _require_extendable(run: Path) -> None:
    if has_identity(resume_folder(run)):
        return
    given = "a folder without resume/run.json" if run.is_dir() else "no folder"
    hint = "run it anew into another folder; with record.keep_checkpoint = true it can be extended"
    raise RunFolderError(report([Problem(str(run), given, "a run that is over and kept its last checkpoint", hint)]))


def leave_over(run: Path, scenario: Scenario | None = None) -> None:
    """The run in a folder is over: nothing to do but to remove what a kill in its last moment left.

    Raises:
        RunFolderError: with the first difference, if it was not a run of the scenario.
    """
    text = _scenario_text(run)
    if scenario is not None:
        check_same(run, {"scenario": text}, {"scenario": scenario.to_toml()})
    if resume_folder(run).is_dir():
        with suppress(OSError), locked(resume_folder(run)):  # on a disk that is read-only it stays as it is
            _end(run, keep=_keeps(text, str(run)))


def _scenario_text(run: Path) -> str:
    try:
        return (run / "scenario.toml").read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise ResumeError(f"{run / 'scenario.toml'}: cannot be read ({error})") from error


def _keeps(scenario_toml: str, where: str) -> bool:
    record = tables_of(scenario_toml, where).get("record")
    return isinstance(record, dict) and record.get("keep_checkpoint") is True


@final
class Place:
    """A run's folder, new or gone on with: `with` it, one process works there.

    Args:
        run: the folder.
        scenario: what runs.
        resume: whether a run that was interrupted goes on.
        extend: whether a run that is over goes on to a later end.

    Attributes:
        saved: the checkpoint to go on from; None: from the beginning.
        is_over: to be set once nothing is left that could go on.

    Raises:
        RunFolderError: if the folder holds something else.
    """

    def __init__(self, run: Path, scenario: Scenario, *, resume: bool, extend: bool = False) -> None:
        self._run, self._scenario, self._resume, self._extend = run, scenario, resume, extend
        self._again = extend or (resume and not is_new(run))
        self._lock = ExitStack()
        self.saved: Saved | None = None
        self.is_over = False

    def __enter__(self) -> Place:
        if self._again:
            (_require_extendable if self._extend else require_resumable)(self._run)
            folder = resume_folder(self._run)
            self._check_scenario(kept_identity(folder))
            with ExitStack() as held:
                held.enter_context(locked(folder))
                tidy(folder)
                self.saved = newest(folder)
                if self._extend and self.saved is None and self._scenario.training == "real":
                    raise _no_checkpoint(self._run)
                self._lock = held.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        with self._lock:
            if self.is_over:
                _end(self._run, keep=self._scenario.record.keep_checkpoint)

    @property
    def pinned(self) -> Scenario:
        """The scenario with the executor that the run had picked."""
        pin = None if self.saved is None else self.saved.told["executor"].get("pin")
        if pin is None:
            return self._scenario
        tables = tomllib.loads(self._scenario.to_toml()) | {"executor": pin}
        return Scenario.from_dict(tables, folder=self._scenario.folder)

    def recorder(self, parts: Parts) -> Recorder:
        """Where its rows go, once the parts are known to be those that the run was started with.

        Raises:
            RunFolderError: with the first difference, or if the folder cannot be written.
        """
        folder, now = resume_folder(self._run), identity(self._scenario, parts)
        if self._again:
            kept = kept_identity(folder)
            self._check_scenario(kept)
            others = {k: v for k, v in now.items() if k != "scenario" and (k != "executor" or not self._is_pinned)}
            check_same(self._run, kept, others)
            keep = partial(self._keep, now) if kept["scenario"] != now["scenario"] else lambda: None
            return Recorder(self._run, again=True, before_replacing=keep, lock=folder / LOCK_FILE)
        if self._resume:
            _clear(self._run)
        recorder = Recorder(self._run, lock=folder / LOCK_FILE)
        folder.mkdir()
        self._lock.enter_context(locked(folder))
        self._keep(now)
        return recorder

    def _keep(self, now: Mapping[str, Any]) -> None:
        """Write down what the run is."""
        keep_identity(resume_folder(self._run), self._scenario, now)
        keep_scenario(self._run, self._scenario.to_toml())

    def _check_scenario(self, kept: Mapping[str, Any]) -> None:
        """Refuse another scenario; a run that is over may get another end."""
        before, now = kept["scenario"], self._scenario.to_toml()
        if self._extend and is_over(self._run):
            before, now = without_stop(before, str(self._run)), without_stop(now, str(self._run))
        check_same(self._run, {"scenario": before}, {"scenario": now})

    @property
    def _is_pinned(self) -> bool:
        return self.saved is not None and "pin" in self.saved.told["executor"]


def _end(run: Path, *, keep: bool) -> None:
    """The run is over: nothing is left but, to `keep`, its last checkpoint."""
    if keep:
        tidy(resume_folder(run), keep=1)
    else:
        shutil.rmtree(resume_folder(run), ignore_errors=True)


def _no_checkpoint(run: Path) -> RunFolderError:
    hint = "run it anew into another folder; with record.keep_checkpoint = true it can be extended"
    return RunFolderError(report([Problem(str(run), "no checkpoint", "that of its end, to go on from", hint)]))


def _reason(run: Path) -> str | None:
    """Why the run in a folder ended; None if it did not, or cannot be read."""
    if is_unfinished(run):
        return None
    try:
        end = load_json(run / "manifest.json", what="the manifest of a run", raising=RunFolderError).get("end")
    except RunFolderError:
        return None
    return str(end["reason"]) if isinstance(end, dict) and "reason" in end else None
