"""Malicious clients train on flipped labels, nobody else does."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from evsim.algorithms.malicious import malicious_clients
from evsim.base.errors import DataError, PolicyError
from evsim.training.data.label_flip import LabelFlip
from tests.algorithms.oracle import problem


def test_labels_of_malicious_clients_are_flipped_even_where_clients_share_rows():
    data = problem((5, 5, 5, 5))
    data = replace(data, index=np.tile(np.arange(5), 4))  # all clients have the same rows
    attacked = LabelFlip(share=0.5).transform(data, seed=4)
    bad = malicious_clients(4, 4, 0.5)
    assert len(bad) == 2
    for client in range(4):
        rows = attacked.samples_of(client)
        np.testing.assert_array_equal(attacked.x[rows], data.x[data.samples_of(client)])
        labels = data.y[data.samples_of(client)]
        np.testing.assert_array_equal(attacked.y[rows], 2 - labels if client in bad else labels)
    np.testing.assert_array_equal(attacked.y_test, data.y_test)


def test_no_share_changes_nothing_and_an_impossible_one_is_refused():
    data = problem()
    np.testing.assert_array_equal(LabelFlip(share=0.0).transform(data, 0).y, data.y)
    with pytest.raises(PolicyError, match=r"but got share=1\.5"):
        LabelFlip(share=1.5)


@pytest.mark.parametrize(
    ("kind", "y", "opposite"),
    [
        ("flags", [[0, 1, 1], [1, 0, 0]], [[1, 0, 0], [0, 1, 1]]),
        ("steps", [[0, 2, -1], [1, -1, -1]], [[2, 0, -1], [1, -1, -1]]),
    ],
)
def test_flags_and_steps_have_their_opposites_and_padding_has_none(kind, y, opposite):
    data = replace(problem((1, 1)), x=np.zeros((2, 3)), y=np.array(y, np.int8), labels=kind, n_classes=3)
    attacked = LabelFlip(share=1.0).transform(data, seed=0)
    assert [attacked.y[attacked.samples_of(k)][0].tolist() for k in range(2)] == [
        opposite[row] for k in range(2) for row in data.samples_of(k).tolist()
    ]


def test_numbers_have_no_opposite():
    data = replace(problem((1, 1)), y=np.zeros(2), labels="numbers")
    with pytest.raises(DataError, match=r"data\.label_flip: labels are numbers, which have no opposite"):
        LabelFlip(share=1.0).transform(data, seed=0)
