"""Models of installed libraries, without their weights: nothing is downloaded.

``kind = "torchvision:resnet18"``, ``"timm:efficientnet_b0"``, ``"transformers:GPT2LMHeadModel"``. Each function here
turns the name after the colon into a function that makes the module; the options of its table go to the library.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from typing_extensions import override

from evsim.base.errors import ScenarioError, missing_extra, suggest

Maker = Callable[..., nn.Module]


def torchvision(name: str) -> Maker:
    """``torchvision.models.get_model(name, weights=None, num_classes=..., **options)``."""
    models = _imported("torchvision.models", "vision")
    _check(name, "torchvision", models.list_models())

    def make(num_classes: int, **options: Any) -> nn.Module:
        module: nn.Module = models.get_model(name, **{"weights": None, "num_classes": num_classes, **options})
        return module

    return make


def timm(name: str) -> Maker:
    """``timm.create_model(name, pretrained=False, num_classes=..., in_chans=..., **options)``."""
    library = _imported("timm", "vision")
    _check(name, "timm", library.list_models())

    def make(num_classes: int, in_chans: int, **options: Any) -> nn.Module:
        given = {"pretrained": False, "num_classes": num_classes, "in_chans": in_chans, **options}
        module: nn.Module = library.create_model(name, **given)
        return module

    return make


def transformers(name: str) -> Maker:
    """The class of this name, made of its ``config_class`` with the options; what it calls logits is its output.

    `num_labels` and, for texts, `vocab_size` are those of the data unless the options say otherwise.
    """
    library = _imported("transformers", "language")
    cls: Any = getattr(library, name, None)
    config_class = getattr(cls, "config_class", None)
    if not inspect.isclass(cls) or config_class is None:
        known = [each for each in dir(library) if each.endswith(("LMHeadModel", "ForCausalLM", "Classification"))]
        raise ScenarioError(f"transformers has no model class {name!r}; {suggest(name, known).partition(' (known')[0]}")

    def make(num_labels: int, vocab_size: int | None = None, **options: Any) -> nn.Module:
        known = {"num_labels": num_labels, "use_cache": False}
        known |= {} if vocab_size is None else {"vocab_size": vocab_size}
        module: nn.Module = _giving_logits(cls)(config_class(**{**known, **options}))
        return module

    return make


def _giving_logits(cls: Any) -> Any:
    """A model class whose output is a tensor; its leaves keep their names."""

    class Logits(cls):  # type: ignore[misc]
        @override
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            logits: torch.Tensor = super().forward(x).logits
            return logits

    Logits.__name__ = cls.__name__
    return Logits


def _imported(module: str, extra: str) -> Any:
    package = module.partition(".")[0]
    try:
        return importlib.import_module(module)
    except ImportError as error:
        if (error.name or "").partition(".")[0] != package:
            raise ScenarioError(f"{package} cannot be imported: {error}") from error
        raise ScenarioError(str(missing_extra(package, extra, f"a model of {package}"))) from error
    except Exception as error:  # built for another torch, say
        raise ScenarioError(f"{package} cannot be imported: {type(error).__name__}: {error}") from error


def _check(name: str, library: str, known: list[str]) -> None:
    if name not in known:
        near = suggest(name, known).partition(" (known")[0]
        raise ScenarioError(f"{library} has no model {name!r}; {near if near.startswith('did') else ''}".rstrip("; "))
