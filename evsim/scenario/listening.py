"""The slot of listeners: plain classes that a run makes and tells what happens."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import Any, final

from typing_extensions import override

from evsim.base import registry
from evsim.base.errors import EvsimError, ListenerError, ScenarioError
from evsim.base.user_code import user_code


class Listener(ABC):
    """How to make a listener; each run makes its own."""

    @abstractmethod
    def make(self) -> object:
        """A fresh listener: an object with any of the methods of `timeline/audience.py`."""


@final
@dataclass(frozen=True, kw_only=True)
class Listening(Listener):
    """A class, or a function that gives an object, called with `options`.

    Attributes:
        target: a kind that evsim brings, or ``module:class`` or ``file.py:class``.
        options: its arguments.
    """

    target: str
    options: dict[str, Any] = field(default_factory=dict)

    @override
    def make(self) -> object:
        try:
            found = registry.load("listener", self.target)
            with user_code(ListenerError, slot="listener", cls=self.target, step="made"):
                return found(**self.options)
        except EvsimError as error:
            raise ScenarioError(f"listener {self.target}: {error}") from error
