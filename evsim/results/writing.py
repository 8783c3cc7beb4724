"""Tables to files, with errors that say what is wrong."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from evsim.base.errors import Problem, RunFolderError, report
from evsim.results.canvas import save

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def write_csv(table: pd.DataFrame, path: Path) -> Path:
    """A table as CSV.

    Raises:
        RunFolderError: if the file cannot be written.
    """
    write_text(path, table.to_csv(float_format="%.6g"))
    return path


def write_figure(figure: Figure, path: Path) -> Path:
    """A figure as PNG, SVG or PDF; its folder is made.

    Raises:
        RunFolderError: if the file cannot be written.
    """
    _make_folder(path)
    return save(figure, path)


def write_text(path: Path, text: str) -> None:
    """A text in UTF-8; its folder is made.

    Raises:
        RunFolderError: if the file cannot be written.
    """
    _make_folder(path)
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise _refused(path, error) from error


def _make_folder(path: Path) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _refused(path, error) from error


def _refused(path: Path, error: OSError) -> RunFolderError:
    given = f"cannot be written ({error.strerror or error})"
    return RunFolderError(report([Problem(str(path), given, "a path that can be written")]))
