"""Shakespeare by speaking role: guess the next character from the 80 before it, as LEAF's task of this name.

LEAF (Caldas et al. 2018) cuts all that a role says into windows; a client is a role. The text is another edition than
LEAF's, with 652 roles of at least 1,000 characters, so figures are near those of the literature, not the same.
"""

from __future__ import annotations

import lzma
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, final

import numpy as np
from numpy.typing import NDArray
from typing_extensions import override

from evsim.base.bundled import bundled_data
from evsim.base.errors import DataError, require
from evsim.base.vocabulary import BoolArray, IntArray
from evsim.training.data.base import DataSet, Samples
from evsim.training.data.gathered import Gathered

#: LEAF's characters; a label and a token is a place in it.
LETTERS = "\n !\"&'(),-.0123456789:;>?ABCDEFGHIJKLMNOPQRSTUVWXYZ[]abcdefghijklmnopqrstuvwxyz}"


@final
@dataclass(frozen=True, kw_only=True)
class Shakespeare(DataSet):
    """Windows of text by role, 80 characters, natural clients in the order of the plays.

    The first part of what a role says is learnt from, the last is the test set; no window lies in both.

    Attributes:
        window: characters that the next one is guessed from.
        stride: characters from one window to the next; 1 is LEAF's, and trains each role on every character.
        most_samples: bound on a role's windows, the first ones; None: no bound.
        test_share: share of what each role says, at the end, that is tested on.
        most_test_samples: so many windows of all test windows, evenly spaced; None: all.
        labels: "last": the character after the window; "every": the one after each character of the window, for the
            objective next_token. Windows with a stride below their size then tell the same characters several times.
    """

    window: int = 80
    stride: int = 1
    most_samples: int | None = None
    test_share: float = 0.2
    most_test_samples: int | None = 4000
    labels: Literal["last", "every"] = "last"

    def __post_init__(self) -> None:
        require(self.window >= 1, "window must be >= 1", window=self.window)
        require(self.stride >= 1, "stride must be >= 1", stride=self.stride)
        require(0 < self.test_share < 1, "0 < test_share < 1 must hold", test_share=self.test_share)
        most, tested = self.most_samples, self.most_test_samples
        require(most is None or most >= 1, "most_samples must be >= 1", most_samples=most)
        require(tested is None or tested >= 1, "most_test_samples must be >= 1", most_test_samples=tested)

    @override
    def load(self, *, n_clients: int | None, seed: int, folder: Path) -> Samples:
        codes, bounds, _ = read_roles()
        starts, role, is_test = self._windows(bounds)
        if not (~is_test).any() or not is_test.any():
            raise DataError(f"shakespeare: no role says enough for windows of {self.window} characters")
        windows = np.lib.stride_tricks.sliding_window_view(codes, self.window)
        groups = np.where(is_test, -1, role)
        every = self.labels == "every"
        y = windows[starts + 1].astype(np.int8) if every else codes[starts + self.window].astype(np.int64)
        made = Gathered(windows, starts), y, len(LETTERS), groups, "shakespeare", len(LETTERS), is_test
        return Samples(*made, "steps" if every else "classes")

    def _windows(self, bounds: IntArray) -> tuple[IntArray, IntArray, BoolArray]:
        """First character of each window, its role, and whether it is tested on; role after role, then the tests."""
        first, sizes = bounds[:-1], np.diff(bounds)
        cut = first + np.rint(sizes * (1 - self.test_share)).astype(np.int64)
        train, role = self._starts(first, cut, self.most_samples)
        test, test_role = self._starts(cut, bounds[1:], None)
        if self.most_test_samples is not None and len(test) > self.most_test_samples:
            picked = np.linspace(0, len(test) - 1, self.most_test_samples).astype(np.int64)
            test, test_role = test[picked], test_role[picked]
        is_test = np.arange(len(train) + len(test)) >= len(train)
        return np.concatenate([train, test]), np.concatenate([role, test_role]), is_test

    def _starts(self, first: IntArray, stop: IntArray, most: int | None) -> tuple[IntArray, IntArray]:
        """Where windows begin that lie, with the character after them, between first and stop of a role."""
        counts = np.maximum(stop - first - self.window - 1 + self.stride, 0) // self.stride
        counts = counts if most is None else np.minimum(counts, most)
        role = np.repeat(np.arange(len(first)), counts)
        rank = np.arange(len(role)) - np.repeat(np.cumsum(counts) - counts, counts)
        return first[role] + rank * self.stride, role


def read_roles() -> tuple[NDArray[np.uint8], IntArray, list[str]]:
    """Characters of all roles as places in `LETTERS`; where each role begins, and one past the last; their names.

    The speeches of a role are joined by a space.

    Raises:
        DataError: if the bundled text is not there or damaged.
    """
    folder = bundled_data("shakespeare")
    if folder is None:
        raise DataError("shakespeare: its text is not installed with evsim; expected datasets/shakespeare")
    try:
        text = lzma.decompress((folder / "shakespeare.txt.xz").read_bytes()).decode("ascii")
    except (OSError, lzma.LZMAError, UnicodeDecodeError) as error:
        raise DataError(f"shakespeare: the bundled text cannot be read: {error}") from error
    roles = [role.split("\n", 1) for role in text.removeprefix("= ").split("\n= ")]
    said = [speeches.strip().replace("\n", " ") for _, speeches in roles]
    bounds = np.concatenate([[0], np.cumsum([len(each) for each in said])]).astype(np.int64)
    place = np.zeros(128, np.uint8)
    place[np.frombuffer(LETTERS.encode("ascii"), np.uint8)] = np.arange(len(LETTERS))
    return place[np.frombuffer("".join(said).encode("ascii"), np.uint8)], bounds, [name for name, _ in roles]
