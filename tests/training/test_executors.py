"""Every executor passes the contract."""

from __future__ import annotations

from evsim.testing.executors import ExecutorContract
from evsim.training.base import Executor
from evsim.training.batched import Batched
from evsim.training.serial import Serial
from evsim.training.workers import Workers


class TestSerial(ExecutorContract):
    def make(self) -> Executor:
        return Serial(threads=1)


class TestSerialChannelsLast(ExecutorContract):
    def make(self) -> Executor:
        return Serial(channels_last=True)


class TestBatched(ExecutorContract):
    def make(self) -> Executor:
        return Batched(chunk=4)


class TestBatchedAllAtOnce(ExecutorContract):
    def make(self) -> Executor:
        return Batched(threads=1)


class TestWorkers(ExecutorContract):
    def make(self) -> Executor:
        return Workers(workers=2)


class TestWorkersInChunks(ExecutorContract):
    def make(self) -> Executor:
        return Workers(workers=2, chunk=3)
