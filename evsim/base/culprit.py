"""Which plug-in an unexpected error comes from: the last resort at the edge of the program.

Where evsim calls a plug-in and knows for which client, it says so itself (`user_code`). A plug-in is called in many
more places, and may also give something that evsim stumbles over later; the traceback then still tells whose it was.
"""

from __future__ import annotations

import traceback
from collections.abc import Iterator, Mapping
from types import CodeType, FrameType, ModuleType
from typing import Any

from evsim.base import registry
from evsim.base.user_code import blame, causes

_SHOWN = 3  # frames of evsim
_ALLOCATING = ("allocate memory", "out of memory", "Storage size calculation overflowed")  # torch's words
_FACTS = ("client", "task", "version")  # of a task or a report, wherever one is at hand


def explain(error: BaseException) -> str | None:
    """An error as a message with slot, class, client, task and model version, as far as they are known.

    Returns:
        None if no plug-in has to do with it, and memory was no matter: then it is a fault of evsim, and its traceback
        is needed.
    """
    large = _too_large(error)
    if large is not None:
        return large
    running = named(error)
    if running is not None:
        return running
    chain, frames = _told_by(error)
    suspects = next((near for frame in reversed(frames) if (near := list(_holds(frame)))), None) or _all()
    if not suspects:
        return None
    head = blame(chain[-1], slot="", cls=" or ".join(suspects), details=_facts(frames)).strip()
    where = "".join(f"\n  {_place(frame)}" for frame in frames[-_SHOWN:])
    return f"{head}\nit seems to have given something that evsim cannot use, which is met in{where}"


def named(error: BaseException) -> str | None:
    """An error as a message that names the plug-in whose code was running; None if none was."""
    chain, frames = _told_by(error)
    for frame in reversed(frames):
        found = _runs(frame)
        if found is not None:
            return blame(chain[-1], slot=found[0], cls=found[1], details=_facts(frames))
    return None


def _told_by(error: BaseException) -> tuple[list[BaseException], list[FrameType]]:
    """An error with its causes, and the frames of all of them."""
    chain = list(causes(error))
    return chain, [frame for each in chain for frame, _ in traceback.walk_tb(each.__traceback__)]


def _too_large(error: BaseException) -> str | None:
    """What to say if something did not fit into memory, which libraries tell in their own ways."""
    said = str(error).strip().partition("\n")[0]
    torchs = isinstance(error, RuntimeError) and any(word in said for word in _ALLOCATING)
    if torchs or isinstance(error, MemoryError):
        return f"not enough memory ({said or type(error).__name__}); make the model, the data or the population smaller"
    return None


def _runs(frame: FrameType) -> tuple[str, str] | None:
    """The plug-in whose code a frame executes: a method of its class, itself, or something in its module."""
    own = frame.f_locals.get("self", frame.f_locals.get("cls"))
    classes = (own if isinstance(own, type) else type(own)).__mro__
    for plug_in, slot in registry.plug_ins().items():
        if plug_in in classes and not _evsims(frame):
            return slot, plug_in.__name__
        if _code(plug_in) is frame.f_code:
            return slot, plug_in.__name__
    for plug_in, slot in registry.plug_ins().items():
        if frame.f_globals.get("__name__") == _module(plug_in):
            return slot, type(own).__name__ if own is not None else plug_in.__name__
    return None


def _all() -> list[str]:
    """Every plug-in there is, in words."""
    return [f"{slot} {plug_in.__name__}" for plug_in, slot in registry.plug_ins().items()]


def _holds(frame: FrameType) -> Iterator[str]:
    """Plug-ins that a frame of evsim works with, in words."""
    own = frame.f_locals.get("self")
    near = [*frame.f_locals.values(), *(vars(own).values() if hasattr(own, "__dict__") else ())]
    known = registry.plug_ins()
    for value in near:
        for each in type(value).__mro__:
            if isinstance(each, type) and each in known:
                yield f"{known[each]} {each.__name__}"


def _facts(frames: list[FrameType]) -> Mapping[str, object]:
    """Client, task and model version, from the innermost frame that has a task or a report at hand."""
    for frame in reversed(frames):
        for value in frame.f_locals.values():
            if type(value).__module__.startswith("evsim.") and all(hasattr(value, name) for name in _FACTS):
                return {name: getattr(value, name) for name in _FACTS}
    return {}


def _code(plug_in: Any) -> CodeType | None:
    return getattr(plug_in, "__code__", None)


def _module(plug_in: Any) -> str:
    return plug_in.__name__ if isinstance(plug_in, ModuleType) else str(plug_in.__module__)


def _evsims(frame: FrameType) -> bool:
    return str(frame.f_globals.get("__name__", "")).startswith("evsim.")


def _place(frame: FrameType) -> str:
    return f"{frame.f_globals.get('__name__')}, line {frame.f_lineno}, in {frame.f_code.co_name}"
