"""Reading files of any format: the first bytes, JSON, gzip; every failure is a `TraceError` that names the file."""

from __future__ import annotations

import gzip
import zlib
from typing import TYPE_CHECKING, Any

from evsim.base.documents import parse_json
from evsim.base.errors import TraceError
from evsim.base.units import format_bytes

if TYPE_CHECKING:
    from pathlib import Path

#: The largest file that is read, unpacked.
MOST_BYTES = 4 * 10**9

_HEAD = 65_536
_FREE_BYTES = 256 * 10**6  # unpacked: so much is taken from any small file
_MOST_RATIO = 200  # unpacked to packed, beyond that
_GZIP = b"\x1f\x8b"


def head(path: Path) -> bytes:
    """The first bytes of a file, unpacked; nothing if it is a folder or cannot be read."""
    try:
        if not path.is_file():  # a pipe would wait for ever
            return b""
        with path.open("rb") as file:
            zipped = file.read(2) == _GZIP
        with gzip.open(path) if zipped else path.open("rb") as file:
            return file.read(_HEAD)
    except (OSError, EOFError, ValueError, zlib.error):
        return b""


def read_bytes(path: Path) -> bytes:
    """The content of a file, unpacked; at most `MOST_BYTES`, so that a small file cannot unpack to a whole disk."""
    try:
        if path.exists() and not path.is_file():  # a folder; or a device, which never ends
            raise TraceError(f"{path}: not a file")
        with path.open("rb") as file:
            zipped = file.read(2) == _GZIP
        with gzip.open(path) if zipped else path.open("rb") as file:
            most = min(MOST_BYTES, max(_FREE_BYTES, _MOST_RATIO * path.stat().st_size)) if zipped else MOST_BYTES
            content = file.read(most + 1)
    except (OSError, EOFError, ValueError, zlib.error) as error:
        raise TraceError(f"{path}: cannot be read: {error}") from error
    if len(content) > most:
        raise TraceError(f"{path}: larger than {format_bytes(most)} unpacked; expected a smaller file")
    return content


def looks_like_json(path: Path) -> bool:
    """Whether a file begins with a JSON object."""
    return head(path).lstrip()[:1] == b"{"


def read_json_object(path: Path) -> dict[str, Any]:
    """The JSON object in a file."""
    return parse_json(read_bytes(path), where=str(path), what="a trace in JSON", raising=TraceError)
