"""What is charged for tasks that were cut short."""

from __future__ import annotations

import numpy as np
import pytest

from evsim.timeline.fates import Fate
from evsim.timeline.ledger import NO_WEIGHT, Ledger


def _charged(phases, lasted, fate=Fate.LOST):
    """(download, compute, upload) spent, and 1000 bytes down, 100 samples, 1000 bytes up as far as they came."""
    book = Ledger(0)
    download, compute, upload = phases
    book.add(
        {"client": [0], "outcome": 5, "fate": fate, "ended_at": lasted, "known_at": lasted, "weight": NO_WEIGHT}
        | {"download_ms": download, "compute_ms": compute, "upload_ms": upload}
        | {"bytes_down": 1000, "charged_samples": 100, "bytes_up": 1000}
    )
    rows = book.release(10_000)
    assert [int(rows[f"planned_{name}"][0]) for name in ("download_ms", "compute_ms", "upload_ms")] == list(phases)
    return [
        int(rows[name][0])
        for name in ("download_ms", "compute_ms", "upload_ms", "bytes_down", "charged_samples", "bytes_up")
    ]


@pytest.mark.parametrize(
    ("phases", "lasted", "expected"),
    [
        ((10, 20, 10), 5, [5, 0, 0, 500, 0, 0]),
        ((10, 20, 10), 10, [10, 0, 0, 1000, 0, 0]),
        ((10, 20, 10), 35, [10, 20, 5, 1000, 100, 500]),
        ((0, 20, 10), 5, [0, 5, 0, 1000, 25, 0]),  # a download of 0 ms is over once the computation began
        ((0, 20, 10), 0, [0, 0, 0, 0, 0, 0]),
        ((10, 0, 10), 10, [10, 0, 0, 1000, 0, 0]),
        ((10, 0, 10), 11, [10, 0, 1, 1000, 100, 100]),
        ((0, 20, 0), 20, [0, 20, 0, 1000, 100, 1000]),  # nothing is left to be done
    ],
)
def test_a_phase_is_whole_once_a_later_one_began(phases, lasted, expected):
    assert _charged(phases, lasted) == expected


def test_no_weight_reads_as_not_a_number():
    assert np.isnan(np.array(NO_WEIGHT).view(np.float64))
