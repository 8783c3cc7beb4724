"""Mutated inputs of every kind: refused in an error of evsim or read, soon, without running anything.

``EVSIM_FUZZ_CASES=1000000 make fuzz`` runs a night of them; a case is its number, so a failure can be run again with
``EVSIM_FUZZ_FIRST``.
"""

from __future__ import annotations

import os
import resource
import shutil
import signal
import sys
import time
import warnings
from contextlib import contextmanager

import pytest

from evsim.base.errors import EvsimError
from tests.fuzz.mutators import seeded
from tests.fuzz.subjects import good_run, subjects

CASES = int(os.environ.get("EVSIM_FUZZ_CASES", "200"))
FIRST = int(os.environ.get("EVSIM_FUZZ_FIRST", "0"))
MOST_S, MOST_KB = 5, 2 * 2**20
FORBIDDEN = ("os.system", "os.exec", "os.posix_spawn", "subprocess.Popen", "os.fork")


class TooLongError(BaseException):
    """A case hangs."""


@contextmanager
def at_most(seconds):
    def stop(*_):
        raise TooLongError

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


@contextmanager
def nothing_executed():
    """An audit hook cannot be taken away, so it is told whether to listen."""
    listening, seen = [True], []
    sys.addaudithook(lambda event, _: seen.append(event) if listening[0] and event in FORBIDDEN else None)
    yield seen
    listening[0] = False


def found_wrong(subject, case, folder):
    """Why a case is wrong, in words; "" if it is not."""
    file = subject.make(folder)
    file.write_bytes(subject.mutate(file.read_bytes(), seeded(case)))
    try:
        with at_most(MOST_S), warnings.catch_warnings(action="ignore"):
            subject.read(folder)
    except EvsimError as error:
        return "" if str(error) else "an error without words"
    except TooLongError:
        return f"hangs for more than {MOST_S} s"
    except BaseException as error:
        return f"{type(error).__name__}: {error}"[:300]
    return ""


@pytest.fixture(scope="module")
def kinds(tmp_path_factory):
    return subjects(good_run(tmp_path_factory.mktemp("good")))


def test_mutated_inputs_are_read_or_refused_in_words(kinds, tmp_path):
    names, wrong, began = list(kinds), {}, time.perf_counter()
    with nothing_executed() as executed:
        for case in range(FIRST, FIRST + CASES):
            name = names[case % len(names)]
            folder = tmp_path / "case"
            folder.mkdir()
            if why := found_wrong(kinds[name], case, folder):
                wrong.setdefault(f"{name}: {why[:80]}", f"case {case}: {why}")
            shutil.rmtree(folder)
    sys.stdout.write(f"{CASES} cases in {time.perf_counter() - began:.0f} s\n")
    assert not wrong, "\n".join(f"{key} [{text}]" for key, text in wrong.items())
    assert not executed
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss < MOST_KB


def test_the_files_that_are_mutated_are_fine_before(kinds, tmp_path):
    for number, subject in enumerate(kinds.values()):
        folder = tmp_path / str(number)
        folder.mkdir()
        subject.make(folder)
        if subject is not kinds["study.json"]:  # a study without runs is refused
            subject.read(folder)
