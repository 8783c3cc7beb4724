"""Masks of spectra: bands of frequencies and of times set to zero."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import torch
from typing_extensions import override

from evsim.base.errors import require
from evsim.training.data.transforms.base import Draws, Transform

_SPECTRA = 3  # axes at least: samples, frequencies, times


@final
@dataclass(frozen=True, kw_only=True)
class Mask(Transform):
    """Bands of rows and of columns set to zero, as SpecAugment masks frequencies and times of a spectrum.

    A band has 0 to `rows` rows (or `columns` columns), drawn uniformly, and begins anywhere where it fits: the policy
    of Park et al. (Interspeech 2019, section 2) without time warping. Zero is the mean if inputs are normalized before.

    Attributes:
        rows: most rows of a band, F in the paper; 0 for none.
        columns: most columns of a band, T in the paper; 0 for none.
        bands: of each sort.
    """

    rows: int = 0
    columns: int = 0
    bands: int = 1

    def __post_init__(self) -> None:
        require(self.rows >= 0, "rows must be >= 0", rows=self.rows)
        require(self.columns >= 0, "columns must be >= 0", columns=self.columns)
        require(self.rows + self.columns > 0, "rows or columns must be > 0", rows=self.rows, columns=self.columns)
        require(self.bands >= 1, "bands must be >= 1", bands=self.bands)

    @override
    def refusal(self, shape: tuple[int, ...], *, tokens: bool) -> str:
        if tokens or len(shape) < _SPECTRA:
            what = "are token ids" if tokens else f"have the shape {shape[1:]}"
            return f"{what}; expected two axes or more, the last of them rows and columns"
        if self.rows > shape[-2] or self.columns > shape[-1]:
            return f"have {shape[-2]} rows and {shape[-1]} columns; a band may not have more"
        return ""

    @override
    def apply(self, x: torch.Tensor, draws: Draws) -> torch.Tensor:
        ones = (1,) * (x.dim() - _SPECTRA)
        hidden = torch.zeros((len(x), *ones, 1, 1), dtype=torch.bool, device=x.device)
        for band in range(self.bands):
            rows = _band(draws, 4 * band, self.rows, x.shape[-2]).reshape(len(x), *ones, x.shape[-2], 1)
            columns = _band(draws, 4 * band + 2, self.columns, x.shape[-1]).reshape(len(x), *ones, 1, x.shape[-1])
            hidden = hidden | rows | columns
        return x.masked_fill(hidden, 0)


def _band(draws: Draws, first: int, most: int, length: int) -> torch.Tensor:
    """Which of `length` places a band of each sample covers, (n, length)."""
    size = draws.below(first, most + 1)
    start = draws.below(first + 1, length - size + 1)
    place = torch.arange(length, device=size.device)
    return (place >= start[:, None]) & (place < (start + size)[:, None])
