"""Weights from a file: every leaf of the model and nothing else, or an error that names what differs."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from evsim.base.errors import ModelError, Problem, report
from evsim.training.models.leaves import saved
from evsim.training.models.lora import adapters, merged
from evsim.training.models.patterns import listed, matching, unmatched

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from torch import nn

_KEY = "model.weights"
_FILE = "model.safetensors"


def load_weights(model: nn.Module, given: str, fresh: Sequence[str], folder: Path) -> None:
    """Give a model the leaves of a file, in place.

    Args:
        model: freshly built, adapters included.
        given: a .safetensors file or the folder of a run; a relative path begins in `folder`.
        fresh: patterns over names of leaves that are not taken from it, whatever it holds.
        folder: of the scenario.

    Raises:
        ModelError: with every leaf that is missing, that the model does not have, or that has another shape.
    """
    path = _file((folder / Path(given).expanduser()).resolve(), given)
    found = _read(path, given)
    own = saved(model)
    if adapters(found) and not adapters(own):
        found = merged(found, _scale(path))
    wanted = _wanted(model, own, found)
    problems = unmatched("model.fresh", fresh, list(own))
    kept = set(matching(fresh, own))
    taken = {name: own[name] for name in wanted if name not in kept}
    problems += _problems(given, taken, {name: leaf for name, leaf in found.items() if name not in kept})
    if problems:
        raise ModelError(report(problems))
    leaves = {**dict(model.named_parameters()), **dict(model.named_buffers())}  # `saved` gives detached ones
    for name in taken:
        _put(leaves[name], found[name])


def _file(path: Path, given: str) -> Path:
    if path.is_file():
        return path
    if not path.exists():
        expected = "a .safetensors file or the folder of a run"
        raise ModelError(report([Problem(_KEY, f"{given!r}: no such file", expected, f"looked for {path}")]))
    if (path / _FILE).is_file():
        return path / _FILE
    diverged = (path / "model.diverged.safetensors").is_file()
    what = "its run diverged" if diverged else f"no {_FILE} in it"
    raise ModelError(report([Problem(_KEY, f"{given!r}: {what}", "the folder of a run that trained a model")]))


def _read(path: Path, given: str) -> dict[str, torch.Tensor]:
    try:
        return load_file(path)
    except (SafetensorError, OSError, ValueError) as error:
        hint = "write one with safetensors.torch.save_file(module.state_dict(), path)"
        raise ModelError(
            report([Problem(_KEY, f"{given!r} cannot be read ({error})", "a .safetensors file", hint)])
        ) from error


def _scale(path: Path) -> float:
    """Alpha / rank of the adapters in a run's folder."""
    try:
        lora = tomllib.loads((path.parent / "scenario.toml").read_text(encoding="utf-8"))["model"]["lora"]
        return float(lora.get("alpha", lora["rank"])) / float(lora["rank"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        given = f"{path.name} has LoRA adapters, and no scenario.toml beside it says how they are scaled"
        expected = "a model.lora like theirs, or the folder of their run"
        raise ModelError(report([Problem(_KEY, given, expected)])) from error


def _wanted(model: nn.Module, own: Mapping[str, torch.Tensor], found: dict[str, torch.Tensor]) -> list[str]:
    """The names of the leaves that the file must have; other names of tied leaves are taken out of it."""
    first = {id(leaf): name for name, leaf in model.named_parameters()}
    for name, leaf in model.named_parameters(remove_duplicate=False):
        if name != first[id(leaf)] and name in found:
            tied = found.pop(name)
            found.setdefault(first[id(leaf)], tied)
    optional = [] if adapters(found) else adapters(own)  # those of a base start as they were drawn
    return [name for name in own if name not in optional]


def _problems(given: str, own: Mapping[str, torch.Tensor], found: Mapping[str, torch.Tensor]) -> Iterator[Problem]:
    missing = [name for name in own if name not in found]
    extra = [name for name in found if name not in own]
    hint = "model.fresh names leaves that shall not be taken from the file"
    if missing:
        yield Problem(_KEY, f"{given!r} lacks {listed(missing)}", "every leaf of the model", hint)
    if extra:
        yield Problem(_KEY, f"{given!r} also holds {listed(extra)}", "leaves of the model only")
    for name, leaf in own.items():
        if name in found and found[name].shape != leaf.shape:
            shapes = tuple(found[name].shape), tuple(leaf.shape)
            yield Problem(_KEY, f"{given!r}: '{name}' has shape {shapes[0]}", str(shapes[1]), hint)
        elif name in found and found[name].is_floating_point() != leaf.is_floating_point():
            kinds = (str(each.dtype).removeprefix("torch.") for each in (found[name], leaf))
            yield Problem(_KEY, f"{given!r}: '{name}' holds {next(kinds)}", next(kinds))


@torch.no_grad()
def _put(leaf: torch.Tensor, value: torch.Tensor) -> None:
    """Numbers of 64 bits stay such, since the run may be one of float64; half ones become what the leaf is."""
    leaf.data = value.to(torch.promote_types(leaf.dtype, value.dtype) if leaf.is_floating_point() else leaf.dtype)
