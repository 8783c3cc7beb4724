"""What speaks against a comparison: against its runs, each once with how many it concerns, and against itself."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from statistics import median
from typing import Any, final

from typing_extensions import override

from evsim.base.caveat import Caveat
from evsim.base.units import format_duration
from evsim.results.arms import Arms
from evsim.results.comparable import flat, seed_of
from evsim.results.comparison import twins
from evsim.results.curves import Crossing
from evsim.results.intervals import ENOUGH
from evsim.results.run import Run

_SHOWN = 6  # missing runs
_TENTH = 0.1  # of the time found: a coarser rounding is worth a word
_NO_DIFFERENCE = frozenset({"seed", "name", "algorithm", "executor"})  # algorithm is short for other tables


@final
@dataclass(frozen=True)
class Counted:
    """A caveat and how many runs it concerns.

    Attributes:
        caveat: with the measure of the first of them.
        runs: how many have it; 0: it is one of the comparison.
        of: how many there are.
    """

    caveat: Caveat
    runs: int = 0
    of: int = 0

    @override
    def __str__(self) -> str:
        if self.runs == 0:
            return str(self.caveat)
        first = ", the measure is the first's" if self.caveat.measure and self.runs > 1 else ""
        return f"{self.caveat} [{self.runs} of {self.of} runs{first}]"


def comparison_caveats(arms: Arms) -> list[Counted]:
    """Every caveat of a comparison: its own first, then those of its runs."""
    own = [Counted(caveat) for check in _CHECKS for caveat in check(arms)]
    return [*own, *counted([run for runs in arms.runs.values() for run in runs])]


def counted(runs: Sequence[Run]) -> list[Counted]:
    """The caveats of runs, once each, most common first."""
    found: dict[str, list[Caveat]] = {}
    for run in runs:
        for caveat in run.caveats:
            found.setdefault(caveat.key or caveat.text, []).append(caveat)
    ordered = sorted(found.values(), key=len, reverse=True)  # stable: worst kinds first among equals
    return [Counted(caveats[0], len(caveats), len(runs)) for caveats in ordered]


# -- seeds and pairs ---------------------------------------------------------------------------------------------------


def _unfinished(arms: Arms) -> Iterator[Caveat]:
    """What is there may be the runs that are quick: no fair sample."""
    if arms.missing:
        shown = ", ".join(map(str, arms.missing[:_SHOWN]))
        more = f" and {len(arms.missing) - _SHOWN} more" if len(arms.missing) > _SHOWN else ""
        done = sum(len(runs) for runs in arms.runs.values())
        yield Caveat(
            "unfinished_study",
            "the study is not finished: what is missing may differ from what is there",
            f"{len(arms.missing)} of {done + len(arms.missing)} runs missing: {shown}{more}",
            "evsim sweep goes on with it",
        )


def _few_seeds(arms: Arms) -> Iterator[Caveat]:
    fewest = min(len(runs) for runs in arms.runs.values())
    if fewest < ENOUGH:
        yield Caveat(
            "few_seeds",
            f"fewer than {ENOUGH} seeds: intervals are wide, and rest on the assumption that logarithms of times are "
            "normal",
            "1 seed has no interval" if fewest == 1 else f"{fewest} seeds",
            f"run {ENOUGH} seeds or more, 10 for a paper",
        )


def _unpaired(arms: Arms) -> Iterator[Caveat]:
    seeds = {arm: {seed_of(run) for run in runs} for arm, runs in arms.runs.items()}
    common = set.intersection(*seeds.values())
    if any(each != common for each in seeds.values()):
        yield Caveat(
            "unpaired_seeds",
            "arms have different seeds: speed-ups use those in common with the baseline only",
            f"{len(common)} of {len(set.union(*seeds.values()))} seeds in common",
            "run the same seeds in every arm",
        )


# -- what is the same, and what the grid cannot tell -------------------------------------------------------------------


def _same(arms: Arms) -> Iterator[Caveat]:
    """Arms that are the same row by row, and arms that only the grid makes equal; every two, not the baseline alone."""
    identical, equal = [], dict[str, str]()
    for one, other in combinations(arms.runs, 2):
        base, own = arms.crossings[one], arms.crossings[other]
        seeds = [seed for seed in base if seed in own]
        alike = [seed for seed in seeds if _at(base[seed]) == _at(own[seed])]
        if 2 * len(alike) <= len(seeds):
            continue
        if len(alike) == len(seeds) and all(twins(arms, other, one, seeds)):
            identical.append(f"{other} and {one}")
        elif any(base[seed] is not None for seed in alike):
            equal[f"{other} and {one}"] = f"{len(alike)} of {len(seeds)} seeds"
    if identical:
        yield Caveat(
            "identical_runs",
            f"runs are the same row by row, their difference has no effect: {'; '.join(identical)}",
            "",
            "look whether the selector had a choice, and whether the method uses what differs",
        )
    if equal:
        yield Caveat(
            "equal_on_grid",
            f"arms cross at the same evaluations, what lies between is not seen: {'; '.join(equal)}",
            ", ".join(dict.fromkeys(equal.values())),
            "evaluate more often with evaluation.every",
        )


def _at(crossing: Crossing | None) -> int | None:
    return None if crossing is None else crossing.at


def _coarse_grid(arms: Arms) -> Iterator[Caveat]:
    """The running mean crosses up to its own length late, and times are rounded up to the grid."""
    coarse: dict[str, tuple[float, float]] = {}
    for arm, crossings in arms.crossings.items():
        known = [each for each in crossings.values() if each is not None and each.at > 0]
        if known:
            coarse[arm] = median(each.window_ms for each in known), median(each.at for each in known)
    worst = max(coarse, key=lambda arm: coarse[arm][0] / coarse[arm][1], default=None)
    if worst is None or coarse[worst][0] <= _TENTH * coarse[worst][1]:
        return
    window, at = coarse[worst]
    spacing = window / max(arms.running_mean, 1)
    yield Caveat(
        "coarse_grid",
        f"evaluations are too far apart for the times found: {_spacings(arms.running_mean)} a tenth of them",
        f"{format_duration(window)} of {format_duration(at)} for {worst}",
        f"evaluation.every of {format_duration(_rounded(spacing * _TENTH * at / window))} or less",
    )


def _spacings(count: int) -> str:
    return "one spacing exceeds" if count <= 1 else f"{count} spacings exceed"


def _rounded(ms: float) -> float:
    """Down to whole minutes, or seconds below one."""
    unit = 60_000 if ms >= 60_000 else 1_000  # noqa: PLR2004  a minute
    return max(ms // unit, 1) * unit


def _reached_at_once(arms: Arms) -> Iterator[Caveat]:
    runs = [run for group in arms.runs.values() for run in group]
    curves = [run.curve(arms.metric) for run in runs]
    count = sum(len(each.value) > 0 and bool(arms.goal.reached(each.value[0])) for each in curves)
    if count:
        yield Caveat(
            "reached_untrained",
            f"the first evaluation is at {arms.goal} already: a time to it says nothing about training",
            f"{count} of {len(runs)} runs",
            "choose a harder target",
        )


# -- what else differs -------------------------------------------------------------------------------------------------


def _other_keys(arms: Arms) -> Iterator[Caveat]:
    """Arms of a study whose scenarios differ in more than the overrides that make them."""
    first = next(iter(arms.runs))
    told = {arm: runs[0].scenario_tables for arm, runs in arms.runs.items() if arm in arms.overrides}
    for arm, tables in told.items():
        if arm != first and first in told:
            named = {_key(text) for which in (arm, first) for text in arms.overrides[which]}
            keys = unsaid(told[first], tables, named)
            if keys:
                yield Caveat(
                    "differs_in_more",
                    f"{arm} differs from {first} in more than its overrides say",
                    "; ".join(keys),
                    "set these keys alike in both arms, or name them in the arm",
                )


def unsaid(base: Mapping[str, Any], other: Mapping[str, Any], named: set[str]) -> list[str]:
    """Keys of two resolved scenarios that differ though no override names them, with both values.

    A kind that was chosen brings options of its own; an option that both kinds have is another matter: where a new kind
    fell back to a default, the arms differ in it too.
    """
    mine, theirs = flat(base, _NO_DIFFERENCE), flat(other, _NO_DIFFERENCE)
    differ = [key for key in sorted({*mine, *theirs}) if mine.get(key) != theirs.get(key)]
    by_name = "algorithm" in named
    chosen = {key for key in differ if key.endswith("kind") and (by_name or _named(key, named))}
    free = [key for key in differ if not _named(key, named) and key not in chosen]
    return [
        f"{key} is {theirs.get(key, 'unset')}, not {mine.get(key, 'unset')}"
        for key in free
        if not (_table(key) + "kind" in chosen and _is_own(key, mine, theirs)) and not (by_name and key == "upload")
    ]


def _table(key: str) -> str:
    return key[: key.rfind(".") + 1]


def _is_own(key: str, mine: Mapping[str, Any], theirs: Mapping[str, Any]) -> bool:
    """Whether an option is of one kind only; step sizes of server optimizers are not comparable between kinds."""
    return not (key in mine and key in theirs) or key.startswith("server_optimizer.")


def _key(override: str) -> str:
    return override.partition("=")[0].strip()


def _named(key: str, named: set[str]) -> bool:
    """Whether an override says what `key` is: it names it, a table above it, or one below."""
    return any((key + ".").startswith(name + ".") or (name + ".").startswith(key + ".") for name in named)


def _other_world(arms: Arms) -> Iterator[Caveat]:
    """Runs of one seed should have met the same devices, unless their population differs by name."""
    by_seed: dict[tuple[Any, str], set[Any]] = {}
    versions: set[Any] = set()
    for run in (run for runs in arms.runs.values() for run in runs):
        told = run.scenario_tables
        world = {key: told.get(key) for key in ("population", "start", "data")}
        by_seed.setdefault((run.seed, repr(world)), set()).add(run.manifest.get("trace_hash"))
        versions.add(run.manifest.get("evsim"))
    if any(len(hashes) > 1 for hashes in by_seed.values()):
        yield Caveat(
            "other_traces",
            "runs of one seed and one population met other devices: a trace file changed between them",
            f"{sum(len(hashes) > 1 for hashes in by_seed.values())} seeds",
            "run all arms again on one trace",
        )
    if len(versions) > 1:
        listed = ", ".join(sorted(map(str, versions)))
        yield Caveat("other_versions", "runs come from several versions of evsim", listed, "run all arms with one")


_CHECKS: tuple[Callable[[Arms], Iterator[Caveat]], ...] = (
    _unfinished,
    _few_seeds,
    _same,
    _coarse_grid,
    _reached_at_once,
    _unpaired,
    _other_keys,
    _other_world,
)
