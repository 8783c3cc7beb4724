"""An unpickler that builds plain containers, numbers, strings and NumPy arrays, and never runs code.

A pickle is a program: it names functions and calls them. Here only the names below exist, and those of NumPy stand for
functions of ours that build an array from its bytes. Any other name is refused, by name, before anything is called.
"""

from __future__ import annotations

import pickle
from dataclasses import dataclass
from io import BytesIO
from typing import TYPE_CHECKING, Any, final

import numpy as np
from typing_extensions import override

from evsim.base.errors import TraceError
from evsim.traces.formats._files import read_bytes
from evsim.traces.formats.prescan import prescan

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

_CONTAINERS = (dict, list, tuple, set, frozenset)
_DEEPEST = 200  # containers in containers
_MOST_ITEMS = 500_000_000  # counted as often as they are shared
_KINDS = "biufcSU"  # of NumPy types without references to objects


def load_plain(path: Path) -> Any:
    """The object in a pickle file.

    Raises:
        TraceError: if the file is no pickle, is truncated, or asks for anything but plain data.
    """
    return loads_plain(read_bytes(path), str(path))


def loads_plain(content: bytes, where: str = "pickle") -> Any:
    """The object in a pickle.

    >>> import numpy, pickle
    >>> loads_plain(pickle.dumps({"a": [1, 2.5, "x"], "b": numpy.arange(2)}))
    {'a': [1, 2.5, 'x'], 'b': array([0, 1])}
    """
    prescan(content, where)
    unpickler = _PlainUnpickler(BytesIO(content), where)
    try:
        loaded = unpickler.load()
        _check_proportion(loaded, where)
        return _finished(loaded, {}) if unpickler.saw_numpy else loaded
    except TraceError:
        raise
    except Exception as error:  # a broken pickle fails in any operation at all
        raise TraceError(f"{where}: not a readable pickle ({type(error).__name__}: {error})") from error


@final
class _PlainUnpickler(pickle.Unpickler):
    def __init__(self, file: BytesIO, where: str) -> None:
        super().__init__(file, encoding="latin1")  # texts of Python 2 may be bytes
        self._where = where
        self.saw_numpy = False

    @override
    def find_class(self, module: str, name: str, /) -> Any:
        if (module, name) in _PLAIN:
            return _Only(_PLAIN[module, name])
        if (module.replace("numpy.core", "numpy._core"), name) in _NUMPY:  # NumPy 1 and 2
            self.saw_numpy = True
            return _Only(_NUMPY[module.replace("numpy.core", "numpy._core"), name])
        raise TraceError(
            f"{self._where}: asks for {module}.{name}; expected plain containers, numbers, strings and NumPy arrays"
        )


@final
class _Only:
    """A function that a pickle may call, and do nothing else with: BUILD would change it for everybody."""

    __slots__ = ("_call",)

    def __init__(self, call: Callable[..., Any]) -> None:
        self._call = call

    def __call__(self, *arguments: Any) -> Any:
        return self._call(*arguments)

    def __setstate__(self, state: object) -> None:
        raise TraceError("operation BUILD on a function; expected plain data")


@final
class _Dtype:
    """Stands for `numpy.dtype` while unpickling: a simple type and its byte order."""

    def __init__(self, code: str, align: object = None, copy: object = None) -> None:
        self.type = np.dtype(str(code))
        if self.type.kind not in _KINDS or self.type.names is not None or self.type.subdtype is not None:
            raise TraceError(f"NumPy type {code!r}; expected numbers, booleans or strings")

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        order, simple = state[1], state[2:5] == (None, None, None)
        if order not in "<>|=" or not simple:
            raise TraceError("a structured NumPy type; expected numbers, booleans or strings")
        self.type = self.type.newbyteorder(order)


@final
class _Array:
    """Stands for `numpy.ndarray` while unpickling."""

    value: np.ndarray[Any, Any]

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _, shape, dtype, fortran, raw = state
        self.value = _array(raw, dtype, shape, "F" if fortran else "C")


@final
@dataclass(frozen=True)
class _Scalar:
    value: np.generic


def _array(raw: bytes | str, dtype: _Dtype, shape: tuple[int, ...], order: str) -> np.ndarray[Any, Any]:
    content = raw.encode("latin1") if isinstance(raw, str) else bytes(raw)
    flat = np.frombuffer(content, dtype=dtype.type)
    return flat.reshape(shape, order="F" if order == "F" else "C").astype(dtype.type.newbyteorder("="))


def _reconstruct(_kind: type, _shape: tuple[int, ...], _code: bytes) -> _Array:
    return _Array()


def _frombuffer(raw: bytes, dtype: _Dtype, shape: tuple[int, ...], order: str) -> _Array:
    made = _Array()
    made.value = _array(raw, dtype, shape, order)
    return made


def _scalar(dtype: _Dtype, raw: bytes | str) -> _Scalar:
    return _Scalar(_array(raw, dtype, (1,), "C")[0])


def _encode(text: str, encoding: str) -> bytes:
    """How old pickle protocols write bytes."""
    if encoding not in ("latin1", "latin-1"):
        raise TraceError(f"bytes encoded as {encoding!r}; expected 'latin1'")
    return text.encode("latin1")


def _check_proportion(made: Any, where: str) -> None:
    """Refuse depth without end, and lists shared so often that their text would never end."""
    sizes: dict[int, int] = {}

    def size(value: Any, depth: int) -> int:
        if depth > _DEEPEST:
            raise TraceError(f"{where}: not a readable pickle: nested too deeply")
        if id(value) not in sizes:
            parts = [*value.keys(), *value.values()] if isinstance(value, dict) else value
            inner = [part for part in parts if isinstance(part, _CONTAINERS)]
            sizes[id(value)] = len(parts) + sum(size(part, depth + 1) for part in inner)
        return sizes[id(value)]

    if isinstance(made, _CONTAINERS) and (items := size(made, 0)) > _MOST_ITEMS:
        raise TraceError(f"{where}: not a readable pickle: stands for {items} items, one inside the other")


def _finished(made: Any, known: dict[int, Any]) -> Any:
    """A copy in which arrays and NumPy scalars take the place of their stand-ins; what is shared stays shared."""
    if isinstance(made, _Array | _Scalar):
        return made.value
    if isinstance(made, _Dtype):
        return made.type
    if not isinstance(made, _CONTAINERS):
        return made
    if id(made) not in known:
        if isinstance(made, dict):
            known[id(made)] = {_finished(key, known): _finished(value, known) for key, value in made.items()}
        else:
            known[id(made)] = type(made)(_finished(item, known) for item in made)
    return known[id(made)]


def _bytes(*given: Any) -> bytes:
    """`bytes`, of bytes: of a number it would take as much memory as the number says."""
    return bytes(_sized(given))


def _bytearray(*given: Any) -> bytearray:
    return bytearray(_sized(given))


def _sized(given: tuple[Any, ...]) -> bytes:
    if not given:
        return b""
    if isinstance(given[0], str):
        return _encode(*given)
    if not isinstance(given[0], bytes | bytearray | list):
        raise TraceError(f"bytes of {type(given[0]).__name__}; expected bytes")
    return bytes(given[0])


_PLAIN: dict[tuple[str, str], Callable[..., Any]] = (
    {(module, kind.__name__): kind for module in ("builtins", "__builtin__") for kind in (set, frozenset, complex)}
    | {
        (module, name): made
        for module in ("builtins", "__builtin__")
        for name, made in (("bytes", _bytes), ("bytearray", _bytearray))
    }
    | {("collections", "OrderedDict"): dict, ("_codecs", "encode"): _encode}
)
_NUMPY: dict[tuple[str, str], Callable[..., Any]] = {
    ("numpy", "dtype"): _Dtype,
    ("numpy", "ndarray"): _Array,
    ("numpy._core.multiarray", "_reconstruct"): _reconstruct,
    ("numpy._core.multiarray", "scalar"): _scalar,
    ("numpy._core.numeric", "_frombuffer"): _frombuffer,
}
