"""A whole study as tidy tables: all its runs below each other, and what is not there."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import final

import pandas as pd
from typing_extensions import override

from evsim.base.errors import Problem, RunFolderError, report, suggest
from evsim.results.arms import Arms, load_arms, read_study
from evsim.results.run import Run, load_run
from evsim.results.standing import State, counted, standings
from evsim.run.schema import TABLES

_NOT_DONE = ("arm", "seed", "state", "why")


@final
@dataclass(frozen=True, eq=False)
class StudyRuns:
    """The runs of a study's folder; each table is read from all of them when first used.

    The columns `arm` and `seed` stand in front of those of the run's own table.

    Attributes:
        folder: of the study.
        name: of the study.
        runs: those that are done, by arm and seed, in the order of the study.
        not_done: the others, a row each: arm, seed, state ("failed", "running", "to do"), why.
    """

    folder: Path
    name: str
    runs: Mapping[tuple[str, int], Run]
    not_done: pd.DataFrame

    @override
    def __repr__(self) -> str:
        return f"StudyRuns({self.name!r}, {len(self.runs)} runs done, {len(self.not_done)} not)"

    def _repr_html_(self) -> str:
        from evsim.results.displays import study_html

        return study_html(self)

    @cached_property
    def tasks(self) -> pd.DataFrame:
        """One row per task of every run."""
        return self.table("tasks")

    @cached_property
    def server_steps(self) -> pd.DataFrame:
        """One row per attempt of a server to improve the model."""
        return self.table("server_steps")

    @cached_property
    def evaluations(self) -> pd.DataFrame:
        """One row per metric of an evaluation (long form)."""
        return self.table("evaluations")

    @cached_property
    def client_evaluations(self) -> pd.DataFrame:
        """One row per metric, model version and client, of runs that were asked for them."""
        return self.table("client_evaluations")

    @cached_property
    def clients(self) -> pd.DataFrame:
        """One row per client of every run."""
        return self.table("clients")

    def table(self, name: str) -> pd.DataFrame:
        """Any table of a run folder, of all runs.

        Raises:
            RunFolderError: if there is no such table.
        """
        if name not in TABLES:
            raise RunFolderError(report([Problem(name, "no such table", "", suggest(name, TABLES))]))
        frames = []
        for (arm, seed), run in self.runs.items():
            frame: pd.DataFrame = getattr(run, name).copy()
            frame.insert(0, "arm", arm)
            frame.insert(1, "seed", seed)
            frames.append(frame)
        texts = {column for frame in frames for column in frame.columns if isinstance(frame[column].dtype, _TEXT)}
        whole = pd.concat([frame.astype(dict.fromkeys(texts & {*frame.columns}, object)) for frame in frames])
        return whole.reset_index(drop=True).astype(dict.fromkeys(["arm", *texts], "category"))

    def arms(self, target: float | None = None) -> Arms:
        """The runs as arms to compare, as `evsim compare` reads them."""
        return load_arms([self.folder], target=target)


_TEXT = pd.CategoricalDtype  # of columns whose categories differ from run to run


def load_study(folder: str | Path) -> StudyRuns:
    """The folder of a study, finished or not.

    Raises:
        RunFolderError: if it is none, or no run is done yet.
    """
    place = Path(folder)
    told = read_study(place)
    found = standings(place, told)
    done = {(each.arm, each.seed): load_run(each.folder) for each in found if each.state is State.DONE}
    if not done:
        raise RunFolderError(report([Problem(str(place), counted(found), "a run that is done", "run evsim sweep")]))
    rows = [(each.arm, each.seed, each.state.value, each.why) for each in found if each.state is not State.DONE]
    return StudyRuns(place, told["name"], done, pd.DataFrame(rows, columns=list(_NOT_DONE)))
