"""How fast devices compute and communicate."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, final

import numpy as np

from evsim.base.caveat import Caveat
from evsim.base.errors import TraceError
from evsim.base.vocabulary import FloatArray, IntArray
from evsim.traces._names import Names, as_names, called

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

_REFERENCE_SAMPLES = 1_200  # 20 steps of 20 samples, forward and backward (factor 3)
_REFERENCE_KBIT = 80_000  # 10 MB each way
_COLUMNS = ("compute_ms_per_sample", "download_kbps", "upload_kbps", "latency_ms")
_MOST_JITTER = 10.0  # of the log: factors of e^10 either way at one standard deviation


@final
@dataclass(frozen=True, eq=False)
class DeviceSpeed:
    """Compute cost and link rates of `n` devices.

    The jitters are the standard deviation of the logarithm of a factor of median 1, drawn for each task.

    >>> DeviceSpeed.uniform(2, compute_ms_per_sample=20, download_kbps=5000, upload_kbps=2000).upload_kbps.tolist()
    [2000.0, 2000.0]

    Attributes:
        compute_ms_per_sample: forward pass of one sample, ms, (n,).
        download_kbps: kbit/s, (n,).
        upload_kbps: kbit/s, (n,).
        compute_jitter: for the computation.
        network_jitter: for the transfers.
        latency_ms: added to each transfer after jitter, ms, (n,); one number stands for all.
        names: what the file calls the devices, (n,); None if it only numbers them. No part of the fingerprint.
        caveats: what reading the file had to assume.
        more: further columns of numbers that the scenario asked for, by name, (n,) each; NaN: an empty cell.
    """

    compute_ms_per_sample: FloatArray
    download_kbps: FloatArray
    upload_kbps: FloatArray
    compute_jitter: float = 0.0
    network_jitter: float = 0.0
    latency_ms: FloatArray = field(default_factory=lambda: np.zeros(1))
    names: Names | None = None
    caveats: tuple[Caveat, ...] = ()
    more: Mapping[str, FloatArray] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in _COLUMNS:
            column = np.array(getattr(self, name), dtype=np.float64, ndmin=1)
            if name == "latency_ms" and len(column) == 1:
                column = np.repeat(column, self.n_devices)
            column.flags.writeable = False
            object.__setattr__(self, name, column)
        self._check_lengths()
        object.__setattr__(self, "names", as_names(self.names, self.n_devices))
        for name in _COLUMNS:
            _check_column(name, getattr(self, name), self.names, zero_allowed=not name.endswith("kbps"))
        for name in ("compute_jitter", "network_jitter"):
            _check_jitter(name, getattr(self, name))

    @classmethod
    def uniform(cls, n: int, *, compute_ms_per_sample: float, download_kbps: float, upload_kbps: float) -> DeviceSpeed:
        """`n` equal devices without jitter."""
        columns = [np.full(n, value, np.float64) for value in (compute_ms_per_sample, download_kbps, upload_kbps)]
        return cls(columns[0], columns[1], columns[2])

    @property
    def n_devices(self) -> int:
        """Number of devices."""
        return len(self.download_kbps)

    def take(self, devices: ArrayLike) -> DeviceSpeed:
        """Some of the devices in a new order; repeats allowed."""
        of = np.asarray(devices, dtype=np.int64)
        columns = {name: getattr(self, name)[of] for name in _COLUMNS}
        more = {name: column[of] for name, column in self.more.items()}
        return replace(self, **columns, names=None if self.names is None else self.names[of], more=more)

    def reference_ms(self) -> FloatArray:
        """Duration of one reference task per device, ms: 20 steps of 20 samples, 10 MB each way, factor 3.

        The example task of FedScale's figures; it ranks devices from fast to slow.
        """
        with np.errstate(over="ignore"):  # impossibly slow is slow
            transfer = 1_000 * _REFERENCE_KBIT * (1 / self.download_kbps + 1 / self.upload_kbps)
            return np.asarray(self.compute_ms_per_sample * _REFERENCE_SAMPLES + transfer + 2 * self.latency_ms)

    def fingerprint(self) -> str:
        """A SHA-256 of all columns and jitters, latency and further columns only where there are any."""
        jitters = np.array([self.compute_jitter, self.network_jitter])
        latency = [self.latency_ms] if self.latency_ms.any() else []
        digest = hashlib.sha256()
        for column in (self.compute_ms_per_sample, self.download_kbps, self.upload_kbps, jitters, *latency):
            digest.update(column.astype("<f8", copy=False).tobytes())
        for name, column in sorted(self.more.items()):
            digest.update(name.encode() + column.astype("<f8", copy=False).tobytes())
        return digest.hexdigest()

    def are_equal(self) -> bool:
        """Whether every device is as fast as every other."""
        return all(bool((getattr(self, name) == getattr(self, name)[:1]).all()) for name in _COLUMNS)

    def _check_lengths(self) -> None:
        lengths = {len(getattr(self, name)) for name in _COLUMNS} | {len(column) for column in self.more.values()}
        if len(lengths) > 1:
            raise TraceError(
                f"speed columns of unequal length {sorted(lengths)}; expected one value per device in each"
            )


def _check_column(name: str, values: FloatArray, names: Names | None, *, zero_allowed: bool) -> None:
    usable = np.isfinite(values) & ((values >= 0) if zero_allowed else (values > 0))
    if usable.all():
        return
    bad: IntArray = np.flatnonzero(~usable)
    more = f" (and {len(bad) - 1} more devices)" if len(bad) > 1 else ""
    expected = "a finite number >= 0" if zero_allowed else "a finite number > 0"
    raise TraceError(f"device {called(names, int(bad[0]))}: {name} is {values[bad[0]]}; expected {expected}{more}")


def _check_jitter(name: str, value: float) -> None:
    if not 0 <= value <= _MOST_JITTER:
        raise TraceError(
            f"{name} is {value}; expected a number from 0 to {_MOST_JITTER:g} (standard deviation of the log)"
        )
