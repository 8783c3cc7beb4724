"""Links whose rate was measured: files of (time, kbit/s)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import numpy as np
from typing_extensions import override

from evsim.base import registry, rng
from evsim.base.errors import TraceError, require
from evsim.base.units import format_duration
from evsim.base.vocabulary import FloatArray, IntArray
from evsim.cost.network import Network, Site, Way
from evsim.cost.series import Series


@final
@dataclass(frozen=True, kw_only=True)
class Traced(Network):
    """Every client has a measured series of rates; the integral over a transfer is exact.

    A download has the rate of the series; an upload is as much slower as the device's upload is than its download.
    Clients are dealt the series at random, by named draws, and begin each at a point of its own.

    Attributes:
        path: a file, or a folder of files.
        format: of the files; default: the one that recognizes them.
        repeat: whether a series begins again when it is over; else a transfer that needs more of it is an error.
        shift: whether each client begins at a point of its own; false: at midnight before the scenario starts.
    """

    path: str
    format: str | None = None
    repeat: bool = True
    shift: bool = True

    @override
    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.repeat or not self.shift, "a series that does not repeat cannot be shifted: set shift = false")

    @override
    def open(self, site: Site) -> Network:
        place = site.folder / Path(self.path).expanduser()
        if not place.exists():
            raise TraceError(f"network.path: {self.path!r}: no such file or folder; looked for {place.resolve()}")
        series = Series.of(list(_read(place, self.format, site.folder)))
        everyone = np.arange(site.speed.n_devices)
        dealt, shift = (rng.uniform(rng.key(site.seed, "network", name), everyone) for name in ("series", "shift"))
        of = (dealt * series.n_series).astype(np.int64)
        return _Dealt(
            latency=self.latency,
            series=series,
            of=of,
            shift=shift * series.period[of] * self.shift,
            nominal=site.speed.download_kbps,
            repeat=self.repeat,
        )

    @override
    def lasts_ms(self, way: Way, clients: IntArray, begin: IntArray, alone: FloatArray) -> FloatArray:
        raise TraceError("a network of measured series must be opened first")

    @override
    def done_ms(self, way: Way, clients: IntArray, begin: IntArray, spent: FloatArray) -> FloatArray:
        raise TraceError("a network of measured series must be opened first")


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class _Dealt(Network):
    """`Traced`, its files read: the series of each client, where it begins in it, and its nominal download rate."""

    series: Series
    of: IntArray
    shift: FloatArray
    nominal: FloatArray
    repeat: bool

    @override
    def lasts_ms(self, way: Way, clients: IntArray, begin: IntArray, alone: FloatArray) -> FloatArray:
        of, start = self.of[clients], begin + self.shift[clients]
        took = self.series.duration(of, start, alone * self.nominal[clients])
        if not self.repeat:
            over = start + took > self.series.period[of]
            if over.any():
                row = int(np.flatnonzero(over)[0])
                end = format_duration(float(self.series.period[of[row]]))
                raise TraceError(
                    f"network.path: the series of client {int(clients[row])} ends after {end}, in the middle of a "
                    "transfer; set network.repeat = true, or give a longer series"
                )
        return took

    @override
    def done_ms(self, way: Way, clients: IntArray, begin: IntArray, spent: FloatArray) -> FloatArray:
        amount = self.series.amount(self.of[clients], begin + self.shift[clients], spent)
        return np.asarray(amount / self.nominal[clients])


def _read(place: Path, kind: str | None, folder: Path) -> Iterator[tuple[FloatArray, FloatArray, float]]:
    """Knots (ms), rates (kbit/s) and length (ms) of every series in a file or folder, in order of the names."""
    kind = _recognize(place) if kind is None else kind
    reader: Any = registry.load("rate_format", kind, folder)
    read = getattr(reader, "read", reader)
    for name, at, kbps, end in read(place):
        try:
            Series.of([(at, kbps, end)])
        except TraceError as error:
            raise TraceError(f"{name}: {error}") from error
        yield at, kbps, end


def _recognize(place: Path) -> str:
    kinds = registry.entries("rate_format")
    for kind in kinds:
        sniff = getattr(registry.load("rate_format", kind), "sniff", None)
        if sniff is not None and sniff(place):
            return kind
    known = ", ".join(kinds)
    raise TraceError(f"{place}: no series of rates of a known format; say which with network.format (known: {known})")
