"""Large inputs go through importers block by block: what is imported may be larger than memory."""

from __future__ import annotations

import subprocess
import sys

import h5py
import numpy as np
import pytest

from evsim.training.data.store import open_store

pytestmark = [pytest.mark.slow, pytest.mark.skipif(sys.platform != "linux", reason="limits memory as Linux does")]

#: Imports with little more memory of its own than the process has with everything loaded; pages of files do not count.
_IMPORT = """
import resource, sys
from pathlib import Path
import h5py, numpy, pyarrow.parquet
from evsim.training.data.importing import import_data, reader
from evsim.training.data.looks import describe_data, look_at
kind, source, out = sys.argv[1:4]
import_data(kind, sys.argv[4], Path(out + "-small"))  # loads what it needs
used = next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmData")) << 10
resource.setrlimit(resource.RLIMIT_DATA, (used + (190 << 20),) * 2)
import_data(kind, source, Path(out))
"""
N, BLOCK = 100_000, 10_000  # images of 3,072 bytes: 307 MB


def block(at, n=BLOCK):
    return np.random.default_rng(at).integers(0, 256, (n, 3, 32, 32), np.uint8)


def write_npz(path, n):
    x = np.concatenate([block(at, n // 10) for at in range(10)])
    np.savez(path, x=x, y=np.arange(n) % 10, client=np.arange(n) // 100)


def write_numpy(folder, n):
    folder.mkdir()
    x = np.lib.format.open_memmap(folder / "x.npy", mode="w+", dtype=np.uint8, shape=(n, 3, 32, 32))
    for at in range(10):
        x[at * n // 10 : (at + 1) * n // 10] = block(at, n // 10)
    np.save(folder / "y.npy", np.arange(n) % 10)
    np.save(folder / "client.npy", np.arange(n) // 100)


def write_hdf5(path, n):
    with h5py.File(path, "w") as file:
        for client in range(10):
            file[f"examples/{client}/image"] = block(client, n // 10).transpose(0, 2, 3, 1)
            file[f"examples/{client}/label"] = np.arange(n // 10) % 10


CASES = {"npz": ("numpy", write_npz), "folder": ("numpy", write_numpy), "hdf5": ("tff", write_hdf5)}


@pytest.mark.parametrize("name", CASES)
def test_300_mb_are_imported_with_190_mb(tmp_path, name):
    kind, write = CASES[name]
    ending = {"npz": ".npz", "hdf5": "_train.h5", "folder": ""}[name]
    write(tmp_path / f"big{ending}", N)
    write(tmp_path / f"small{ending}", 1_000)
    paths = [str(tmp_path / each) for each in (f"big{ending}", "out", f"small{ending}")]
    command = [sys.executable, "-c", _IMPORT, kind, *paths]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2_000:]
    store = open_store(tmp_path / "out")
    for at in (0, 7):
        np.testing.assert_array_equal(store.pages.array[at * BLOCK : at * BLOCK + 100], block(at)[:100])
