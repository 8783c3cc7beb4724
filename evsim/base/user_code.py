"""Whose code raised: an error inside a plug-in as one message with the slot, the class and the user's own lines.

Plug-ins (models, policies, data sets, factories) are a user's code and may raise anything. Wherever evsim calls them,
`user_code` turns what they raise into an `EvsimError`, which the command line prints with exit code 2.
"""

from __future__ import annotations

import sys
import traceback
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from evsim.base.errors import EvsimError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from types import FrameType

_SHOWN = 3  # frames; the last ones say most
#: Packages whose frames say nothing about a plug-in: evsim and what it is built on.
_NOT_THE_USERS = frozenset(
    {
        "click",
        "evsim",
        "matplotlib",
        "numpy",
        "pandas",
        "pyarrow",
        "pydantic",
        "rich",
        "scipy",
        "simpy",
        "torch",
        "typer",
    }
)


def blame(error: BaseException, *, slot: str, cls: object, details: Mapping[str, object] | None = None) -> str:
    """The text of an error that a user's code raised.

    Args:
        error: as caught; its traceback begins where it was caught.
        slot: of the plug-in, such as "model" or "selection".
        cls: the plug-in's class, an instance of it, or its name.
        details: where in the run, such as ``{"client": 4, "task": 12}``.

    Returns:
        A line such as ``model Net (client 4, task 12): ValueError: too short`` and, for each of the last three frames
        that are neither evsim's nor a library's, a line such as ``  net.py, line 9, in forward: return self.b(x)``.
        The same for errors from other processes, where the text has to be made.
    """
    where = ", ".join(f"{name} {value}" for name, value in (details or {}).items())
    text = str(error) if isinstance(error, EvsimError) else said(error)
    head = f"{slot} {_name(cls)}{f' ({where})' if where else ''}: {text}"
    return "\n".join([head, *(f"  {line}" for line in own_frames(error))])


@contextmanager
def user_code(raising: type[EvsimError], *, slot: str, cls: object, **details: object) -> Iterator[None]:
    """Turn whatever a plug-in raises into `raising`, with the text of `blame`; evsim's own errors pass.

    >>> with user_code(EvsimError, slot="model", cls="Net", client=4):
    ...     1 / 0
    Traceback (most recent call last):
    evsim.base.errors.EvsimError: model Net (client 4): ZeroDivisionError: division by zero
    """
    try:
        yield
    except EvsimError:
        raise
    except Exception as error:  # a user's code may raise anything
        raise raising(blame(error, slot=slot, cls=cls, details=details)) from error


def said(error: BaseException) -> str:
    """The kind of an error and what it says.

    >>> said(ValueError("too short"))
    'ValueError: too short'
    """
    text = str(error).strip()
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def causes(error: BaseException) -> Iterator[BaseException]:
    """An error and what caused it, the first cause last: SimPy raises a copy that has lost its frames."""
    seen: set[int] = set()
    found: BaseException | None = error
    while found is not None and id(found) not in seen:
        seen.add(id(found))
        yield found
        found = found.__cause__ or found.__context__


def own_frames(error: BaseException) -> list[str]:
    """The last frames of a traceback that are a user's own: file, line, function and source."""
    steps = traceback.walk_tb(error.__traceback__)
    own = [(frame, line) for frame, line in steps if is_the_users(frame)][-_SHOWN:]
    summary = traceback.StackSummary.extract(iter(own))
    found = [f"{Path(each.filename).name}, line {each.lineno}, in {each.name}: {each.line}" for each in summary]
    return [line.removesuffix(": ") for line in found]


def is_the_users(frame: FrameType) -> bool:
    """Whether a frame runs code that is neither evsim's nor a library's."""
    package = str(frame.f_globals.get("__name__", "")).partition(".")[0]
    return package not in _NOT_THE_USERS and package not in sys.stdlib_module_names


def _name(cls: object) -> str:
    return cls if isinstance(cls, str) else (cls if isinstance(cls, type) else type(cls)).__name__
