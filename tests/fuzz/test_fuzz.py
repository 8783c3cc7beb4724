"""Mutated inputs of every kind: refused in an error of evsim or read, soon, without running anything.

``EVSIM_FUZZ_CASES=1000000 make fuzz`` runs a night of them; a case is its number, so a failure can be run again with
``EVSIM_FUZZ_FIRST``.
"""

from __future__ import annotations

import os
import resource
import signal
import sys
import time
import warnings
from contextlib import contextmanager

import pytest

from evsim.base.errors import EvsimError
from tests.fuzz.mutators import seeded
from tests.fuzz.subjects import good_run, subjects

CASES = int(os.environ.get("EVSIM_FUZZ_CASES", "4000"))
PARTS = 4  # of equal length, for several processes
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


def put(file, content):
    """Another file in its place: the one of before may still be mapped by somebody."""
    new = file.with_name("new")
    new.write_bytes(content)
    new.replace(file)


class Bench:
    """Good files of every subject, each made once: a case writes over one of them, and puts it back."""

    def __init__(self, folder):
        self._folder, self.kinds = folder, subjects(good_run(folder))
        self._made = {}

    def why_wrong(self, name, case):
        """Why a case is wrong, in words; "" if it is not."""
        subject = self.kinds[name]
        if name not in self._made:
            folder = self._folder / str(len(self._made))
            folder.mkdir()
            file = subject.make(folder)
            self._made[name] = folder, file, file.read_bytes()
        folder, file, good = self._made[name]
        with warnings.catch_warnings(action="ignore"):
            put(file, subject.mutate(good, seeded(case)))
        try:
            with at_most(MOST_S), warnings.catch_warnings(action="ignore"):
                subject.read(folder)
        except EvsimError as error:
            return "" if str(error) else "an error without words"
        except TooLongError:
            return f"hangs for more than {MOST_S} s"
        except BaseException as error:
            return f"{type(error).__name__}: {error}"[:300]
        finally:
            put(file, good)
        return ""


@pytest.fixture(scope="module")
def bench(tmp_path_factory):
    return Bench(tmp_path_factory.mktemp("good"))


@pytest.mark.parametrize("part", range(PARTS))
def test_mutated_inputs_are_read_or_refused_in_words(bench, part):
    names, wrong, began, count = list(bench.kinds), {}, time.perf_counter(), 0
    with nothing_executed() as executed:
        for case in range(FIRST + part, FIRST + CASES, PARTS):
            name, count = names[case % len(names)], count + 1
            if why := bench.why_wrong(name, case):
                wrong.setdefault(f"{name}: {why[:80]}", f"case {case}: {why}")
    sys.stdout.write(f"{count} cases in {time.perf_counter() - began:.0f} s\n")
    assert not wrong, "\n".join(f"{key} [{text}]" for key, text in wrong.items())
    assert not executed
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss < MOST_KB


def test_the_files_that_are_mutated_are_fine_before(bench, tmp_path):
    for number, (name, subject) in enumerate(bench.kinds.items()):
        folder = tmp_path / str(number)
        folder.mkdir()
        file = subject.make(folder)
        if name != "study.json":  # a study without runs is refused
            subject.read(folder)
        assert (
            not file.read_bytes()
            == subject.mutate(file.read_bytes(), seeded(1))
            == subject.mutate(file.read_bytes(), seeded(2))
        )
