"""What a file calls its devices: a column of text, or nothing at all for devices that are only numbered."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from evsim.base.errors import TraceError
from evsim.base.vocabulary import IntArray

if TYPE_CHECKING:
    from collections.abc import Sequence

#: Text per device, (n,); of objects, so that taking and repeating devices copies references only.
Names = NDArray[np.object_]


def as_names(given: Sequence[str] | NDArray[Any] | None, n: int) -> Names | None:
    """A read-only column of names of `n` devices, or None."""
    if given is None:
        return None
    names = np.empty(len(given), dtype=object)
    names[:] = given
    if len(names) != n:
        raise TraceError(f"{len(names)} names for {n} devices; expected one name per device")
    names.flags.writeable = False
    return names


def called(names: Names | None, device: int) -> str:
    """A device in an error message: its name in quotes, else its number."""
    return str(device) if names is None else repr(names[device])


def find(wanted: Sequence[str] | Names, names: Names) -> IntArray:
    """The number of the device of each wanted name, -1 where there is none.

    >>> find(["b", "x"], as_names(["a", "b"], 2)).tolist()
    [1, -1]
    """
    import pyarrow.compute as pc

    found = pc.index_in(_text(wanted), value_set=_text(names)).fill_null(-1)
    return np.asarray(found.to_numpy(zero_copy_only=False)).astype(np.int64)


def repeated(names: Names) -> str | None:
    """A name that two devices have; None if there is none."""
    first = find(names, names)
    twice = np.flatnonzero(first != np.arange(len(names)))
    return str(names[twice[0]]) if twice.size else None


def _text(names: Sequence[str] | Names) -> Any:
    import pyarrow as pa

    try:
        return pa.array(names, pa.string())
    except (pa.ArrowException, TypeError) as error:
        raise TraceError(f"names of devices must be text: {error}") from error


def as_column_names(given: object) -> tuple[str, ...]:
    """Names of columns that a scenario asks for.

    Raises:
        TraceError: if they are not a list of different texts.
    """
    names = tuple(given) if isinstance(given, list | tuple) else ()
    if not isinstance(given, list | tuple) or not all(isinstance(each, str) for each in names):
        raise TraceError(f"columns: {given!r}; expected a list of names of columns")
    if len(set(names)) < len(names):
        raise TraceError(f"columns: {list(names)}; expected each once")
    return names
