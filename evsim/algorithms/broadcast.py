"""Broadcasts: what the server sends."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, final

from typing_extensions import override

from evsim.algorithms.base import Broadcast, State, Wires

if TYPE_CHECKING:
    from evsim.algorithms.tree import Payload


@final
@dataclass(frozen=True, kw_only=True)
class FullModel(Broadcast):
    """The whole model and its buffers to every client: 1x."""

    @override
    def wires(self, model: Wires) -> Wires:
        return model

    @override
    def send(self, server: State) -> Payload:
        return {"model": server["model"], "buffers": server["buffers"]}
