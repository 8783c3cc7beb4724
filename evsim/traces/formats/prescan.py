"""A look at a pickle before it is loaded: what its operations ask for must be in proportion to the file.

A few bytes can ask for gigabytes (a memo index, a size), or build a structure whose text is longer than the universe
(shared lists in lists). `pickletools` reads operations without doing any of them.
"""

from __future__ import annotations

import pickletools
from collections.abc import Iterator
from typing import Any

from evsim.base.errors import TraceError

_MOST_DUPLICATES = 1_000  # of DUP, which no pickler writes
#: What plain data never need: objects of classes, names by number, buffers from elsewhere.
_FORBIDDEN = frozenset({"PERSID", "BINPERSID", "EXT1", "EXT2", "EXT4", "NEXT_BUFFER", "READONLY_BUFFER", "OBJ", "INST"})
_OF_OBJECTS = frozenset({"NEWOBJ", "NEWOBJ_EX"})
_PUTS = frozenset({"PUT", "BINPUT", "LONG_BINPUT"})
_INTEGERS = frozenset({"INT", "LONG", "LONG1", "LONG4"})
_TUPLES = frozenset({"TUPLE", "TUPLE1", "TUPLE2", "TUPLE3", "FROZENSET"})
_USUAL_BITS, _MOST_BITS = 64, 8_192  # of an integer
_LONG_INTEGERS = 1_000  # beyond 64 bits: any number of them hash alike, and a dict of those takes for ever
_LOOSE_TUPLES = 5_000  # beyond those of calls; of (-1, -2, ...) any number hash alike, too
_TUPLES_PER_CALL = 4


def prescan(content: bytes, where: str) -> None:
    """Refuse a pickle whose operations are out of proportion, or which plain data never need.

    Raises:
        TraceError: with the operation and where it is.
    """
    duplicates = tuples = calls = long = 0
    for operation, argument, at in _operations(content, where):
        name = operation.name
        if name in _FORBIDDEN or name in _OF_OBJECTS:
            raise _refused(where, f"operation {name} at byte {at}", "plain containers, numbers, strings and arrays")
        if name in _PUTS and not 0 <= int(argument) <= len(content):
            raise _refused(where, f"memo index {argument} at byte {at}", "one below the size of the file")
        if name in _INTEGERS and int(argument).bit_length() > _MOST_BITS:
            raise _refused(where, f"an integer of {int(argument).bit_length()} bits at byte {at}", "a usual one")
        long += name in _INTEGERS and int(argument).bit_length() > _USUAL_BITS
        duplicates += name == "DUP"
        tuples += name in _TUPLES
        calls += name in {"REDUCE", "BUILD"}
    if duplicates > _MOST_DUPLICATES:
        raise _refused(where, f"{duplicates} operations DUP", "what a pickler writes")
    if long > _LONG_INTEGERS:
        raise _refused(where, f"{long} integers of more than {_USUAL_BITS} bits", "usual ones")
    if tuples > _LOOSE_TUPLES + _TUPLES_PER_CALL * calls:
        raise _refused(where, f"{tuples} tuples", "lists")


def _operations(content: bytes, where: str) -> Iterator[tuple[pickletools.OpcodeInfo, Any, int | None]]:
    try:
        yield from pickletools.genops(content)
    except Exception as error:  # a broken pickle fails in any operation at all
        raise TraceError(f"{where}: not a readable pickle ({error})") from error


def _refused(where: str, given: str, expected: str) -> TraceError:
    return TraceError(f"{where}: not a readable pickle: {given}; expected {expected}")
