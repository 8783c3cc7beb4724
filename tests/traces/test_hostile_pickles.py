"""Pickles that ask for more than they are: refused in a sentence, soon, and without taking the memory."""

from __future__ import annotations

import gzip
import pickle
import struct
import tracemalloc

import numpy as np
import pytest

from evsim.base.errors import TraceError
from evsim.traces.formats import unpickle
from evsim.traces.formats._files import read_bytes
from evsim.traces.formats.unpickle import loads_plain


def shared(depth):
    made = [1]
    for _ in range(depth):
        made = [made, made]
    return pickle.dumps(made)


def shared_arrays(depth):
    made = [np.arange(2)]
    for _ in range(depth):
        made = [made, made]
    return pickle.dumps(made)


HOSTILE = {
    "memo index": b"\x80\x04]r" + struct.pack("<I", 2**32 - 1) + b".",
    "memo index in text": b"(lp4294967295\n.",
    "bytes of a size": b"\x80\x05\x8e" + struct.pack("<Q", 2**40) + b"x.",
    "bytearray of a size": b"\x80\x05\x96" + struct.pack("<Q", 2**40) + b"x.",
    "text of a size": b"\x80\x04\x8d" + struct.pack("<Q", 2**40) + b"x.",
    "frame of a size": b"\x80\x04\x95" + struct.pack("<Q", 2**60) + b"N.",
    "bytes of a number": b"cbuiltins\nbytes\n(L100000000000L\ntR.",
    "bytearray of a number": b"cbuiltins\nbytearray\n(L100000000000L\ntR.",
    "build on a function": b"c_codecs\nencode\n(N}X\x0c\x00\x00\x00__defaults__Ntb.",
    "build on a class": b"cnumpy\nndarray\n(N}X\x01\x00\x00\x00xNtb.",
    "shared lists": shared(60),
    "shared arrays": shared_arrays(60),
    "deep": b"\x80\x04" + b"]" * 100_000 + b"a" * 99_999 + b".",
    "long integer": pickle.dumps(2**20_000),
    "flood of integers": pickle.dumps({k * (2**61 - 1): 0 for k in range(6_000)}),
    "flood of tuples": pickle.dumps({tuple(-1 - (k >> b & 1) for b in range(13)): 0 for k in range(6_000)}),
    "duplicates": b"\x80\x04" + b"N" + b"2" * 5_000 + b".",
    "persistent name": b"Pname\n.",
    "extension": b"\x80\x02\x82\x01.",
    "array larger than its bytes": pickle.dumps(np.arange(4, dtype=np.int8)).replace(b"K\x04\x85", b"K\x7f\x85"),
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_a_hostile_pickle_is_refused_before_it_takes_memory(kind):
    defaults = unpickle._encode.__defaults__
    tracemalloc.start()
    try:
        with pytest.raises(TraceError):
            loads_plain(HOSTILE[kind])
        assert tracemalloc.get_traced_memory()[1] < 60e6
    finally:
        tracemalloc.stop()
    assert unpickle._encode.__defaults__ is defaults


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_shared_and_plain_data_are_read_as_before(protocol):
    row = [1.5, -2, "x", b"y", bytearray(b"z"), (1, 2), {3}, frozenset({4}), None, True, 2**63 - 1, 1j]
    given = {"a": row, "b": row, "n": 7}
    assert loads_plain(pickle.dumps(given, protocol)) == given


def test_what_is_shared_stays_shared_beside_arrays():
    row = [1, 2]
    found = loads_plain(pickle.dumps({"a": row, "b": row, "c": np.arange(2)}))
    assert found["a"] is found["b"]


def test_a_gzip_bomb_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("evsim.traces.formats._files._FREE_BYTES", 10**6)
    (tmp_path / "t").write_bytes(gzip.compress(b"\0" * 10**7))
    with pytest.raises(TraceError, match=r"larger than .* unpacked"):
        read_bytes(tmp_path / "t")
