"""One run folder as tidy tables, read when first asked for."""

from __future__ import annotations

import glob as globbing
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, final

import pandas as pd
from typing_extensions import override

from evsim.base.caveat import Caveat
from evsim.base.documents import load_json, parse_toml
from evsim.base.errors import Problem, RunFolderError, report, suggest
from evsim.base.metrics import Target
from evsim.base.units import parse_time_of_day
from evsim.results.curves import Curve, first_crossing
from evsim.results.reading import changed, journal_rows, missing_columns, read_table
from evsim.run.caveats import MEASURED_ON, lost_slots, measured
from evsim.run.recorder import is_unfinished
from evsim.run.schema import FORMAT, TABLES

_NEEDED = ("tasks", "server_steps", "evaluations", "clients")


@final
@dataclass(frozen=True, eq=False)
class Run:
    """A run folder; each table is read from its Parquet file when first used.

    Integer columns that may be null are ``Int64``, text columns ``category``.

    Attributes:
        folder: where the run lies.
        partial: read from the journal of a run that was killed.
    """

    folder: Path
    partial: bool = False

    @override
    def __repr__(self) -> str:
        return f"Run({self.name!r}, seed={self.seed}, folder={str(self.folder)!r})"

    def _repr_html_(self) -> str:
        """What a notebook shows: the summary and the picture."""
        from evsim.results.displays import run_html

        return run_html(self)

    @cached_property
    def manifest(self) -> dict[str, Any]:
        """What produced the run and why it ended; of a killed run what its scenario and its journal tell."""
        path = self.folder / "manifest.json"
        if not self.partial or path.is_file():
            return _manifest(path)
        told = self.scenario_tables
        known = {"seed": told["seed"]} if "seed" in told else {}
        name, start = told.get("name", self.folder.name), parse_time_of_day(told.get("start", "00:00"))
        counts = {"server_steps": int(self.server_steps["applied"].sum()), "rounds": len(self.server_steps)}
        end = {"at": self._last_instant(), "reason": "killed"}
        return {"name": name, **known, "start_ms": start, "end": end, **counts}

    @cached_property
    def scenario_toml(self) -> str:
        """The resolved scenario; empty for a killed run that had not written it."""
        path = self.folder / "scenario.toml"
        try:
            return path.read_text(encoding="utf-8") if path.is_file() else ""
        except (OSError, UnicodeDecodeError) as error:
            raise _refused(path, str(error), "the scenario of a run") from error

    @cached_property
    def scenario_tables(self) -> dict[str, Any]:
        """The tables of the resolved scenario."""
        where = str(self.folder / "scenario.toml")
        return parse_toml(self.scenario_toml, where=where, what="the scenario of a run", raising=RunFolderError)

    @property
    def name(self) -> str:
        """The scenario's name."""
        return str(self.manifest["name"])

    @property
    def seed(self) -> int | None:
        """The seed; None where a killed run did not say."""
        return self.manifest.get("seed")

    @property
    def start_ms(self) -> int:
        """Time of day at which virtual time 0 falls, ms since midnight."""
        return int(self.manifest["start_ms"])

    @property
    def end_ms(self) -> int:
        """Virtual time at which the run ended, ms."""
        return int(self.manifest["end"]["at"])

    @property
    def format(self) -> int:
        """The format of the folder; 1 where it says none, as the first ones do."""
        return int(self.manifest.get("format", 1))

    @property
    def goal(self) -> Target | None:
        """The target of its scenario; None without one."""
        told = self.manifest.get("target")
        if told is not None:
            return Target(**told)
        accuracy = self.manifest.get("target_accuracy")  # as older runs tell it
        return None if accuracy is None else Target.of("accuracy", accuracy)

    @property
    def headline(self) -> str | None:
        """The metric to look at first: the target's, else the objective's; None if nothing is learnt."""
        told = self.evaluations.loc[self.evaluations["split"] == "test", "metric"].astype(str).unique().tolist()
        goal = self.goal
        wanted = [None if goal is None else goal.metric, self.manifest.get("headline"), "accuracy"]
        others = sorted(told, key="loss".__eq__)  # the loss last
        return next((name for name in [*wanted, *others] if name in told), None)

    @cached_property
    def missing(self) -> dict[str, tuple[str, ...]]:
        """Columns of today's tables that this folder lacks, by table; asking for one raises `RunFolderError`."""
        return {} if self.partial else missing_columns(self.folder)

    @cached_property
    def caveats(self) -> list[Caveat]:
        """What speaks against the run: what its manifest says, and what its tables show, once each."""
        told = [Caveat.from_json(each) for each in self.manifest.get("caveats", [])]
        known = {caveat.key for caveat in told if caveat.key}
        found = [*told, *(caveat for caveat in self._measured() if caveat.key not in known)]
        return found if self.partial else [*changed(self.folder, self.manifest, TABLES), *found]

    def lost_slots(self) -> tuple[float, int] | None:
        """Slots of a buffered run held by lost devices, time average, of how many; None for rounds."""
        return lost_slots(*self._facts())

    def _measured(self) -> list[Caveat]:
        return measured(*self._facts())

    def _facts(self) -> tuple[dict[str, pd.DataFrame], dict[str, Any], dict[str, Any]]:
        """What caveats are measured on; a folder without a table of who is online has an empty one."""
        nobody = pd.DataFrame({"at": [], "online": []})
        tables = {
            name: nobody if name in self.missing and name not in _NEEDED else self._by_name(name)
            for name in MEASURED_ON
        }
        return tables, self.manifest, self.scenario_tables

    def _by_name(self, name: str) -> pd.DataFrame:
        found: pd.DataFrame = getattr(self, name)
        return found

    @cached_property
    def tasks(self) -> pd.DataFrame:
        """One row per task."""
        return self._table("tasks")

    @cached_property
    def server_steps(self) -> pd.DataFrame:
        """One row per attempt of the server to improve the model, failed ones included."""
        return self._table("server_steps")

    @cached_property
    def evaluations(self) -> pd.DataFrame:
        """One row per metric of an evaluation (long form)."""
        return self._table("evaluations")

    @cached_property
    def client_evaluations(self) -> pd.DataFrame:
        """One row per metric, model version and client, if the scenario asked for them (long form)."""
        return self._table("client_evaluations")

    @cached_property
    def clients(self) -> pd.DataFrame:
        """One row per client."""
        return self._table("clients")

    @cached_property
    def availability(self) -> pd.DataFrame:
        """How many clients were online, on a regular grid."""
        return self._table("availability")

    @cached_property
    def sessions(self) -> pd.DataFrame:
        """Every check-in and check-out, if the scenario asked for them."""
        return self._table("sessions")

    @cached_property
    def selections(self) -> pd.DataFrame:
        """What the selector said of its choices, if the scenario asked for it (long form)."""
        return self._table("selections")

    @cached_property
    def changes(self) -> pd.DataFrame:
        """What actors did to the world."""
        return self._table("changes")

    @cached_property
    def energy(self) -> pd.DataFrame:
        """What each client's battery gave and took, if the world had batteries."""
        return self._table("energy")

    def events(self) -> pd.DataFrame:
        """Everything that the tables tell, a row each, in order: at, event, client, task, round, detail."""
        from evsim.results.events import events_of

        return events_of(self)

    def _table(self, name: str) -> pd.DataFrame:
        return read_table(self.folder, name, partial=self.partial)

    def _last_instant(self) -> int:
        """The latest instant that any table tells of."""
        tables = (self.tasks, self.server_steps, self.evaluations, self.availability)
        told = ("at", "dispatched_at", "ended_at", "known_at", "used_at", "closed_at")
        columns = [table[name] for table in tables for name in told if name in table.columns]
        return max((int(column.max()) for column in columns if column.notna().any()), default=0)

    # -- the learning curve -----------------------------------------------------------------------------------------

    def curve(self, metric: str | None = None, *, split: str = "test", final: bool = False) -> Curve:
        """A metric over virtual time.

        Args:
            metric: such as "accuracy" or "loss"; default: the headline.
            split: "test", or "clients" for the spread over clients.
            final: keep the evaluation at the run's end, which is off the grid.

        Raises:
            RunFolderError: if the run has no such metric.
        """
        rows, metric = self.evaluations, metric or self.headline or "accuracy"
        chosen = rows[(rows["metric"] == metric) & (rows["split"] == split)]
        if chosen.empty:
            raise self._no_metric(metric, split)
        if not final:
            chosen = chosen[chosen["trigger"] != "final"]
        return Curve(chosen["at"].to_numpy(), chosen["value"].to_numpy(), chosen["version"].to_numpy())

    def _no_metric(self, metric: str, split: str) -> RunFolderError:
        rows = self.evaluations
        known = rows.loc[rows["split"] == split, "metric"].astype(str).unique()
        why = suggest(metric, known) if len(known) else "the run has no evaluations: was it a dry run?"
        problem = Problem(f"{self.folder}: evaluations", f"no metric {metric!r} of split {split!r}", "", why)
        return RunFolderError(report([problem]))

    def time_to(
        self,
        metric: str = "accuracy",
        *,
        at_least: float | None = None,
        at_most: float | None = None,
        interpolate: bool = False,
        running_mean: int = 1,
    ) -> pd.Timedelta | None:
        """Virtual time until a metric first is at least, or at most, a value; None when it never is.

        The evaluation at the run's end does not count: it is off the grid, so it would favor runs that end early.

        Args:
            metric: of the test split, such as "accuracy" or "loss".
            at_least: the target, where larger is better.
            at_most: the target, where smaller is better; one of both is given.
            interpolate: linearly between the evaluation before the crossing and the crossing; never later than it.
            running_mean: average this many evaluations, the newest included; a crossing needs that many.

        Raises:
            RunFolderError: if the run has no such metric.
            PolicyError: if the target is impossible, or is the worse way of a known metric.
        """
        curve = self.curve(metric)
        target = Target(metric=metric, at_least=at_least, at_most=at_most)
        found = first_crossing(curve.smooth(running_mean), target, interpolate=interpolate)
        return None if found is None else pd.Timedelta(milliseconds=found)

    def time_to_accuracy(
        self, target: float, *, metric: str = "accuracy", interpolate: bool = False, running_mean: int = 1
    ) -> pd.Timedelta | None:
        """`time_to` in the metric's own direction: accuracy at least, loss at most.

        Raises:
            RunFolderError: if the run has no such metric.
            PolicyError: if the direction of the metric is not known, or the target is impossible.
        """
        self.curve(metric)  # a metric that is not there is told before its direction is asked for
        goal = Target.of(metric, target)
        return self.time_to(
            metric,
            at_least=goal.at_least,
            at_most=goal.at_most,
            interpolate=interpolate,
            running_mean=running_mean,
        )


def load_run(path: str | Path, *, partial: bool = False) -> Run:
    """A run folder.

    Args:
        path: of the folder.
        partial: accept a run that was killed: what its journal holds up to the last whole batch.

    Raises:
        RunFolderError: if the folder is no run, or was killed and `partial` was not asked for.
    """
    folder = Path(path)
    if not folder.is_dir():
        given = "a file" if folder.exists() else "no such folder"
        raise _refused(folder, given, "the folder of a run")
    if is_unfinished(folder):
        return Run(folder, partial=True) if partial else _raise_killed(folder)
    missing = [name for name in _files() if not (folder / name).is_file()]
    if missing:
        raise _refused(folder, f"no {missing[0]}", "the folder of a run", "evsim run SCENARIO --out DIR makes one")
    found = Run(folder)
    found.manifest  # noqa: B018  a broken manifest is reported here
    return found


def load_runs(pattern: str | Path) -> list[Run]:
    """All finished runs whose folder matches a pattern such as ``"runs/*"``, in order of their paths.

    Folders that hold no manifest are passed over.

    Raises:
        RunFolderError: if no run matches.
    """
    folders = [Path(each) for each in sorted(globbing.glob(str(pattern), recursive=True))]  # noqa: PTH207  Path.glob takes no absolute pattern
    found = [load_run(each) for each in folders if (each / "manifest.json").is_file() and not is_unfinished(each)]
    if not found:
        raise _refused(Path(pattern), "no finished run matches", "a pattern such as 'runs/*'")
    return found


def stack(runs: Sequence[Run], table: str) -> pd.DataFrame:
    """One table of many runs below each other, with the columns `run` (the folder's name) and `seed` in front.

    Raises:
        RunFolderError: if there is no such table.
    """
    if table not in TABLES:
        raise _refused(Path(table), "no such table", "a table of a run folder", suggest(table, TABLES))
    frames = []
    for run in runs:
        frame: pd.DataFrame = getattr(run, table).copy()
        frame.insert(0, "run", run.folder.name)
        frame.insert(1, "seed", run.seed)
        frames.append(frame)
    return pd.concat(frames, ignore_index=True).astype({"run": "category"})


def _files() -> list[str]:
    return ["manifest.json", *(f"{name}.parquet" for name in _NEEDED)]


def _manifest(path: Path) -> dict[str, Any]:
    found = load_json(path, what="the manifest of a run", raising=RunFolderError)
    if not {"name", "seed", "start_ms", "end"} <= set(found):
        raise _refused(path, "keys are missing", "the manifest of a run")
    end = found["end"]
    if not isinstance(end, dict) or not isinstance(end.get("at"), int) or not isinstance(end.get("reason"), str):
        raise _refused(path, f"end: {end!r}", "when and why the run ended: at, in ms, and reason")
    given = found.get("format", 1)
    if not isinstance(given, int) or given > FORMAT:
        told = f"format {given!r}, written by evsim {found.get('evsim', '?')}"
        raise _refused(path, told, f"format {FORMAT} or older", "read it with that evsim, or a newer one")
    return found


def _raise_killed(folder: Path) -> Run:
    rows = journal_rows(folder)
    counted = ", ".join(f"{count:,} {name}" for name, count in rows.items() if count) or "no rows"
    hint = f"load_run({str(folder)!r}, partial=True) reads them"
    raise _refused(folder, f"the run was killed; its journal holds {counted}", "a finished run", hint)


def _refused(where: Path, given: str, expected: str, hint: str = "") -> RunFolderError:
    return RunFolderError(report([Problem(str(where), given, expected, hint)]))
