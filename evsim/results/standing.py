"""How far a study is, by its folder alone: which runs are done, which failed and why, which run now."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, final

from typing_extensions import override

from evsim.base.documents import load_json
from evsim.base.errors import EvsimError, RunFolderError
from evsim.base.lock import holder

STUDY_FILE = "study.json"
#: A run's end that is none: such a run is made again.
BROKEN_ENDS = ("interrupted", "terminated", "error")


class State(StrEnum):
    """What has become of a run of a study."""

    DONE = "done"
    FAILED = "failed"
    RUNNING = "running"
    TO_DO = "to do"


@final
@dataclass(frozen=True)
class Standing:
    """One run of a study.

    Attributes:
        arm: of the run.
        seed: of the run.
        folder: where its results are, or will be.
        state: what has become of it.
        why: the reason if it failed.
    """

    arm: str
    seed: int
    folder: Path
    state: State
    why: str = ""

    @override
    def __str__(self) -> str:
        """As a message names it."""
        return f"{self.arm} seed {self.seed}{f' ({self.state})' if self.state is not State.TO_DO else ''}"


def part_of(run: Path) -> Path:
    """Where a run is made before it is whole."""
    return run.with_name(f".{run.name}.part")


def failure_of(run: Path) -> Path:
    """The file that says why a run failed."""
    return run.with_name(f"{run.name}.failed.json")


def end_of(run: Path) -> str:
    """Why a run ended, as its manifest says; "" if there is no readable one."""
    try:
        end = load_json(run / "manifest.json", what="the manifest of a run", raising=RunFolderError).get("end")
    except EvsimError:
        return ""
    reason = end.get("reason") if isinstance(end, dict) else None
    return reason if isinstance(reason, str) else ""


def standings(folder: Path, told: Mapping[str, Any]) -> list[Standing]:
    """Every run of a study, arm by arm.

    Args:
        folder: of the study.
        told: what its file says.
    """
    alive = holder(folder) is not None
    places = [
        (arm, seed, folder / each["folder"] / f"seed-{seed}")
        for arm, each in told["arms"].items()
        for seed in told["seeds"]
    ]
    return [Standing(arm, seed, place, *_state(place, alive=alive)) for arm, seed, place in places]


def counted(found: Sequence[Standing]) -> str:
    """The numbers of each state, in words."""
    counts = Counter(each.state for each in found)
    return ", ".join(f"{counts[state]} {state}" for state in State if counts[state]) or "no runs"


def _state(place: Path, *, alive: bool) -> tuple[State, str]:
    end = end_of(place)
    if end and not end.startswith(BROKEN_ENDS):
        return State.DONE, ""
    if alive and part_of(place).is_dir():
        return State.RUNNING, ""
    if failure_of(place).is_file():
        return State.FAILED, _why(failure_of(place))
    return State.TO_DO, "begun: the next sweep goes on with it" if part_of(place).is_dir() else ""


def _why(path: Path) -> str:
    try:
        return str(load_json(path, what="why a run failed", raising=RunFolderError).get("reason", "unknown"))
    except EvsimError as error:
        return str(error)
