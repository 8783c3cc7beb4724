"""TOML and JSON that nobody meant well: each a sentence in the reader's own error, and soon."""

from __future__ import annotations

import os

import pytest

from evsim.base.documents import load_json, load_toml, odd
from evsim.base.errors import DataError, ScenarioError
from evsim.scenario import Scenario
from evsim.scenario.layers import override

BOTH = {
    "not UTF-8": b"\xc3\x28",
    "UTF-16": "a = 1".encode("utf-16"),
    "not closed": b'{"a": [1, ',
    "digits": b'{"a": ' + b"9" * 5000 + b"}",
}
TOML = {
    **BOTH,
    "digits": b"a = " + b"9" * 5000,
    "more than 64 bits": b"a = 0x" + b"f" * 5000,
    "just more": b"a = 9223372036854775808",
    "lists": b"a = " + b"[" * 5000 + b"]" * 5000,
    "tables": b"a = " + b"{b=" * 3000 + b"1" + b"}" * 3000,
    "dotted": b".".join([b"a"] * 300_000) + b" = 1",
    "header": b"[" + b".".join([b"a"] * 300_000) + b"]",
    "one long word": b"a" * 3_000_000,
    "too large": b"# " + b"x" * 9_000_000,
}
JSON = {
    **BOTH,
    "lists": b"[" * 200_000,
    "objects": b'{"a":' * 200_000,
    "a list": b"[1]",
    "a text": b'"a"',
    "nothing": b"",
}


@pytest.mark.parametrize("kind", TOML)
def test_odd_toml_is_told_in_a_sentence(tmp_path, kind):
    (tmp_path / "x.toml").write_bytes(TOML[kind])
    with pytest.raises(ScenarioError, match=r"x\.toml.*expected"):
        load_toml(tmp_path / "x.toml", what="a scenario file", raising=ScenarioError)
    with pytest.raises(ScenarioError, match=r"x\.toml.*expected"):
        Scenario.load(tmp_path / "x.toml")


@pytest.mark.parametrize("kind", JSON)
def test_odd_json_is_told_in_a_sentence(tmp_path, kind):
    (tmp_path / "x.json").write_bytes(JSON[kind])
    with pytest.raises(DataError, match=r"x\.json.*expected a store"):
        load_json(tmp_path / "x.json", what="a store", raising=DataError)


def test_what_is_no_file_is_never_opened(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    sparse = tmp_path / "sparse"
    with sparse.open("wb") as file:
        file.truncate(10**9)
    for path, told in ((tmp_path, "a folder"), (tmp_path / "pipe", "no regular file"), (sparse, "1 GB long")):
        for load in (load_toml, load_json):
            with pytest.raises(DataError, match=told):
                load(path, what="a store", raising=DataError)
    with pytest.raises(DataError, match="No such file"):
        load_json(tmp_path / "nowhere", what="a store", raising=DataError)
    with pytest.raises(DataError, match="null"):
        load_json(tmp_path / "a\0b", what="a store", raising=DataError)


def test_a_byte_order_mark_is_no_part_of_the_text(tmp_path):
    (tmp_path / "x.toml").write_bytes(b"\xef\xbb\xbfa = 1\n")
    (tmp_path / "x.json").write_bytes(b'\xef\xbb\xbf{"a": 1}')
    assert load_toml(tmp_path / "x.toml", what="x", raising=DataError) == {"a": 1}
    assert load_json(tmp_path / "x.json", what="x", raising=DataError) == {"a": 1}


def test_depth_is_counted_from_the_outside():
    deep = {}
    for _ in range(62):
        deep = {"a": deep}
    assert odd(deep) == ""
    assert odd({"a": {"a": {"a": deep}}}) == "nested too deeply"


@pytest.mark.parametrize(
    "text",
    ["seed=" + "9" * 5000, "seed=0x" + "f" * 99, "a=" + "[" * 5000, "a=" + "{b=" * 3000, ".".join("a" * 5000) + "=1"],
    ids=lambda text: text[:8],
)
def test_odd_overrides_are_told_in_a_sentence(text):
    with pytest.raises(ScenarioError, match="-o "):
        override(text)
