"""evsim's own trace: a folder with two Parquet tables and a manifest.

- ``availability.parquet``: device, start_ms, stop_ms; one row per interval.
- ``devices.parquet``: device, and where known name, period_ms, compute_ms_per_sample, download_kbps, upload_kbps,
  latency_ms, and further columns of numbers.
- ``manifest.json``: format, version, counts, units, jitters, caveats, where it comes from, size and SHA-256 of both
  tables. Version 1 knows no names and no latency; it is written where there are none, and read.

Files are replaced one by one, the manifest last: a folder written half is refused by its checksums.
"""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import replace
from io import BytesIO
from typing import TYPE_CHECKING, Any

import numpy as np

from evsim.base.caveat import Caveat
from evsim.base.errors import Problem, TraceError, report
from evsim.traces._names import Names, as_column_names
from evsim.traces.availability import AvailabilityTrace
from evsim.traces.formats._files import read_json_object
from evsim.traces.speed import DeviceSpeed

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    import pyarrow as pa

    from evsim.base.vocabulary import IntArray

FORMAT = "evsim-trace"
VERSIONS = (1, 2)
MANIFEST = "manifest.json"

_INTERVALS = "availability.parquet"
_DEVICES = "devices.parquet"
_RATES = ("compute_ms_per_sample", "download_kbps", "upload_kbps")
_MOST_ROWS = 500_000_000
_SINCE_2 = ("name", "latency_ms")
_UNITS = {
    "start_ms": "ms since midnight of the first day; the device is online from here",
    "stop_ms": "ms; the device is offline from here; beyond period_ms the interval goes on at 0",
    "period_ms": "ms after which the device repeats",
    "compute_ms_per_sample": "ms, forward pass of one sample",
    "download_kbps": "kbit/s",
    "upload_kbps": "kbit/s",
    "latency_ms": "ms, added to each transfer",
    "name": "what the source calls the device",
}


def sniff(path: Path) -> bool:
    """Whether the path is a folder of this format."""
    return (path / MANIFEST).is_file()


def write(
    folder: Path,
    *,
    availability: AvailabilityTrace | None = None,
    speed: DeviceSpeed | None = None,
    about: Mapping[str, object] | None = None,
    replace: bool = False,
) -> None:
    """Write a trace folder.

    Args:
        folder: made if it is not there.
        availability: of the devices.
        speed: of the same devices.
        about: further lines of the manifest, such as source and license.
        replace: whether a trace that is there already may be replaced.

    Raises:
        TraceError: if there is a trace already, nothing to write, or the two are not of the same devices.
    """
    tables = _tables(availability, speed)
    if sniff(folder) and not replace:
        raise TraceError(f"{folder}: a trace is there already; expected a new folder")
    version = 2 if set(_SINCE_2) & set(tables[_DEVICES].column_names) else 1
    manifest = {"format": FORMAT, "version": version, **(about or {}), **_facts(availability, speed)}
    files = {}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, table in tables.items():
            content = _parquet(table)
            _replace(folder / name, content)
            files[name] = {"sha256": _sha256(content), "bytes": len(content), "rows": table.num_rows}
        text = json.dumps({**manifest, "units": _UNITS, "files": files}, indent=2) + "\n"
        _replace(folder / MANIFEST, text.encode())
    except OSError as error:
        raise TraceError(f"{folder}: cannot be written: {error}") from error


def read_availability(path: Path) -> AvailabilityTrace:
    """The availability in a trace folder.

    Raises:
        TraceError: if the manifest is not one, or a table is missing, truncated, altered or lacks a column.
    """
    manifest = _manifest(path)
    devices = _columns(path, manifest, _DEVICES, ("device", "period_ms"), ("name",))
    rows = _columns(path, manifest, _INTERVALS, ("device", "start_ms", "stop_ms"))
    n = _device_count(path, devices["device"])
    trace = AvailabilityTrace.from_intervals(
        rows["device"],
        rows["start_ms"],
        rows["stop_ms"],
        n_devices=n,
        period=devices["period_ms"],
        names=devices.get("name"),
    )
    return replace(
        trace,
        merged=trace.merged + _count(manifest, "merged"),
        dropped=trace.dropped + _count(manifest, "dropped"),
        caveats=_caveats(path, manifest, "availability_caveats"),
    )


def read_speed(path: Path, columns: Sequence[str] = ()) -> DeviceSpeed:
    """The device speeds in a trace folder.

    Args:
        path: the folder.
        columns: further columns of numbers to read, such as the work of each device.

    Raises:
        TraceError: as `read_availability`.
    """
    manifest, asked_for = _manifest(path), as_column_names(columns)
    found = _columns(path, manifest, _DEVICES, ("device", *_RATES, *asked_for), _SINCE_2)
    n = _device_count(path, found["device"])
    return DeviceSpeed(
        **{name: found[name] for name in _RATES},
        latency_ms=found.get("latency_ms", np.zeros(n)),
        names=found.get("name"),
        more={name: np.asarray(found[name], np.float64) for name in asked_for},
        caveats=_caveats(path, manifest, "speed_caveats"),
        compute_jitter=_jitter(path, manifest, "compute_jitter"),
        network_jitter=_jitter(path, manifest, "network_jitter"),
    )


def _tables(availability: AvailabilityTrace | None, speed: DeviceSpeed | None) -> dict[str, pa.Table]:
    import pyarrow as pa

    sizes = {part.n_devices for part in (availability, speed) if part is not None}
    if len(sizes) != 1:
        given = f"devices: {sorted(sizes)}" if sizes else "neither availability nor speed"
        raise TraceError(f"{given}; expected one number of devices for availability and speed")
    columns: dict[str, Any] = {"device": np.arange(sizes.pop(), dtype=np.int32)}
    if (names := _common_names(availability, speed)) is not None:
        columns["name"] = pa.array(names, pa.string())
    tables = {}
    if availability is not None:
        of = np.repeat(columns["device"], np.diff(availability.offsets))
        tables[_INTERVALS] = pa.table({"device": of, "start_ms": availability.starts, "stop_ms": availability.stops})
        columns["period_ms"] = availability.period
    if speed is not None:
        columns |= {name: getattr(speed, name) for name in _RATES}
        if speed.latency_ms.any():
            columns["latency_ms"] = speed.latency_ms
        columns |= {name: column for name, column in speed.more.items() if name not in columns}
    return {**tables, _DEVICES: pa.table(columns)}


def _common_names(availability: AvailabilityTrace | None, speed: DeviceSpeed | None) -> Names | None:
    """The names of the devices; both parts, if both have names, must have the same."""
    found = [part.names for part in (availability, speed) if part is not None and part.names is not None]
    if len(found) == 2 and (differing := np.flatnonzero(found[0] != found[1])).size:  # noqa: PLR2004  both parts
        device = int(differing[0])
        raise TraceError(
            f"device {device} is {found[0][device]!r} in availability and {found[1][device]!r} in speed; "
            "expected the same devices in one order"
        )
    return found[0] if found else None


def _facts(availability: AvailabilityTrace | None, speed: DeviceSpeed | None) -> dict[str, object]:
    facts: dict[str, object] = {}
    if availability is not None:
        facts |= {"devices": availability.n_devices, "intervals": availability.n_intervals}
        facts |= {"merged": availability.merged, "dropped": availability.dropped}
        facts |= {"availability_fingerprint": availability.fingerprint()}
        facts |= _stated("availability_caveats", availability.caveats)
    if speed is not None:
        facts |= {"devices": speed.n_devices, "compute_jitter": speed.compute_jitter}
        facts |= {"network_jitter": speed.network_jitter, "speed_fingerprint": speed.fingerprint()}
        facts |= _stated("speed_caveats", speed.caveats)
    return facts


def _stated(name: str, caveats: tuple[Caveat, ...]) -> dict[str, object]:
    return {name: [caveat.to_json() for caveat in caveats]} if caveats else {}


def _parquet(table: pa.Table) -> bytes:
    import pyarrow.parquet as pq

    content = BytesIO()
    pq.write_table(table, content, compression="zstd", compression_level=9)
    return content.getvalue()


def _replace(path: Path, content: bytes) -> None:
    passing = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        passing.write_bytes(content)
        passing.replace(path)
    finally:
        passing.unlink(missing_ok=True)


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _manifest(path: Path) -> dict[str, Any]:
    where = path / MANIFEST
    if not where.is_file():
        raise TraceError(f"{where}: no such file; expected a trace folder with {MANIFEST}")
    manifest = read_json_object(where)
    problems = []
    if manifest.get("format") != FORMAT:
        problems.append(Problem("format", repr(manifest.get("format")), repr(FORMAT)))
    if manifest.get("version") not in VERSIONS:
        hint = "a newer evsim wrote it" if isinstance(manifest.get("version"), int) else ""
        problems.append(Problem("version", repr(manifest.get("version")), "1 or 2", hint))
    files = manifest.get("files")
    if not isinstance(files, dict) or not all(_is_entry(entry) for entry in files.values()):
        problems.append(Problem("files", repr(files)[:80], "a table of file names, each with its sha256"))
    elif unknown := sorted(set(files) - {_INTERVALS, _DEVICES}):  # so that no name can lead out of the folder
        problems.append(Problem("files", ", ".join(map(repr, unknown)), f"{_INTERVALS} and {_DEVICES} only"))
    if problems:
        raise TraceError(f"{where}: {report(problems)}")
    return manifest


def _is_entry(entry: object) -> bool:
    return isinstance(entry, dict) and isinstance(entry.get("sha256"), str)


def _columns(
    path: Path, manifest: dict[str, Any], name: str, wanted: tuple[str, ...], optional: tuple[str, ...] = ()
) -> dict[str, Any]:
    """The wanted columns of one table as arrays, and optional ones it has, after its checksum was found right."""
    if name not in manifest["files"]:
        raise TraceError(f"{path}: holds no {name}; this trace has {', '.join(sorted(manifest['files']))}")
    content = _checked(path / name, manifest["files"][name]["sha256"])
    table = _table(path / name, content)
    missing = [column for column in wanted if column not in table.column_names]
    if missing:
        raise TraceError(f"{path / name}: lacks {', '.join(missing)}; it has {', '.join(table.column_names)}")
    wanted = (*wanted, *(column for column in optional if column in table.column_names))
    if odd := [column for column in wanted if not _is_usable(column, table[column].type)]:
        given = ", ".join(f"{column} of {table[column].type}" for column in odd)
        raise TraceError(f"{path / name}: {given}; expected numbers, and text for names")
    if holes := [column for column in wanted if table[column].null_count]:
        raise TraceError(f"{path / name}: empty cells in {', '.join(holes)}; expected a number in each row")
    return {column: table[column].to_numpy() for column in wanted}


def _is_usable(column: str, kind: pa.DataType) -> bool:
    import pyarrow as pa

    if column == "name":
        return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))
    return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind))


def _checked(path: Path, expected: str) -> bytes:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise TraceError(f"{path}: cannot be read: {error}") from error
    if _sha256(content) != expected:
        raise TraceError(
            f"{path}: sha256 {_sha256(content)}, {len(content)} bytes; expected {expected}; "
            "the file is truncated or altered: fetch or generate the trace again"
        )
    return content


def _table(path: Path, content: bytes) -> pa.Table:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        rows = pq.read_metadata(pa.BufferReader(content)).num_rows  # few bytes may stand for many rows
        if rows > _MOST_ROWS:
            raise TraceError(f"{path}: {rows} rows; expected at most {_MOST_ROWS}")
        # on this thread: one that reads ahead may abort a process that ends in an error right afterwards
        return pq.ParquetFile(pa.BufferReader(content), pre_buffer=False).read(use_threads=False)
    except (pa.ArrowException, OSError) as error:
        raise TraceError(f"{path}: not readable as Parquet: {error}") from error


def _device_count(path: Path, devices: IntArray) -> int:
    if not np.array_equal(devices, np.arange(len(devices))):
        raise TraceError(f"{path / _DEVICES}: devices are not numbered 0, 1, 2, ... in order")
    return len(devices)


def _count(manifest: dict[str, Any], name: str) -> int:
    value = manifest.get(name, 0)
    return value if isinstance(value, int) else 0


def _caveats(path: Path, manifest: dict[str, Any], name: str) -> tuple[Caveat, ...]:
    given = manifest.get(name, [])
    try:
        return tuple(Caveat.from_json(each) for each in given)
    except TypeError as error:
        raise TraceError(f"{path / MANIFEST}: {name}: {str(given)[:80]}; expected a list of caveats") from error


def _jitter(path: Path, manifest: dict[str, Any], name: str) -> float:
    value = manifest.get(name, 0.0)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TraceError(f"{path / MANIFEST}: {name} is {value!r}; expected a number")
    return float(value)
