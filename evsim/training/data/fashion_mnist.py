"""Fashion-MNIST (Xiao et al. 2017): 70,000 grey images of clothes, ten kinds; or any folder of idx files like it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import final

import numpy as np
from typing_extensions import override

from evsim.base.errors import DataError
from evsim.training.data.base import DataSet, Samples
from evsim.training.data.columns import count_labels, read_inputs
from evsim.training.data.importers.idx import read

DEBIAN = "/usr/share/datasets/fashion-mnist"  # where the package dataset-fashion-mnist puts it


@final
@dataclass(frozen=True, kw_only=True)
class FashionMnist(DataSet):
    """Images as (1, 28, 28) bytes, 60,000 to learn from and 10,000 to test on; no natural clients.

    Attributes:
        path: a folder of idx files, plain or gzip; a relative one is looked up beside the scenario file. The default is
            where the Debian package dataset-fashion-mnist puts it.
    """

    path: str = DEBIAN

    @override
    def load(self, *, n_clients: int | None, seed: int, folder: Path) -> Samples:
        root = folder / self.path
        if not root.is_dir():
            raise DataError(
                f"data.dataset.path: no folder {root}; install it with: sudo apt install dataset-fashion-mnist; "
                "or set path to a folder of its idx files"
            )
        table = read(str(root))
        x, _ = read_inputs(table.x[np.arange(len(table.x))], "numbers", self.path)
        y = table.y.astype(np.int64)
        return Samples(x, y, count_labels(y, self.path), None, root.name, None, table.is_test)
