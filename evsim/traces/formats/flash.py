"""FLASH's raw events (``state_traces.json``) and the cache of ready intervals its code writes (``cached_timers.json``).

Yang et al., Characterizing Impacts of Heterogeneity in Federated Learning upon Large-Scale Smartphone Data, WWW 2021.
The clock of both is the phone's local time, so hours of the day are kept: times count from a midnight, and each device
repeats after the whole days for which it was observed.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, final

import numpy as np

from evsim.base.casts import whole
from evsim.base.caveat import Caveat
from evsim.base.errors import TraceError, suggest
from evsim.base.units import LONGEST, MS_PER_DAY, MS_PER_MINUTE, MS_PER_SECOND
from evsim.base.vocabulary import IntArray
from evsim.traces.availability import AvailabilityTrace
from evsim.traces.formats._events import ready_intervals
from evsim.traces.formats._files import head, looks_like_json, read_json_object

if TYPE_CHECKING:
    from pathlib import Path

    from evsim.traces.speed import DeviceSpeed

Rule = Literal["locked_charging_wifi", "screen_off_charging_wifi", "any_idle", "charging"]

#: What "ready" means: every group must hold, and of a group any one state. Second entry: shortest interval kept, ms.
RULES: dict[str, tuple[tuple[tuple[str, ...], ...], int]] = {
    "locked_charging_wifi": ((("locked",), ("charging",), ("wifi",)), 0),  # FLASH's own
    "screen_off_charging_wifi": ((("screen_off",), ("charging",), ("wifi",)), 0),  # FMCL convergence study (E5)
    "any_idle": ((("screen_off", "locked"), ("charging",), ("wifi",)), MS_PER_MINUTE),
    "charging": ((("charging",),), 0),  # FedScale's
}


@final
@dataclass(frozen=True)
class _Observed:
    """Ready intervals of one device and the time for which it was observed, in ms since a midnight."""

    intervals: IntArray  # (m, 2)
    begin: int = 0
    days: int = 1


_NEVER = _Observed(np.empty((0, 2), np.int64))


def sniff(path: Path) -> bool:
    """Whether the path is one of the two files."""
    begin = head(path)
    return looks_like_json(path) and (b'"messages"' in begin or b'"isSuccess"' in begin)


def read_availability(
    path: Path,
    rule: Rule = "locked_charging_wifi",
    never_ready: Literal["keep", "drop"] = "keep",
) -> AvailabilityTrace:
    """The availability in ``state_traces.json`` or ``cached_timers.json``.

    A device that was never ready, whose log cannot be read or covers less than a day is never online. An interval that
    is still open when the log ends lasts until then.

    Args:
        path: either file, also gzipped.
        rule: what "ready" means; ``cached_timers.json`` was made with the default and knows no other.
        never_ready: "keep" devices without any interval as never online, or "drop" them.

    Raises:
        TraceError: if the file or an option is not as described.
    """
    if not isinstance(rule, str) or rule not in RULES:
        raise TraceError(f"rule {rule!r}; {suggest(str(rule), RULES)}")
    if never_ready not in ("keep", "drop"):
        raise TraceError(f"never_ready {never_ready!r}; expected 'keep' or 'drop'")
    records = read_json_object(path)
    trace = _trace([_observe(path, name, record, rule) for name, record in records.items()], list(records))
    return trace if never_ready == "keep" else _without_never_ready(path, trace)


def read_speed(path: Path) -> DeviceSpeed:
    """FLASH's traces hold no speeds."""
    raise TraceError(f"{path}: FLASH's state traces hold no device speeds; expected a file of speeds")


def _without_never_ready(path: Path, trace: AvailabilityTrace) -> AvailabilityTrace:
    """The devices that have intervals: what is left once logs under a day and empty intervals are out."""
    ready = np.flatnonzero(np.diff(trace.offsets) > 0)
    if not len(ready):
        raise TraceError(f"{path}: no device is ever ready; expected at least one with never_ready = 'drop'")
    if len(ready) == trace.n_devices:
        return trace
    gone = Caveat(
        "dropped_devices",
        "devices that are never ready were left out of the trace: those that are left are online more than all are",
        f"{trace.n_devices - len(ready)} of {trace.n_devices} devices",
        "never_ready = 'keep' keeps them",
    )
    return replace(trace.take(ready), caveats=(*trace.caveats, gone))


def _observe(path: Path, name: str, record: Any, rule: Rule) -> _Observed:
    if isinstance(record, dict) and "messages" in record:
        groups, shortest = RULES[rule]
        return _from_events(record["messages"], groups, shortest)
    if isinstance(record, dict) and "isSuccess" in record:
        if rule != "locked_charging_wifi":
            raise TraceError(f"{path}: holds intervals of rule 'locked_charging_wifi'; rule {rule!r} needs raw events")
        return _from_timer(path, name, record)
    raise TraceError(f"{path}: device {name!r}: expected a record with 'messages' or 'isSuccess'")


def _from_timer(path: Path, name: str, record: dict[str, Any]) -> _Observed:
    if not record["isSuccess"]:
        return _NEVER
    try:
        ends = np.asarray([record[field] for field in ("trace_start", "trace_end")], dtype=np.float64).reshape(2)
        seconds = np.asarray(record["ready_time"], dtype=np.float64).reshape(-1, 2)
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise TraceError(
            f"{path}: device {name!r}: expected trace_start, trace_end and ready_time in seconds ({error!r})"
        ) from error

    def refuse(row: int) -> TraceError:
        what = "trace_start and trace_end" if row < len(ends) else "ready_time"
        return TraceError(f"{path}: device {name!r}: {what} must be finite numbers of seconds since a midnight")

    times = whole(np.concatenate([ends, seconds.ravel()]) * MS_PER_SECOND, refuse, least=-LONGEST, most=LONGEST)
    begin, end = times[:2].tolist()
    return _Observed(times[2:].reshape(-1, 2), begin, (end - begin) // MS_PER_DAY)


def _from_events(messages: Any, groups: tuple[tuple[str, ...], ...], shortest: int) -> _Observed:
    lines = messages.split("\n") if isinstance(messages, str) else messages
    if not isinstance(lines, list) or not all(isinstance(line, str) for line in lines):
        return _NEVER
    found = ready_intervals(lines, groups)
    if found is None:
        return _NEVER
    intervals, begin, end = found
    kept = (intervals[:, 1] - intervals[:, 0] >= shortest) & (intervals[:, 1] > intervals[:, 0])
    return _Observed(intervals[kept], begin, (end - begin) // MS_PER_DAY)


def _trace(observed: list[_Observed], names: list[str]) -> AvailabilityTrace:
    observed = [device if device.days >= 1 else _NEVER for device in observed]
    counts = [len(device.intervals) for device in observed]
    of = np.repeat(np.arange(len(observed)), counts)
    start, stop = np.concatenate([np.empty((0, 2), np.int64), *(device.intervals for device in observed)]).T
    period = np.array([device.days * MS_PER_DAY for device in observed], np.int64)
    begin = np.array([device.begin for device in observed], np.int64)[of]
    end = begin + period[of]
    if (odd := np.flatnonzero((stop < start) | (start < begin))).size:
        row = int(odd[0])
        raise TraceError(
            f"device {names[of[row]]!r}: ready interval [{start[row]}, {stop[row]}) ms is reversed or before the trace"
        )
    stop = np.minimum(stop, end)  # beyond the last whole day
    inside = start < end
    of, start, stop = of[inside], start[inside], stop[inside]
    first = start % period[of]
    return AvailabilityTrace.from_intervals(
        of, first, first + stop - start, n_devices=len(names), period=period, names=names
    )
