"""Arrays of ``.npz`` files: large ones that are not packed are mapped, so that nothing is copied before it is used."""

from __future__ import annotations

import mmap
import struct
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from evsim.training.data.promises import check_npz

_MAPPED = 1 << 20  # bytes of a member from which it is mapped
_HEADER = struct.Struct("<26xHH")  # of a member: ends with the lengths of its name and of its extra field
_BLOCK = 1 << 20


def read_npz(path: Path, names: set[str] | None = None) -> tuple[dict[str, NDArray[Any]], list[str]]:
    """The arrays of these names (None: all) that an archive has, and the names of all it has; nothing is unpickled.

    What is mapped is read-only, and was compared with the archive's checksum.

    Raises:
        OSError, EOFError, ValueError, RuntimeError, zipfile.BadZipFile, zlib.error: if the archive is damaged.
    """
    check_npz(path)
    found: dict[str, NDArray[Any]] = {}
    with np.load(path, allow_pickle=False) as content, zipfile.ZipFile(path) as archive:
        every = sorted(content)
        for name in every if names is None else names & set(every):
            member = next(each for each in archive.infolist() if each.filename.removesuffix(".npy") == name)
            plain = member.compress_type == zipfile.ZIP_STORED and not member.flag_bits & 1
            mapped = _mapped(path, member) if plain and member.file_size >= _MAPPED else None
            found[name] = content[name] if mapped is None else mapped
    return found, every


def _mapped(path: Path, member: zipfile.ZipInfo) -> NDArray[Any] | None:
    """The array of a member that is not packed, as part of the file; None if it lies in Fortran's order."""
    with path.open("rb") as stream:
        stream.seek(member.header_offset)
        name, extra = _HEADER.unpack(stream.read(_HEADER.size))
        start = member.header_offset + _HEADER.size + name + extra
        stream.seek(start)
        version = np.lib.format.read_magic(stream)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, fortran, dtype = read(stream)
        if fortran or dtype.hasobject:
            return None
        whole = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)
        _check_sum(whole, start, member)
        at = stream.tell()
    count = int(np.prod(shape, dtype=np.int64))
    return np.frombuffer(whole, dtype, count, at).reshape(shape)


def _check_sum(whole: mmap.mmap, start: int, member: zipfile.ZipInfo) -> None:
    found = 0
    with memoryview(whole) as content:
        for at in range(start, start + member.file_size, _BLOCK):
            found = zlib.crc32(content[at : min(at + _BLOCK, start + member.file_size)], found)
    if found != member.CRC:
        raise zipfile.BadZipFile(f"Bad CRC-32 for file {member.filename!r}")
