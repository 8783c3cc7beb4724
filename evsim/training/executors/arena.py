"""Shared memory between a process and its forks, and messages whose tensors lie in it.

Anonymous shared pages are inherited over fork: they have no name to leak, need no space in a file system, and cost
memory only once they are touched, so slots can be generous. A message is pickled as usual, but each tensor is copied
into a slot and only its place is pickled; one that no longer fits is pickled in full.
"""

from __future__ import annotations

import io
import mmap
import pickle
import sys
from math import prod
from typing import TYPE_CHECKING, Any, final

import torch
from typing_extensions import override

if TYPE_CHECKING:
    from collections.abc import Callable

_ALIGN = 64
_NORESERVE = 0x4000 if sys.platform == "linux" else 0  # slots are mostly never touched


@final
class Arena:
    """Slots of shared memory of one size.

    Args:
        slots: how many.
        slot_bytes: room in each.
    """

    def __init__(self, slots: int, slot_bytes: int) -> None:
        self.slots = slots
        self.slot_bytes = -(-max(1, slot_bytes) // mmap.PAGESIZE) * mmap.PAGESIZE
        self._bytes = torch.frombuffer(_shared(self.slot_bytes * slots), dtype=torch.uint8)

    def view(self, offset: int, dtype: torch.dtype, shape: tuple[int, ...]) -> torch.Tensor:
        """A tensor over these shared bytes."""
        return self._bytes[offset : offset + prod(shape) * dtype.itemsize].view(dtype).view(shape)


def _shared(size: int) -> mmap.mmap:
    return mmap.mmap(-1, size, flags=mmap.MAP_SHARED | mmap.MAP_ANONYMOUS | _NORESERVE)


def pack(message: object, arena: Arena, slots: range, refer: Callable[[object], object] | None = None) -> bytes:
    """Pickle a message, its tensors into slots; `refer` may name objects that the other side already has."""
    stream = io.BytesIO()
    _Packer(stream, arena, slots, refer).dump(message)
    return stream.getvalue()


def unpack(packed: bytes, arena: Arena, *, own: bool, resolve: Callable[[Any], object] | None = None) -> Any:
    """The message again; its tensors are views of the slot, or with `own` copies."""
    return _Unpacker(io.BytesIO(packed), arena, own=own, resolve=resolve).load()


class _Packer(pickle.Pickler):
    def __init__(
        self, stream: io.BytesIO, arena: Arena, slots: range, refer: Callable[[object], object] | None
    ) -> None:
        super().__init__(stream, protocol=pickle.HIGHEST_PROTOCOL)
        self._arena, self._refer = arena, refer
        self._at, self._end = slots.start * arena.slot_bytes, slots.stop * arena.slot_bytes

    @override
    def persistent_id(self, obj: object) -> object:
        if isinstance(obj, torch.Tensor):
            return self._placed(obj)
        named = self._refer(obj) if self._refer is not None and isinstance(obj, dict) else None
        return None if named is None else ("named", named)

    def _placed(self, tensor: torch.Tensor) -> object:
        start, shape = self._at, tuple(tensor.shape)
        stop = start + prod(shape) * tensor.dtype.itemsize
        if stop > self._end:
            return None
        self._arena.view(start, tensor.dtype, shape).copy_(tensor)
        self._at = -(-stop // _ALIGN) * _ALIGN
        return ("tensor", start, tensor.dtype, shape)


class _Unpacker(pickle.Unpickler):
    def __init__(self, stream: io.BytesIO, arena: Arena, *, own: bool, resolve: Callable[[Any], object] | None) -> None:
        super().__init__(stream)
        self._arena, self._own, self._resolve = arena, own, resolve

    @override
    def persistent_load(self, pid: Any) -> Any:
        if pid[0] == "tensor":
            view = self._arena.view(*pid[1:])
            return view.clone() if self._own else view
        if self._resolve is None:
            raise pickle.UnpicklingError("a named object without a resolver")
        return self._resolve(pid[1])
