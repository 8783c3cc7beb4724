"""Names that become folders: on every system, inside the study's folder, and never two of them one."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Iterator

from evsim.base.errors import Problem
from evsim.base.lock import LOCK_FILE

_MOST_BYTES = 200  # of 255 that file systems take; the rest is for endings
_DEVICES = re.compile(r"(con|prn|aux|nul|com[0-9¹²³]|lpt[0-9¹²³])(\..*)?", re.IGNORECASE)  # what Windows takes them for
_OURS = ("study.json", "comparison.csv", "comparison.png", "report.html", LOCK_FILE)


def slug(arm: str) -> str:
    """An arm's name as a folder's.

    >>> slug("lr=0.1, wd/none")
    'lr=0.1__wd_none'
    """
    return "".join(letter if letter.isalnum() or letter in "-_.=+" else "_" for letter in arm)


def arm_problems(arms: Iterable[str], where: str = "arms") -> Iterator[Problem]:
    """What speaks against names of arms."""
    known: dict[str, str] = {}
    for arm in arms:
        at, folder = f"{where}: {arm[:60]!r}", slug(arm)
        if why := _why_not(folder):
            yield Problem(at, why, "a name that can be a folder's", "name it otherwise in [arms]")
        alike = known.setdefault(_alike(folder), arm)
        if alike != arm:
            given = f"becomes the same folder as {alike[:60]!r}"
            yield Problem(at, given, "names that differ in their letters, not in upper and lower case only")


def study_problems(name: str) -> Iterator[Problem]:
    """What speaks against the name of a study, which is a folder below runs."""
    why = _why_not(name) or ("is no single folder" if slug(name).replace("_", " ") != name.replace("_", " ") else "")
    if why:
        yield Problem("name", f"{name[:60]!r} {why}", "letters, digits, spaces and any of - _ . = +")


def _why_not(folder: str) -> str:
    """Why a text can be no folder's name everywhere; "" if it can."""
    if not folder.strip():
        return "is empty"
    if folder.startswith("."):
        return "begins with a dot: hidden, or the folder above"
    if folder.endswith((".", " ")) or folder.startswith(" "):
        return "begins with a space, or ends with a space or a dot"
    if _DEVICES.fullmatch(folder):
        return "is the name of a device on Windows"
    if _alike(folder) in _OURS:
        return "is the name of a file of the study's own"
    size = len(folder.encode("utf-8", "replace"))
    return f"is {size} bytes long, of at most {_MOST_BYTES}" if size > _MOST_BYTES else ""


def _alike(folder: str) -> str:
    """What a file system that knows neither case nor spellings of one letter takes a name for."""
    return unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", folder).casefold())
