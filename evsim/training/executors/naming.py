"""Errors of a user's model or client rule name the task in which they were raised."""

from __future__ import annotations

import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch

from evsim.algorithms.base import ClientRule
from evsim.base.errors import EvsimError, TrainingError
from evsim.base.user_code import blame

if TYPE_CHECKING:
    from evsim.training.executors.base import Job, TrainTask

_ONE_SAMPLE = "Expected more than 1 value per channel"  # what BatchNorm says of it


@contextmanager
def naming(job: Job, task: TrainTask) -> Iterator[None]:
    """Turn what the model or the client rule raises into a `TrainingError`; evsim's own errors pass."""
    try:
        yield
    except EvsimError:
        raise
    except Exception as error:
        details = {"client": task.client, "task": task.task, "model version": task.version}
        slot, cls = _culprit(job, error)
        raise TrainingError(blame(error, slot=slot, cls=cls, details=details) + _hint(error)) from error


def out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out, on a GPU or on the host."""
    if isinstance(error, MemoryError | torch.cuda.OutOfMemoryError):
        return True
    text = str(error)
    if "not enough memory" in text or "can't allocate memory" in text:
        return True
    return error.__cause__ is not None and out_of_memory(error.__cause__)


def _culprit(job: Job, error: BaseException) -> tuple[str, object]:
    """Slot and object of the innermost module or client rule at work; if there is none, whose values are unfit."""
    for frame, _ in reversed(list(traceback.walk_tb(error.__traceback__))):
        at_work = frame.f_locals.get("self")
        if isinstance(at_work, torch.nn.Module):
            break
        if isinstance(at_work, ClientRule) and not type(at_work).__module__.startswith("evsim."):
            return "client_rule", at_work
    own_rule = not type(job.rule).__module__.startswith("evsim.")  # evsim's own give what is expected
    return ("client_rule", f"{type(job.rule).__name__} or the model") if own_rule else ("model", job.model)


def _hint(error: BaseException) -> str:
    """What to do, where we know."""
    if _ONE_SAMPLE not in str(error):
        return ""
    return "\n  the mini-batch held one sample, which BatchNorm cannot train on: set client_rule.drop_last = true"
