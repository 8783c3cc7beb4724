"""How fast devices compute and communicate."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, final

import numpy as np

from evsim.base.errors import TraceError
from evsim.base.vocabulary import FloatArray, IntArray

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

_REFERENCE_SAMPLES = 1_200  # 20 steps of 20 samples, forward and backward (factor 3)
_REFERENCE_KBIT = 80_000  # 10 MB each way


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
    """

    compute_ms_per_sample: FloatArray
    download_kbps: FloatArray
    upload_kbps: FloatArray
    compute_jitter: float = 0.0
    network_jitter: float = 0.0

    def __post_init__(self) -> None:
        for name in ("compute_ms_per_sample", "download_kbps", "upload_kbps"):
            column = np.array(getattr(self, name), dtype=np.float64, ndmin=1)
            column.flags.writeable = False
            object.__setattr__(self, name, column)
        self._check_lengths()
        _check_column("compute_ms_per_sample", self.compute_ms_per_sample, zero_allowed=True)
        _check_column("download_kbps", self.download_kbps, zero_allowed=False)
        _check_column("upload_kbps", self.upload_kbps, zero_allowed=False)
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
        return DeviceSpeed(
            self.compute_ms_per_sample[of],
            self.download_kbps[of],
            self.upload_kbps[of],
            self.compute_jitter,
            self.network_jitter,
        )

    def reference_ms(self) -> FloatArray:
        """Duration of one reference task per device, ms: 20 steps of 20 samples, 10 MB each way, factor 3.

        The example task of FedScale's figures; it ranks devices from fast to slow.
        """
        transfer = 1_000 * _REFERENCE_KBIT * (1 / self.download_kbps + 1 / self.upload_kbps)
        return np.asarray(self.compute_ms_per_sample * _REFERENCE_SAMPLES + transfer)

    def fingerprint(self) -> str:
        """A SHA-256 of all columns and jitters."""
        jitters = np.array([self.compute_jitter, self.network_jitter])
        digest = hashlib.sha256()
        for column in (self.compute_ms_per_sample, self.download_kbps, self.upload_kbps, jitters):
            digest.update(column.astype("<f8", copy=False).tobytes())
        return digest.hexdigest()

    def _check_lengths(self) -> None:
        lengths = {len(self.compute_ms_per_sample), len(self.download_kbps), len(self.upload_kbps)}
        if len(lengths) > 1:
            raise TraceError(
                f"speed columns of unequal length {sorted(lengths)}; expected one value per device in each"
            )


def _check_column(name: str, values: FloatArray, *, zero_allowed: bool) -> None:
    usable = np.isfinite(values) & ((values >= 0) if zero_allowed else (values > 0))
    if usable.all():
        return
    bad: IntArray = np.flatnonzero(~usable)
    more = f" (and {len(bad) - 1} more devices)" if len(bad) > 1 else ""
    expected = "a finite number >= 0" if zero_allowed else "a finite number > 0"
    raise TraceError(f"device {bad[0]}: {name} is {values[bad[0]]}; expected {expected}{more}")


def _check_jitter(name: str, value: float) -> None:
    if not (np.isfinite(value) and value >= 0):
        raise TraceError(f"{name} is {value}; expected a finite number >= 0 (standard deviation of the log)")
