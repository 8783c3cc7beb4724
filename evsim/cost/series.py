"""Rates over time that are constant from one knot to the next: exact integrals, and their inverse."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, final

import numpy as np

from evsim.base.errors import TraceError
from evsim.base.vocabulary import FloatArray, IntArray

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import ArrayLike


@final
@dataclass(frozen=True, eq=False)
class Series:
    """`n` series in flat arrays, each repeated after a period of its own; `m` pieces in all.

    Series s has the pieces ``offsets[s]:offsets[s + 1]``; the first begins at 0, the last ends with the period.

    >>> day = Series.of([([0, 10], [1.0, 3.0], 20)])
    >>> day.amount([0], [5.0], [10.0]).tolist()  # 5 ms at rate 1, then 5 ms at rate 3
    [20.0]
    >>> day.duration([0], [5.0], [20.0]).tolist()
    [10.0]

    Attributes:
        offsets: int64 (n + 1,).
        at: where each piece begins, ms, float64 (m,).
        rate: of each piece, anything per ms, float64 (m,); >= 0, and somewhere > 0 in each series.
        period: ms, float64 (n,).
    """

    offsets: IntArray
    at: FloatArray
    rate: FloatArray
    period: FloatArray

    @classmethod
    def of(cls, series: Sequence[tuple[ArrayLike, ArrayLike, float]]) -> Series:
        """Of the knots, the rates and the period of each.

        Raises:
            TraceError: naming series and piece, if a rate is negative or no number, if all rates of a series are 0, if
                the knots do not ascend from 0, or a series has no length.
        """
        if not series:
            raise TraceError("no series of rates; expected at least one")
        columns = [(np.asarray(at, np.float64), np.asarray(rate, np.float64), float(end)) for at, rate, end in series]
        for place, (at, rate, end) in enumerate(columns):
            _check(place, at, rate, end)
        offsets = np.concatenate([[0], np.cumsum([len(at) for at, _, _ in columns])]).astype(np.int64)
        return cls(
            offsets,
            np.concatenate([at for at, _, _ in columns]),
            np.concatenate([rate for _, rate, _ in columns]),
            np.array([end for _, _, end in columns]),
        )

    @property
    def n_series(self) -> int:
        """How many there are."""
        return len(self.period)

    def amount(self, of: ArrayLike, begin: ArrayLike, duration: ArrayLike) -> FloatArray:
        """The integral of the rate of each series from `begin` on, for so many ms."""
        of, begin = np.asarray(of), np.asarray(begin, np.float64)
        end = begin + np.asarray(duration, np.float64)
        turns = np.floor(end / self.period[of]) - np.floor(begin / self.period[of])
        return np.asarray(turns * self.total[of] + self._within(of, end) - self._within(of, begin))

    def duration(self, of: ArrayLike, begin: ArrayLike, amount: ArrayLike) -> FloatArray:
        """How long after `begin` the integral first reaches `amount` (>= 0), ms."""
        of, begin, wanted = np.asarray(of), np.asarray(begin, np.float64), np.asarray(amount, np.float64)
        total, period = self.total[of], self.period[of]
        target = self._within(of, begin) + wanted
        turns = np.maximum(np.ceil(target / total) - 1, 0)  # the rest lies in (0, total]
        rest = target - turns * total
        piece = np.searchsorted(self._keys, of + np.clip(rest / total, 0, 1), side="left") - 1
        piece = np.clip(piece, self.offsets[of], self.offsets[of + 1] - 1)
        rate = self.rate[piece]
        within = self.at[piece] + (rest - self._cumulated[piece]) / np.where(rate > 0, rate, 1)
        return np.where(wanted > 0, np.maximum(turns * period + within - begin % period, 0), 0.0)

    def _within(self, of: IntArray, at: FloatArray) -> FloatArray:
        """The integral from the beginning of the period that holds each instant up to it."""
        within = at % self.period[of]
        piece = np.searchsorted(self._times, self._base[of] + within, side="right") - 1
        piece = np.clip(piece, self.offsets[of], self.offsets[of + 1] - 1)
        return np.asarray(self._cumulated[piece] + (within - self.at[piece]) * self.rate[piece])

    @cached_property
    def total(self) -> FloatArray:
        """The integral over one period of each, (n,)."""
        last = self.offsets[1:] - 1
        return np.asarray(self._cumulated[last] + self._lengths[last] * self.rate[last])

    @cached_property
    def _series(self) -> IntArray:
        return np.repeat(np.arange(self.n_series), np.diff(self.offsets))

    @cached_property
    def _lengths(self) -> FloatArray:
        ends = np.append(self.at[1:], 0.0)
        ends[self.offsets[1:] - 1] = self.period
        return np.asarray(ends - self.at)

    @cached_property
    def _cumulated(self) -> FloatArray:
        """The integral up to the beginning of each piece."""
        parts = [
            np.cumsum(np.concatenate([[0.0], (self._lengths * self.rate)[first : last - 1]]))
            for first, last in zip(self.offsets[:-1], self.offsets[1:], strict=True)
        ]
        return np.concatenate(parts)

    @cached_property
    def _base(self) -> FloatArray:
        """What to add to the times of each series so that the knots of all ascend in one array."""
        return np.concatenate([np.zeros(1), np.cumsum(self.period)[:-1]])

    @cached_property
    def _times(self) -> FloatArray:
        return np.asarray(self.at + self._base[self._series])

    @cached_property
    def _keys(self) -> FloatArray:
        """The number of each series plus the share of its integral before each piece: ascending."""
        return np.asarray(self._series + self._cumulated / self.total[self._series])


def _check(place: int, at: FloatArray, rate: FloatArray, end: float) -> None:
    if len(at) == 0 or len(at) != len(rate):
        raise TraceError(f"series {place}: {len(at)} instants and {len(rate)} rates; expected one each, at least one")
    usable = np.isfinite(rate) & (rate >= 0)
    if not usable.all():
        bad = int(np.flatnonzero(~usable)[0])
        raise TraceError(f"series {place}, row {bad}: rate {rate[bad]:g}; expected a finite number >= 0")
    if not (rate > 0).any():
        raise TraceError(f"series {place}: every rate is 0: nothing would ever arrive; expected some rate > 0")
    if at[0] != 0 or not (np.diff(at) > 0).all() or not at[-1] < end < np.inf:
        raise TraceError(f"series {place}: instants do not ascend from 0 to the end; expected each later than the last")
