"""A model of your own, from a function that makes it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, final

from torch import nn
from typing_extensions import override

from evsim.base import registry
from evsim.base.errors import ModelError, ScenarioError, require
from evsim.base.user_code import user_code
from evsim.training.models.base import Model, materialized, seeded


@final
@dataclass(frozen=True, kw_only=True)
class Factory(Model):
    """A model of your own: ``module:function``, called with `options` and returning an `nn.Module`.

    If the function has parameters named shape, n_classes or n_tokens, it gets them too.
    """

    target: str
    options: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        require(":" in self.target, "target must be 'module:function'", target=self.target)

    @override
    def build(self, *, shape: tuple[int, ...], n_classes: int, n_tokens: int | None, seed: int) -> nn.Module:
        import inspect

        make = self._function()
        known = {"shape": shape, "n_classes": n_classes, "n_tokens": n_tokens}
        wanted = {name: known[name] for name in inspect.signature(make).parameters if name in known}

        def made() -> nn.Module:
            module = make(**{**wanted, **self.options})
            if not isinstance(module, nn.Module):
                raise ModelError(f"{self.target}: gave {type(module).__name__}; expected a torch.nn.Module")
            return materialized(module, shape, n_tokens)

        with user_code(ModelError, slot="model", cls=self.target, **{"while": "it is built"}):
            return seeded(seed, made)

    def _function(self) -> Callable[..., Any]:
        try:
            found: Callable[..., Any] = registry.load("model", self.target)
        except ScenarioError as error:
            raise ModelError(f"model.target: {error}") from error
        return found
