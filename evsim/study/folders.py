"""The folders of a sweep: which are evsim's own, and how a run comes into one. Nothing else is ever deleted.

A run is made in ``.seed-<n>.part`` beside its place: `OWNER` in it says that evsim made the folder. Once whole, it is
renamed; half made, it is gone on with. What is in the way is cleared only if every file in it is one that evsim writes.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from evsim.base.documents import load_json
from evsim.base.errors import EvsimError, Problem, RunFolderError, report
from evsim.base.lock import is_locked_by_evsim
from evsim.results.standing import BROKEN_ENDS, STUDY_FILE, end_of, failure_of, part_of
from evsim.run.checkpoints import whole
from evsim.run.resuming import resume_folder
from evsim.run.schema import TABLES

OWNER = "evsim-part.json"
_RUN = "run"
_ELSEWHERE = "choose another --out"
_WRITTEN = frozenset(
    {
        "scenario.toml",
        "manifest.json",
        "model.safetensors",
        "model.diverged.safetensors",
        "run.png",
        "report.html",
        "journal",
        "resume",
        *(f"{name}.parquet" for name in TABLES),
    }
)


def claim(out: Path, name: str) -> None:
    """Make a study's folder, or go on in one.

    Raises:
        RunFolderError: if it is something else than the folder of this study, or cannot be made.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
        inside = next(out.iterdir(), None)
    except OSError as error:
        raise _refused(out, error.strerror or str(error), "a folder that can be made") from error
    if inside is None:
        return
    if not (out / STUDY_FILE).exists():
        if not is_locked_by_evsim(out):
            raise _refused(out, f"holds {inside.name} and no study", "an empty folder, or the folder of this study")
        return
    told = load_json(out / STUDY_FILE, what="a study's file", raising=RunFolderError)
    if not isinstance(told.get("arms"), dict) or not isinstance(told.get("seeds"), list):
        raise _refused(out / STUDY_FILE, "lacks arms or seeds", "a study's file")
    if told.get("name") != name:
        raise _refused(out, f"the folder of study {told.get('name')!r}", f"that of {name!r}")


def is_done(folder: Path, text: str) -> bool:
    """Whether a finished run of this very scenario lies there; one that was broken off is cleared away.

    Raises:
        RunFolderError: if another scenario's run lies there, or anything that evsim did not write.
    """
    if not os.path.lexists(folder):
        return False
    end = end_of(folder)
    if end and not end.startswith(BROKEN_ENDS):
        return _is_of(folder, text)
    _clear_run(folder)
    return False


def begin(folder: Path, *, anew: bool = False) -> Path:
    """Where the run of a folder is made; with what a dead run left there, unless it begins anew.

    Raises:
        RunFolderError: if something that evsim did not make is in the way.
    """
    part = part_of(folder)
    if anew or not _is_ours(part):
        clear_part(folder)
    elif (part / _RUN).is_dir():
        return part / _RUN
    try:
        part.mkdir(parents=True, exist_ok=True)
        (part / OWNER).write_text(json.dumps({"evsim": "a run in the making", "pid": os.getpid()}), encoding="utf-8")
    except OSError as error:
        raise _refused(part, error.strerror or str(error), "a folder that can be made") from error
    return part / _RUN


def finish(folder: Path) -> None:
    """A run is whole: it takes its place."""
    (part_of(folder) / _RUN).rename(folder)
    clear_part(folder)
    failure_of(folder).unlink(missing_ok=True)


def clear_part(folder: Path) -> None:
    """Remove what a dead run left half made.

    Raises:
        RunFolderError: if evsim did not make it.
    """
    require_ours(folder)
    if part_of(folder).exists():
        shutil.rmtree(part_of(folder))


def require_ours(folder: Path) -> None:
    """Refuse a place for half-made runs that somebody else made.

    Raises:
        RunFolderError: if it is one.
    """
    part = part_of(folder)
    if os.path.lexists(part) and not _is_ours(part):
        raise _refused(part, f"holds no {OWNER}: evsim did not make it", "nothing, or a run half made")


def clear_hopeless_part(folder: Path) -> None:
    """Remove a half-made run without a checkpoint: nothing in it spares work, and a disk may be full.

    Raises:
        RunFolderError: if evsim did not make it.
    """
    if not whole(resume_folder(part_of(folder) / _RUN)):
        clear_part(folder)


@contextmanager
def data(out: Path) -> Iterator[Path]:
    """Where the processes of a sweep share data: a folder that is gone afterwards, and what a dead sweep left before.

    Raises:
        RunFolderError: if something that evsim did not make is in the way, or it cannot be made.
    """
    place = part_of(out / "data")
    clear_part(out / "data")
    try:
        place.mkdir()
        (place / OWNER).write_text(json.dumps({"evsim": "data of a sweep"}), encoding="utf-8")
    except OSError as error:
        raise _refused(place, error.strerror or str(error), "a folder that can be made") from error
    try:
        yield place
    finally:
        shutil.rmtree(place, ignore_errors=True)


def clear_old_parts(folder: Path) -> None:
    """Remove half-made runs as they were called earlier, ``.seed-<n>.<process>``; what else is called so stays."""
    for path in folder.parent.glob(f".{folder.name}.*"):
        if path.suffix[1:].isdecimal():
            with suppress(RunFolderError):
                _clear_run(path)


def fail(folder: Path, reason: str, details: str = "") -> None:
    """Write down why a run failed."""
    told = {"reason": reason} | ({"traceback": details} if details else {})
    folder.parent.mkdir(parents=True, exist_ok=True)
    write_json(failure_of(folder), told)


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write a file whole: a reader sees the old one or the new one."""
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    temporary.replace(path)


def _is_ours(part: Path) -> bool:
    return not part.is_symlink() and part.is_dir() and (part / OWNER).is_file()


def _is_of(folder: Path, text: str) -> bool:
    try:
        same = (folder / "scenario.toml").read_text(encoding="utf-8") == text
    except (OSError, ValueError) as error:
        raise _refused(folder / "scenario.toml", f"cannot be read ({error})", "the scenario of a run") from error
    if not same:
        raise _refused(folder, "a run of another scenario", "runs of this study")
    return True


def _clear_run(folder: Path) -> None:
    """Remove a run that was broken off, if it is one and holds nothing else."""
    if folder.is_symlink() or not folder.is_dir():
        raise _refused(folder, "no folder", "a run of this study")
    names = {each.name for each in folder.iterdir()}
    if foreign := sorted(name for name in names if name.removesuffix(".tmp") not in _WRITTEN):
        raise _refused(folder, f"holds {foreign[0]}, which evsim did not write", "nothing, or a run of this study")
    if names and not names & {"scenario.toml", "journal"}:
        raise _refused(folder, "holds no scenario.toml: no run of evsim", "nothing, or a run of this study")
    shutil.rmtree(folder)


def _refused(where: Path, given: str, expected: str) -> EvsimError:
    return RunFolderError(report([Problem(str(where), given, expected, _ELSEWHERE)]))
