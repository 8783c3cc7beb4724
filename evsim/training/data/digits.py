"""1,797 handwritten digits, 8x8, from scikit-learn's wheel, with the natural partition few know.

The samples come writer after writer (UCI optdigits, test part, CC BY 4.0): 14 blocks, each of which starts with the
same dictation (two lack a few of its digits). UCI speaks of 13 writers, so one writer may have two blocks.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import final

import numpy as np
from typing_extensions import override

from evsim.training.data.base import DataSet, Samples

WRITER_STARTS = (0, 130, 256, 386, 516, 646, 776, 915, 1029, 1157, 1287, 1415, 1545, 1667)


@final
@dataclass(frozen=True, kw_only=True)
class Digits(DataSet):
    """Images as (1797, 1, 8, 8) in 0..1, labels 0..9, groups 0..13 (the writer blocks)."""

    @override
    def load(self, *, n_clients: int | None, seed: int, folder: Path) -> Samples:
        from sklearn.datasets import load_digits

        raw = load_digits()
        x = (raw.images / 16.0).astype(np.float32)[:, None]
        writer = np.searchsorted(WRITER_STARTS, np.arange(len(x)), side="right") - 1
        return Samples(x, raw.target.astype(np.int64), 10, writer.astype(np.int64), "digits")
