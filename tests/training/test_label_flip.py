"""Malicious clients train on flipped labels, nobody else does."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from evsim.algorithms.malicious import malicious_clients
from evsim.base.errors import PolicyError
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
