"""Texts of one length as token ids."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from evsim.base.errors import DataError
from evsim.base.vocabulary import IntArray

PAD = ""  # what token 0 stands for where texts are filled up
UNKNOWN, BEGIN, END = "<unknown>", "<begin>", "<end>"


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


def frequent_words(counts: Counter[str], most: int, *marks: str) -> tuple[str, ...]:
    """Filling, unknown words, the marks, and the `most` most frequent words, the first in the alphabet of equals.

    >>> frequent_words(Counter("to be or not to be".split()), 2)
    ('', '<unknown>', 'be', 'to')
    """
    ranked = sorted(counts, key=lambda word: (-counts[word], word))
    return (PAD, UNKNOWN, *marks, *ranked[:most])


def encode_words(texts: Sequence[str], vocabulary: tuple[str, ...], length: int) -> IntArray:
    """The first `length` words of texts as token ids, (n, length); shorter ones are filled up with token 0 in front."""
    token, found = numbers_of(vocabulary), np.zeros((len(texts), length), np.int64)
    for row, text in enumerate(texts):
        ids = word_ids(text.split(), token)[:length]
        found[row, length - len(ids) :] = ids
    return found


def next_words(sentences: Sequence[str], vocabulary: tuple[str, ...], length: int) -> IntArray:
    """The `length` words of each sentence, and its end if it is shorter, (n, length); -1 from there on.

    Each is to be guessed from the beginning and the words before it (Reddi et al. 2021, appendix C.4).
    """
    token, found = numbers_of(vocabulary), np.full((len(sentences), length), -1, np.int64)
    for row, sentence in enumerate(sentences):
        ids = [*word_ids(sentence.split(), token), token[END]][:length]
        found[row, : len(ids)] = ids
    return found


def numbers_of(vocabulary: tuple[str, ...]) -> dict[str, int]:
    """The token id of each word."""
    return {word: number for number, word in enumerate(vocabulary)}


def word_ids(words: Iterable[str], token: Mapping[str, int]) -> list[int]:
    """Token ids of words; an unknown one has id 1."""
    return [token.get(word, 1) for word in words]
