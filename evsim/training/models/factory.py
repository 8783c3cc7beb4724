"""A model of your own, or of a library: from the class or function that makes it."""

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

_IMAGE = 3  # channels, height, width


@final
@dataclass(frozen=True, kw_only=True)
class Factory(Model):
    """A model of your own: ``module:name`` of a class or function, called with `options`, that gives an `nn.Module`.

    What the data is like it gets by the names of its parameters, each unless the options say otherwise:

    - ``shape``: of one sample, without the batch; ``in_channels`` or ``in_chans``: its first number, for images;
    - ``n_classes``, ``num_classes`` or ``num_labels``: the number of classes;
    - ``n_tokens`` or ``vocab_size``: the number of token ids, None where inputs are no tokens.
    """

    target: str
    options: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        require(":" in self.target, "target must be 'module:function'", target=self.target)

    @override
    def build(self, *, shape: tuple[int, ...], n_classes: int, n_tokens: int | None, seed: int) -> nn.Module:
        make = self._function()
        known: dict[str, Any] = {"shape": shape, **dict.fromkeys(("n_classes", "num_classes", "num_labels"), n_classes)}
        known |= dict.fromkeys(("n_tokens", "vocab_size"), n_tokens)
        known |= dict.fromkeys(("in_channels", "in_chans"), shape[0]) if len(shape) == _IMAGE else {}
        wanted = {each.name: known[each.name] for each in registry.parameters_of(make) if each.name in known}

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
