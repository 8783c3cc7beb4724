"""Partitions by a list of the user's."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from evsim.base.errors import DataError
from evsim.training.data.base import federate
from evsim.training.data.listed import Listed
from tests.training.data.test_base import fixed

LABELS = np.arange(40) % 4


def join(folder, text, *, dataset=None, n=None, fraction=0.2, seed=0):
    (folder / "mine.csv").write_text(text)
    partition = Listed(file="mine.csv")
    return federate(
        dataset or fixed(LABELS), partition, test_fraction=fraction, n_clients=n, seed=seed, folder=Path(folder)
    )


def rows(pairs):
    return "client,sample\n" + "".join(f"{client},{sample}\n" for client, sample in pairs)


def held(data):
    """The numbers of each client's samples in the whole data set, which are its inputs."""
    return [data.x[data.samples_of(client)][:, 0].astype(int).tolist() for client in range(data.n_clients)]


@pytest.mark.parametrize("seed", range(4))
def test_each_client_has_what_is_listed_in_that_order_and_nothing_of_it_is_tested_on(tmp_path, seed):
    draw = np.random.default_rng(seed)
    wanted = [draw.choice(30, size, replace=False).tolist() for size in (7, 0, 12, 3)]  # clients may share
    pairs = [(client, sample) for client, own in enumerate(wanted) for sample in own]
    data = join(tmp_path, rows(pairs), seed=seed)
    assert held(data) == wanted
    np.testing.assert_array_equal(data.y[data.index], LABELS[[sample for _, sample in pairs]])
    tested = data.x_test[:, 0].astype(int)
    assert not set(tested) & {sample for _, sample in pairs}
    assert len(tested) == 8
    np.testing.assert_array_equal(data.y_test, LABELS[tested])


def test_interleaved_rows_other_names_and_more_clients_than_are_listed(tmp_path):
    data = join(tmp_path, "sample_id;client_id\n3;1\n1;0\n2;1\n", n=4)
    assert held(data) == [[1], [3, 2], [], []]


def test_a_test_set_of_its_own_stays_whole(tmp_path):
    is_test = np.arange(40) >= 30
    data = join(tmp_path, rows([(0, 29), (1, 0)]), dataset=fixed(LABELS, is_test=is_test))
    assert (held(data), data.x_test[:, 0].tolist()) == ([[29], [0]], list(range(30, 40)))
    with pytest.raises(DataError, match="sample 31 is listed for a client and in the data's test set"):
        join(tmp_path, rows([(0, 31)]), dataset=fixed(LABELS, is_test=is_test))


@pytest.mark.parametrize(
    ("text", "options", "message"),
    [
        (rows([(0, 40)]), {}, "line 2, sample: '40'; expected the number of a sample, from 0 to 39"),
        (rows([(0, 1), (-1, 2)]), {}, "expected the number of a client, from 0"),
        (rows([(0, 1), (5, 2)]), {"n": 5}, "expected the number of a client, from 0 to 4"),
        (rows([(0, 1.5)]), {}, "expected the number of a sample"),
        (rows([(0, "x")]), {}, "'x'"),
        (rows([(0, 1), (0, 2), (0, 1)]), {}, "more than once: client 0: sample 1; expected each sample once"),
        (rows((sample % 3, sample) for sample in range(40)), {}, "every sample is listed for a client; leave some out"),
        ("client,row\n0,1\n", {}, "no column 'sample'"),
        (rows([]), {}, "lists no sample|no rows|empty"),
        ("", {}, "mine.csv"),
    ],
)
def test_a_list_that_cannot_be_meant_is_refused(tmp_path, text, options, message):
    with pytest.raises(DataError, match=message):
        join(tmp_path, text, **options)


def test_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(DataError, match=r"data\.partition\.file: .*other\.csv: no such file; expected a CSV"):
        federate(
            fixed(LABELS), Listed(file="other.csv"), test_fraction=0.2, n_clients=None, seed=0, folder=Path(tmp_path)
        )
