"""A scenario in words says all of what becomes of its data."""

from __future__ import annotations

from evsim import Scenario
from evsim.scenario.words import in_words

DATA = [
    "data.client_test_fraction=0.25",
    "data.skew={kind='rotation', angles=[0, 90]}",
    "data.transform=[{kind='normalize', mean=[0.3], deviation=[0.4]}, {kind='flip'}]",
    "data.label_flip={share=0.1}",
]


def test_what_becomes_of_data_is_said():
    lines = [line for line in in_words(Scenario.load("quickstart", DATA)) if line[0] not in {"scenario", "stops"}]
    start = [name for name, _ in lines].index("tested on")
    assert lines[start : start + 5] == [
        ("tested on", "a share of 0.2, unless the data has a test set of its own; 0.25 of each client's own held out"),
        ("inputs differ", "rotation: angles [0.0, 90.0]"),
        ("inputs become", "normalize: mean [0.3], deviation [0.4]; in training and evaluation"),
        ("inputs become", "flip: chance 0.5; in training"),
        ("attack", "a share of 0.1 of the clients trains on flipped labels"),
    ]


def test_what_is_not_asked_for_is_not_said():
    names = [name for name, _ in in_words(Scenario.load("quickstart"))]
    assert "tested on" in names
    assert not {"inputs differ", "inputs become", "attack"} & set(names)
