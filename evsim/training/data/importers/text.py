"""Texts of one length as token ids."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from evsim.base.errors import DataError
from evsim.base.vocabulary import IntArray

PAD = ""  # what token 0 stands for where texts are filled up


def characters(texts: Sequence[str], also: Sequence[str] = ()) -> tuple[str, ...]:
    """The characters that occur, in order."""
    return tuple(sorted(set().union(*texts, *also)))


def encode(texts: Sequence[str], vocabulary: tuple[str, ...], where: str, length: int | None = None) -> IntArray:
    """Texts as token ids, (n, length), one per character; shorter ones are filled up with token 0 in front.

    Raises:
        DataError: if they differ in length and `length` is not given.
    """
    sizes = np.array([len(text) for text in texts])
    wanted = length or int(sizes[0])
    if wanted < 1:
        raise DataError(f"{where}: sample 0 is an empty text; expected characters, or say -o length=N")
    ragged = np.flatnonzero(sizes != wanted)
    if length is None and len(ragged):
        raise DataError(
            f"{where}: sample {ragged[0]} has {sizes[ragged[0]]} characters, sample 0 has {wanted}; "
            "expected texts of one length; -o length=N cuts and fills them"
        )
    even = [text[:wanted].rjust(wanted, "\0") for text in texts]
    codes = np.array(even, dtype=f"U{wanted}").view(np.uint32).reshape(len(texts), wanted)
    table = np.zeros(max([ord(each) for each in vocabulary if each] + [int(codes.max(initial=0))]) + 1, np.int64)
    for token, character in enumerate(vocabulary):
        if character != PAD:
            table[ord(character)] = token
    return table[codes]
