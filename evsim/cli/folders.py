"""Where runs go when the user does not say."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from evsim.base.errors import EvsimError, Problem, RunFolderError, report
from evsim.cli.base import complain, keep_traceback_in

_RUNS = Path("runs")
_MANIFEST = "manifest.json"


@contextmanager
def claimed(out: Path | None, name: str) -> Iterator[Path]:
    """The folder to run in: the one asked for, else the next free ``runs/<name>-<n>``, removed if nothing came of it.

    Raises:
        RunFolderError: if no folder can be made.
    """
    folder = _claim(name) if out is None else out
    old = (folder / _MANIFEST).exists()
    keep_traceback_in(folder)
    try:
        yield folder
    except EvsimError:
        if not old and (folder / _MANIFEST).exists():
            complain(f"what happened before the error is in {folder}")
        raise
    finally:
        if out is None and not any(folder.iterdir()):
            folder.rmdir()


def _claim(name: str) -> Path:
    for number in itertools.count(1):
        folder = _RUNS / f"{name}-{number}"
        try:
            folder.mkdir(parents=True)  # fails if it exists: two runs at a time never share a folder
        except FileExistsError:
            if _RUNS.is_dir():
                continue
            raise _refused(folder, "runs is a file") from None
        except OSError as error:
            raise _refused(folder, error.strerror or str(error)) from error
        return folder
    raise AssertionError  # count never ends


def _refused(folder: Path, why: str) -> RunFolderError:
    return RunFolderError(report([Problem(str(folder), why, "a folder that can be made", "choose one with --out DIR")]))
