"""Mutations of what lies inside of files that are no texts: pickles, NumPy arrays, Parquet tables; and of rows."""

from __future__ import annotations

import csv
import io
import json
import pickle

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from tests.fuzz.mutators import odd_value, of_bytes, of_tables

_ODD_KEYS = ((1, 2), -1, 1.5, "", None, 2**70, b"x", frozenset({1}))
_ODD_OBJECTS = (
    *(None, 2**70, b"", b"\xff" * 9, {1, 2}, frozenset({"a"}), (1, (2, 3)), 1 + 2j, bytearray(b"ab")),
    *(np.arange(3), np.zeros((2, 0)), np.array(["a", "bc"]), np.float64("nan"), np.array(5), np.ones(2, "S3")),
    *([[0.0, 1e999]], {"a": {"a": {"a": []}}}),
)
_TYPES = (pa.string(), pa.int8(), pa.float64(), pa.bool_(), pa.null(), pa.list_(pa.int64()), pa.timestamp("us"))
_KINDS = ("i1", "u8", ">i4", "f2", "f8", "c8", "?", "U3", "S2", "M8[s]", "O", [("a", "i4")])


def _pick(some, rng):
    return some[int(rng.integers(0, len(some)))]


def half_of_bytes(mutate):
    """Every other case changes bytes instead."""
    return lambda content, rng: of_bytes(content, rng) if rng.random() < 0.5 else mutate(content, rng)


def rows(content, rng):
    """A CSV in which one to three cells, rows or columns are something else, gone, twice there, or elsewhere."""
    made = list(csv.reader(io.StringIO(content.decode())))
    for _ in range(int(rng.integers(1, 4))):
        row, column = int(rng.integers(0, len(made))), int(rng.integers(0, max(len(made[0]), 1)))
        match int(rng.integers(0, 6)):
            case 0 if column < len(made[row]):
                made[row][column] = str(odd_value(rng))
            case 1 if len(made) > 1:
                del made[row]
            case 2:
                made.insert(row, list(made[int(rng.integers(0, len(made)))]))
            case 3:
                made = [line[:column] + line[column + 1 :] for line in made]
            case 4:
                made = [[*line, str(odd_value(rng))] for line in made]
            case _:
                made[row] = made[row][::-1]
    text = io.StringIO()
    csv.writer(text, delimiter=_pick(",,,;\t", rng)).writerows(made)
    return text.getvalue().encode("utf-8", "replace")


def pickled(tables):
    """A pickle of nested tables in which something is another value, another type, or another key."""

    def mutate(_, rng):
        made = of_tables(tables, rng) if rng.random() < 0.5 else json.loads(json.dumps(tables))
        record = made[_pick(sorted(made), rng)] if isinstance(made, dict) and made else made
        if isinstance(record, dict) and record:
            if rng.random() < 0.5:
                record[_pick(sorted(record, key=str), rng)] = _pick(_ODD_OBJECTS, rng)
            else:
                record[_pick(_ODD_KEYS, rng)] = 1
        if isinstance(made, dict) and rng.random() < 0.2:
            made[_pick(_ODD_KEYS, rng)] = record
        return pickle.dumps(made, protocol=int(rng.integers(0, 6)))

    return half_of_bytes(mutate)


def array(given, rng):
    """An array of another type, shape or content."""
    match int(rng.integers(0, 5)):
        case 0:
            made = np.zeros(given.shape, _pick(_KINDS, rng))
        case 1:
            made = given.reshape(_pick([(-1,), (*given.shape, 1), (1, *given.shape)], rng))
        case 2:
            made = given[: int(rng.integers(0, len(given) + 1))] if given.ndim else given
        case 3:
            made = np.full(given.shape, _pick([-1, 0, 1, 100], rng)).astype(given.dtype)
        case _:
            made = given.astype(float) * _pick([np.nan, np.inf, -1, 0.5, 1e300], rng)
    return np.asfortranarray(made) if rng.random() < 0.2 else made


@half_of_bytes
def npy(content, rng):
    """A file of one array."""
    found = io.BytesIO()
    np.save(found, array(np.load(io.BytesIO(content)), rng), allow_pickle=True)
    return found.getvalue()


@half_of_bytes
def npz(content, rng):
    """A file of several arrays, of which one is another, gone, or under another name."""
    with np.load(io.BytesIO(content)) as file:
        made = dict(file)
    name = _pick(sorted(made), rng)
    match int(rng.integers(0, 4)):
        case 0:
            del made[name]
        case 1:
            made[_pick(["x", "y", "client", "../z", "arr_0"], rng)] = made.pop(name)
        case _:
            made[name] = array(made[name], rng)
    found = io.BytesIO()
    np.savez(found, allow_pickle=True, **made)
    return found.getvalue()


@half_of_bytes
def parquet(content, rng):
    """A table with a column of another type, gone, twice there, with nulls, or under another name; or other rows."""
    table = pq.read_table(io.BytesIO(content))
    at = int(rng.integers(0, max(table.num_columns, 1)))
    name = table.column_names[at] if table.num_columns else "x"
    match int(rng.integers(0, 8)):
        case 0 if table.num_columns:
            table = table.remove_column(at)
        case 1 if table.num_columns:
            table = table.set_column(at, name, pa.nulls(len(table), _pick(_TYPES, rng)))
        case 2 if table.num_columns:
            table = table.rename_columns(
                [_pick(["x", "", "task", name], rng) if n == name else n for n in table.column_names]
            )
        case 3:
            table = table.slice(0, int(rng.integers(0, len(table) + 1)))
        case 4:
            table = pa.concat_tables([table, table])
        case 5 if table.num_columns and len(table):
            table = table.set_column(at, name, pa.array([_pick([-1, 2**62, 0, 7], rng)] * len(table)))
        case 6 if table.num_columns and len(table):
            table = table.set_column(at, name, pa.array([_pick(["", "<b>", "nan", "é"], rng)] * len(table)))
        case _:
            table = table.take(pa.array(rng.permutation(len(table))))
    found = io.BytesIO()
    pq.write_table(table, found)
    return found.getvalue()
