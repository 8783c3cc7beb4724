"""The bundled plays: what ships is what the manifest says, and windows are those of the text."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest

from evsim.base.bundled import bundled_data
from evsim.base.errors import DataError, PolicyError
from evsim.training.data.shakespeare import LETTERS, Shakespeare, read_roles

FOLDER = bundled_data("shakespeare")


def load(**options):
    return Shakespeare(**options).load(n_clients=None, seed=0, folder=Path())


def text(codes):
    return "".join(LETTERS[code] for code in codes)


def test_the_text_is_the_one_of_the_manifest():
    manifest = json.loads((FOLDER / "manifest.json").read_text(encoding="utf-8"))
    packed = (FOLDER / "shakespeare.txt.xz").read_bytes()
    assert hashlib.sha256(packed).hexdigest() == manifest["files"]["shakespeare.txt.xz"]["sha256"]
    assert 500_000 < len(packed) < 1_400_000
    codes, bounds, names = read_roles()
    assert len(names) == len(set(names)) == manifest["roles"] == len(bounds) - 1
    assert np.diff(bounds).min() >= 1_000
    assert codes.max() < len(LETTERS) == len(set(LETTERS)) == 80
    hamlet = names.index("hamlet|HAMLET")
    said = text(codes[bounds[hamlet] : bounds[hamlet + 1]])
    assert "To be, or not to be: that is the question: Whether 'tis nobler in the mind" in said
    assert "Enter" not in said
    assert "  " not in said


def test_windows_are_those_of_the_text_and_the_label_is_the_next_character():
    codes, bounds, _ = read_roles()
    samples = load(window=30, stride=7, most_samples=40, most_test_samples=None)
    train = np.flatnonzero(~samples.is_test)
    for role in (0, 5, 651):
        rows = train[samples.groups[train] == role]
        assert len(rows) == 40
        said = text(codes[bounds[role] : bounds[role + 1]])
        for at, row in enumerate(rows):
            assert text(samples.x[row : row + 1][0]) + LETTERS[samples.y[row]] == said[7 * at : 7 * at + 31]


@pytest.mark.parametrize("stride", [1, 20, 400])
def test_no_character_is_both_learnt_and_tested_on_and_tests_come_later(stride):
    _, bounds, _ = read_roles()
    samples = load(stride=stride, most_test_samples=None)
    starts = samples.x.rows
    ends = starts + 80  # of the label
    role = np.searchsorted(bounds, starts, side="right") - 1
    np.testing.assert_array_equal(role, np.searchsorted(bounds, ends, side="right") - 1)
    np.testing.assert_array_equal(samples.groups, np.where(samples.is_test, -1, role))
    last = np.full(len(bounds) - 1, -1)
    np.maximum.at(last, role[~samples.is_test], ends[~samples.is_test])
    assert (starts[samples.is_test] > last[role[samples.is_test]]).all()
    if stride == 1:  # every window that fits is there
        sizes, cut = np.diff(bounds), np.rint(np.diff(bounds) * 0.8).astype(int)
        assert len(starts) == np.maximum(cut - 80, 0).sum() + np.maximum(sizes - cut - 80, 0).sum()


def test_test_windows_are_thinned_evenly_over_the_roles():
    many, few = load(stride=20, most_test_samples=None), load(stride=20, most_test_samples=500)
    assert few.is_test.sum() == 500
    assert set(few.x.rows[few.is_test]) <= set(many.x.rows[many.is_test])
    np.testing.assert_array_equal(few.x.rows[~few.is_test], many.x.rows[~many.is_test])


def test_a_window_longer_than_any_role_and_impossible_values_are_refused():
    with pytest.raises(DataError, match="no role says enough"):
        load(window=10**6)
    for wrong in ({"window": 0}, {"stride": 0}, {"test_share": 1.0}, {"most_samples": 0}, {"most_test_samples": 0}):
        with pytest.raises(PolicyError, match="but got"):
            Shakespeare(**wrong)


def test_every_character_of_a_window_has_the_next_one_as_its_label():
    last, every = load(stride=40, window=20), load(stride=40, window=20, labels="every")
    assert (last.labels, every.labels) == ("classes", "steps")
    rows = np.arange(0, len(last.y), 997)
    np.testing.assert_array_equal(every.x[rows], last.x[rows])
    np.testing.assert_array_equal(every.y[rows, :-1], last.x[rows][:, 1:])
    np.testing.assert_array_equal(every.y[rows, -1], last.y[rows])
