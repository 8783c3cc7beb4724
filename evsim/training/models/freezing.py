"""Leaves that do not train: they stay bit for bit, and never travel."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import nn

from evsim.base.errors import ModelError, report
from evsim.training.models.leaves import keep_back, saved
from evsim.training.models.lora import adapters
from evsim.training.models.patterns import matching, unmatched

if TYPE_CHECKING:
    from collections.abc import Sequence


def freeze(model: nn.Module, patterns: Sequence[str]) -> None:
    """Freeze the leaves that a pattern matches, in place; a tied leaf goes by any of its names.

    Raises:
        ModelError: with every pattern that matches nothing.
    """
    _check("model.freeze", patterns, model)
    _freeze(model, set(matching(patterns, _names(model))))


def freeze_all_but_adapters(model: nn.Module, train: Sequence[str]) -> None:
    """Freeze everything but adapters and the leaves that a pattern matches, in place.

    Raises:
        ModelError: with every pattern that matches nothing.
    """
    _check("model.lora.train", train, model)
    names = _names(model)
    _freeze(model, set(names) - set(adapters(names)) - set(matching(train, names)))


def _check(key: str, patterns: Sequence[str], model: nn.Module) -> None:
    problems = unmatched(key, patterns, _names(model))
    if problems:
        raise ModelError(report(problems))


def _names(model: nn.Module) -> list[str]:
    """Every leaf that could train or travel, tied ones under all their names."""
    return list(dict.fromkeys([*saved(model), *(name for name, _ in model.named_parameters(remove_duplicate=False))]))


def _freeze(model: nn.Module, names: set[str]) -> None:
    """A norm whose statistics are frozen goes by them: it is put into evaluation mode."""
    for name, leaf in model.named_parameters(remove_duplicate=False):
        if name in names:
            leaf.requires_grad = False
    buffers = {name for name, _ in model.named_buffers()} & names
    keep_back(model, buffers)
    for path, module in model.named_modules():
        if isinstance(module, nn.modules.batchnorm._NormBase) and module.track_running_stats:  # noqa: SLF001
            own = {f"{path}.{name}" if path else name for name in ("running_mean", "running_var")}
            if own <= buffers:
                module.eval()
