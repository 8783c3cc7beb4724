"""Which leaves of a module are trained, which are averaged, and which stay where they are.

*Trained*: parameters that require gradients, and nothing else. Only they are in the server's model, in updates, in the
state of any optimizer, and paid for. *Averaged*: buffers of floating-point numbers and of integers that belong to the
state dict. All else never travels: frozen parameters (``requires_grad=False``) stay bit for bit as they were built,
and boolean buffers, buffers that are not persistent and those that are kept back begin every task as they were built. A
leaf with several names (tied weights) is one leaf, under its first name.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn
from torch.nn.parameter import is_lazy

from evsim.algorithms.wires import Wire, Wires
from evsim.base.errors import ModelError, Problem, report

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from evsim.algorithms.tree import Tree

_SHOWN = 4  # names in a message
_KEPT_BACK = "evsim_buffers_kept_back"  # on the outermost module


def trained(model: nn.Module) -> dict[str, nn.Parameter]:
    """Parameters that require gradients, by their first name."""
    return {name: leaf for name, leaf in model.named_parameters() if leaf.requires_grad}


def keep_back(model: nn.Module, buffers: Iterable[str]) -> None:
    """Say that some buffers never travel."""
    setattr(model, _KEPT_BACK, frozenset(buffers))


def averaged(model: nn.Module) -> Tree:
    """Buffers that clients send and the server averages."""
    local = _not_persistent(model) | getattr(model, _KEPT_BACK, frozenset())
    return {name: leaf for name, leaf in model.named_buffers() if name not in local and leaf.dtype != torch.bool}


def local(model: nn.Module) -> Tree:
    """Buffers that never travel."""
    sent = averaged(model)
    return {name: leaf for name, leaf in model.named_buffers() if name not in sent}


def saved(model: nn.Module) -> Tree:
    """What a file of the model holds: all parameters and the buffers that belong to the state dict."""
    left_out = _not_persistent(model)
    buffers = {name: leaf for name, leaf in model.named_buffers() if name not in left_out}
    return {**{name: leaf.detach() for name, leaf in model.named_parameters()}, **buffers}


def wires(model: nn.Module, bits: int) -> Wires:
    """How the dense model travels, in numbers of so many bits."""
    leaves: dict[str, Tree] = {"model": {**trained(model)}, "buffers": averaged(model)}
    return {
        name: {k: Wire(leaf.numel(), leaf.numel(), bits) for k, leaf in tree.items()} for name, tree in leaves.items()
    }


def check_leaves(model: nn.Module) -> None:
    """Refuse what cannot be trained or averaged.

    Raises:
        ModelError: with every problem found.
    """
    problems = list(_problems(model))
    if problems:
        raise ModelError(report(problems))


def uninitialised(model: nn.Module) -> list[str]:
    """Names of lazy leaves that have no shape yet."""
    return [name for name, leaf in _leaves(model) if is_lazy(leaf)]


def _problems(model: nn.Module) -> Iterator[Problem]:
    if any(isinstance(module, torch.jit.ScriptModule) for module in model.modules()):
        yield Problem(
            "model", "a scripted module", "a plain torch.nn.Module: a script's parameters cannot be exchanged"
        )
        return
    lazy = uninitialised(model)
    if lazy:
        expected = "leaves with a shape: run one batch through lazy layers where the model is built"
        yield Problem("model", f"{_listed(lazy)} not initialised", expected)
        return
    unreal = [name for name, leaf in _leaves(model) if leaf.is_complex()]
    if unreal:
        yield Problem("model", f"{_listed(unreal)} of complex numbers", "real ones, such as torch.view_as_real gives")
    if not any(True for _ in model.parameters()):
        yield Problem("model", "no parameters", "something to train")
    elif not trained(model):
        yield Problem("model", "every parameter has requires_grad = False", "at least one to train")


def _leaves(model: nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    yield from model.named_parameters()
    yield from model.named_buffers()


def _not_persistent(model: nn.Module) -> set[str]:
    paths = model.named_modules(remove_duplicate=False)
    return {f"{path}.{name}" if path else name for path, m in paths for name in m._non_persistent_buffers_set}  # noqa: SLF001


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(f"'{name}'" for name in names[:_SHOWN]) + more
