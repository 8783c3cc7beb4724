"""Sizes on the wire: how each leaf of a message travels."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import final


@final
@dataclass(frozen=True)
class Wire:
    """How one leaf travels: `sent` of `size` values, each with some bits for value and index, plus a header.

    >>> Wire(size=1000, sent=10, index_bits=32).n_bytes
    80
    """

    size: int
    sent: int
    value_bits: int = 32
    index_bits: int = 0
    extra_bytes: int = 0

    @property
    def n_bytes(self) -> int:
        """Bytes on the wire."""
        return -(-self.sent * (self.value_bits + self.index_bits) // 8) + self.extra_bytes

    def but(self, **changes: int) -> Wire:
        """A copy with some fields changed."""
        return replace(self, **changes)


Wires = dict[str, dict[str, Wire]]  # payload -> leaf -> how it travels


def total_bytes(wires: Wires) -> int:
    """Bytes of a whole message."""
    return sum(wire.n_bytes for leaves in wires.values() for wire in leaves.values())


def shared_out(leaves: dict[str, Wire], count: int, index_bits: int = 0) -> dict[str, Wire]:
    """The wires where only `count` of all values are sent, and which is not known before: shared out by size.

    >>> {name: wire.sent for name, wire in shared_out({"a": Wire(6, 6), "b": Wire(3, 3)}, 3).items()}
    {'a': 2, 'b': 1}
    """
    total, before, done = sum(wire.sent for wire in leaves.values()), 0, 0
    found = {}
    for name, wire in leaves.items():
        before += wire.sent
        upto = count * before // total if total else 0
        found[name] = wire.but(sent=upto - done, index_bits=index_bits or wire.index_bits)
        done = upto
    return found
