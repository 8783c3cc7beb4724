"""Google's Speech Commands (Warden 2018): a folder per word, files ``SPEAKER_nohash_N.wav``; a speaker is a client."""

from __future__ import annotations

import warnings
from functools import partial
from pathlib import Path

import numpy as np

from evsim.base.errors import DataError
from evsim.base.vocabulary import FloatArray
from evsim.training.data.importers._files import existing_folder
from evsim.training.data.table import Decoded, Table

_RATE = 16_000  # samples per second
_WINDOW, _HOP = 400, 160  # samples: 25 ms and 10 ms
_POINTS = 512  # of the Fourier transform
_FLOOR = 1e-6  # of a power, before the logarithm


def read(source: str, *, mels: int = 32, words: str | None = None) -> Table:
    """Log-mel spectra of one second, (1, mels, 98); the test set is that of testing_list.txt.

    Args:
        source: the folder of the folders.
        mels: frequency bands.
        words: the words to keep, divided by commas; default: all.
    """
    root = existing_folder(Path(source), "Speech Commands: a folder per word")
    wanted = set(words.split(",")) if words else None
    folders = [each for each in sorted(root.iterdir()) if each.is_dir() and not each.name.startswith("_")]
    if wanted is not None and (strange := wanted - {each.name for each in folders}):
        raise DataError(f"-o words: no folder {', '.join(sorted(strange))} in {root}")
    files = [
        file
        for each in folders
        if wanted is None or each.name in wanted
        for file in sorted(each.glob("*_nohash_*.wav"))
    ]
    if not files:
        raise DataError(f"{root}: holds no file WORD/SPEAKER_nohash_N.wav")
    listed = root / "testing_list.txt"
    test = set(listed.read_text(encoding="utf-8").split()) if listed.is_file() else set()
    is_test = np.array([f"{file.parent.name}/{file.name}" in test for file in files])
    return Table(
        x=Decoded(np.array([str(file) for file in files]), partial(spectrum, mels=mels)),
        y=np.array([file.parent.name for file in files]),
        client=np.array([file.name.partition("_nohash_")[0] for file in files]),
        is_test=is_test if is_test.any() else None,
    )


def spectrum(path: str, *, mels: int) -> FloatArray:
    """The log-mel spectrum of the first second of a WAV file, (1, mels, 98).

    Raises:
        DataError: if it is no WAV file of 16 bit, mono, at 16 kHz.
    """
    from scipy.io import wavfile

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", wavfile.WavFileWarning)  # notes beside the sound
            rate, sound = wavfile.read(path)
    except (ValueError, OSError) as error:
        raise DataError(f"{path}: cannot be read as WAV: {error}") from error
    if rate != _RATE or sound.ndim != 1 or sound.dtype != np.int16:
        raise DataError(f"{path}: {rate} Hz, {sound.dtype} of shape {sound.shape}; expected {_RATE} Hz, 16 bit, mono")
    second = np.zeros(_RATE)
    second[: len(sound)] = sound[:_RATE] / 32768.0
    return log_mel(second, mels)[None]


def log_mel(sound: FloatArray, mels: int) -> FloatArray:
    """Logarithm of the power in each band and window, (mels, windows), in float32."""
    frames = np.lib.stride_tricks.sliding_window_view(sound, _WINDOW)[::_HOP] * np.hanning(_WINDOW)
    power = np.abs(np.fft.rfft(frames, _POINTS)) ** 2
    return np.log(power @ mel_bands(mels).T + _FLOOR).T.astype(np.float32)


def mel_bands(mels: int) -> FloatArray:
    """Triangles of equal width on the mel scale from 0 to 8 kHz (O'Shaughnessy 1987), (mels, frequencies)."""
    top = 2595.0 * np.log10(1 + _RATE / 2 / 700.0)
    edges = 700.0 * (10.0 ** (np.linspace(0, top, mels + 2) / 2595.0) - 1)
    frequencies = np.linspace(0, _RATE / 2, _POINTS // 2 + 1)
    low, middle, high = (edges[start : start + mels, None] for start in range(3))
    rising, falling = (frequencies - low) / (middle - low), (high - frequencies) / (high - middle)
    return np.asarray(np.clip(np.minimum(rising, falling), 0, None))
