"""Errors of a user's own code name slot, class and place, and show the user's own lines."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from evsim.base.errors import ModelError, TrainingError
from evsim.base.user_code import blame, own_frames, user_code


class Net:
    def forward(self, x: Any) -> Any:
        return self._halved(np.apply_along_axis(self._one, 0, x))  # through frames of a library

    def _one(self, x: Any) -> Any:
        raise ValueError("too short")

    def _halved(self, x: Any) -> Any:
        return x / 2


def test_an_error_names_slot_class_and_place_and_shows_only_the_users_frames() -> None:
    with pytest.raises(TrainingError) as caught, user_code(TrainingError, slot="model", cls=Net(), client=4, task=12):
        Net().forward(np.zeros(3))
    lines = str(caught.value).splitlines()
    assert lines[0] == "model Net (client 4, task 12): ValueError: too short"
    assert [line.split(":")[0] for line in lines[2:]] == [
        f"  test_user_code.py, line {Net.forward.__code__.co_firstlineno + 1}, in forward",
        f"  test_user_code.py, line {Net._one.__code__.co_firstlineno + 1}, in _one",
    ]
    assert lines[-1].endswith('raise ValueError("too short")')
    assert isinstance(caught.value.__cause__, ValueError)


def test_an_error_that_is_a_sentence_already_passes_unchanged() -> None:
    with pytest.raises(ModelError, match=r"^as it is$"), user_code(TrainingError, slot="model", cls=Net):
        raise ModelError("as it is")


@pytest.mark.parametrize("stop", [KeyboardInterrupt, SystemExit, GeneratorExit])
def test_what_is_no_mistake_passes_unchanged(stop: type[BaseException]) -> None:
    with pytest.raises(stop), user_code(TrainingError, slot="model", cls=Net):
        raise stop


def test_an_error_without_text_or_frames_is_still_a_line() -> None:
    assert blame(ValueError(), slot="merge", cls="Mine") == "merge Mine: ValueError"
    assert own_frames(ValueError("never raised")) == []
