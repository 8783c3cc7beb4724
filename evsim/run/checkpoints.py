"""Checkpoints: from time to time, and at a clean interruption, everything that was learnt is brought to the disk.

The timeline is not in them: it is simulated again, fed with the answers of the learning side up to the checkpoint
(`feedback.py`). A checkpoint is a set of files. The one written last, ``checkpoint-<n>.json``, names the others;
n is the number of answers before it. Files are written under a temporary name, synced and renamed, and never changed.
"""

from __future__ import annotations

import json
import time
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, final

from safetensors import safe_open
from safetensors.torch import load_file, save_file

from evsim.base.documents import load_json
from evsim.base.errors import ResumeError
from evsim.base.profiling import part
from evsim.base.units import MS_PER_SECOND
from evsim.base.user_code import said
from evsim.run.feedback import Answer, read_answers, write_answers
from evsim.run.recorder import atomically
from evsim.training.learning.client_state import Version, flatten, unflatten
from evsim.training.learning.packing import pack, unpack

if TYPE_CHECKING:
    import torch

    from evsim.scenario.tables import RecordTable
    from evsim.training.learning.learning import Learning

_KEPT = 2
_BLOCK = 1 << 24
#: What a checkpoint's file says.
_FORM: dict[str, type] = {
    "position": int,
    "timeline_hash": str,
    "executor": dict,
    "answers": list,
    "tensors": str,
    "clients": dict,
    "learning": dict,
    "files": dict,
    "checksums": dict,
}
_WORTH = 100  # a checkpoint waits until so many times what the last one cost are over: less than 1 % of the time


@final
@dataclass(frozen=True, eq=False)
class Saved:
    """A whole checkpoint on the disk."""

    folder: Path
    told: dict[str, Any]

    @property
    def answers(self) -> Iterator[Answer]:
        """All answers before it.

        Raises:
            ResumeError: if they cannot be read.
        """
        for name in self.told["answers"]:
            yield from read_answers(self.folder / name)

    @property
    def names(self) -> set[str]:
        """Its files."""
        return {f"checkpoint-{self.told['position']}.json", *self.told["files"]}

    @property
    def is_intact(self) -> bool:
        """Whether its files hold what was written: a damaged one can bring down the library that reads it."""
        try:
            return all(_checksum(self.folder / name) == self.told["checksums"][name] for name in self.told["files"])
        except (OSError, KeyError):
            return False

    def restore(self, learning: Learning) -> None:
        """Bring the learning side to where it was."""
        tensors = load_file(self.folder / self.told["tensors"], device=learning.device)
        learning.restore(unpack(self.told["learning"], [tensors[str(place)] for place in range(len(tensors))]))
        clients = self.told["clients"]
        states = _read_states(self.folder, clients["where"])
        learning.client_states.restore(dict(clients["current"]), dict(clients["before"]), states)


def newest(folder: Path) -> Saved | None:
    """The checkpoint to go on from; None if there is none."""
    return next((each for each in whole(folder) if each.is_intact), None)


def whole(folder: Path) -> list[Saved]:
    """The checkpoints whose files are all there, and as long as they were, newest first."""
    found = []
    for path in folder.glob("checkpoint-*.json"):
        with suppress(OSError, ResumeError):
            told = load_json(path, what="a checkpoint", raising=ResumeError)
            if _is_whole(folder, told):
                found.append(Saved(folder, told))
    return sorted(found, key=lambda each: int(each.told["position"]), reverse=True)


def _is_whole(folder: Path, told: Mapping[str, Any]) -> bool:
    """Whether it has the form of a checkpoint, and its files, all in this folder, have their sizes."""
    if any(not isinstance(told.get(key), kind) for key, kind in _FORM.items()):
        return False
    files = told["files"].items()
    names = [*told["files"], *told["answers"], told["tensors"]]
    inside = all(isinstance(name, str) and name == Path(name).name and name in told["files"] for name in names)
    return inside and all((folder / name).stat().st_size == size for name, size in files)


class Timeline(Protocol):
    """Where a run's timeline stands."""

    @property
    def timeline_hash(self) -> str:
        """Digest of all that happened so far."""

    @property
    def now(self) -> int:
        """The instant, ms."""


@final
class Checkpoints:
    """Hears every answer of the learning side, and saves when it is time.

    Args:
        folder: where; must exist.
        learning: what is saved.
        record: how often.
        timeline: gives where the timeline stands, once it is there.
    """

    def __init__(self, folder: Path, learning: Learning, record: RecordTable, timeline: Callable[[], Timeline]) -> None:
        self._folder, self._learning, self._timeline = folder, learning, timeline
        self._every, self._last, self._cost = record.checkpoint_every / MS_PER_SECOND, time.perf_counter(), 0.0
        self._every_virtual, self._last_virtual = record.checkpoint_every_virtual_time, 0
        self._waiting: list[Answer] = []
        self._position, self._saved, self._hash = 0, 0, ""
        self._answers: list[str] = []  # files
        self._checksums: dict[str, int] = {}
        self._where: dict[Version, str] = {}  # the file that holds a client's states

    def heard(self, answer: Answer) -> None:
        """A new answer; a checkpoint is due only after a server step: then the least is waiting."""
        if not self._every:
            return
        self._waiting.append(answer)
        self._position += 1
        self._hash = self._timeline().timeline_hash
        if answer.kind == "apply" and self._is_due():
            self.save()

    def _is_due(self) -> bool:
        wall, virtual = time.perf_counter() - self._last, self._timeline().now - self._last_virtual
        asked = wall >= self._every or (self._every_virtual is not None and virtual >= self._every_virtual)
        return asked and wall >= _WORTH * self._cost

    def go_on(self, saved: Saved) -> None:
        """The timeline was simulated up to this checkpoint: load it, and count on from it.

        Raises:
            ResumeError: if the timeline is another one, or the checkpoint is damaged.
        """
        told = saved.told
        if self._timeline().timeline_hash != told["timeline_hash"]:
            raise ResumeError(
                f"{saved.folder}: the timeline up to the checkpoint is not the one that was interrupted; something "
                "that the run depends on has changed; run it again into another folder"
            )
        try:
            saved.restore(self._learning)
        except Exception as error:  # a damaged file fails in any way at all
            raise ResumeError(f"{saved.folder}: the checkpoint is damaged ({said(error)})") from error
        self._position = self._saved = told["position"]
        self._answers, self._checksums = list(told["answers"]), dict(told["checksums"])
        self._where = {(client, generation): name for client, generation, name in told["clients"]["where"]}
        self._last, self._last_virtual = time.perf_counter(), self._timeline().now

    def save_last(self) -> None:
        """Write the one from which a run that is over can be extended; without, it is over all the same."""
        with suppress(OSError):  # a full disk, for instance: if nothing else fits, writing the tables will say so
            self.save()

    @part("recording")
    def save(self) -> None:
        """Write a checkpoint, unless nothing was learnt since the last one."""
        if not self._every or self._position == self._saved:
            return
        began, number = time.perf_counter(), self._position
        self._answers.append(f"answers-{number}.arrow")
        atomically(self._folder / self._answers[-1], lambda path: write_answers(self._waiting, path))
        skeleton, tensors = pack(self._learning.checkpoint())
        name = f"learning-{number}.safetensors"
        atomically(self._folder / name, lambda path: save_file(_apart(tensors), path))
        clients = self._save_clients(number)
        files = {*self._answers, name, *(file for *_, file in clients["where"])}
        new = {file: _checksum(self._folder / file) for file in files - self._checksums.keys()}
        self._checksums = {file: sum_ for file, sum_ in (self._checksums | new).items() if file in files}
        told = {
            "position": number,
            "timeline_hash": self._hash,
            "executor": dict(self._learning.plan),
            "answers": self._answers,
            "tensors": name,
            "clients": clients,
            "learning": skeleton,
            "checksums": self._checksums,
            "files": {file: (self._folder / file).stat().st_size for file in sorted(files)},
        }
        text = json.dumps(told)
        atomically(self._folder / f"checkpoint-{number}.json", lambda path: path.write_text(text, encoding="utf-8"))
        self._waiting, self._saved = [], number
        tidy(self._folder)
        self._last, self._last_virtual = time.perf_counter(), self._timeline().now
        self._cost = self._last - began

    def _save_clients(self, number: int) -> dict[str, Any]:
        """Write the states that no file holds yet; all of them once most of what files hold is out of date."""
        current, before = self._learning.client_states.live()
        live = [(client, k) for some in (current, before) for client, k in some.items() if k > 0]
        outdated = len(self._where.keys() - set(live))
        known = {} if outdated > len(live) else self._where
        new = [version for version in live if version not in known]
        file = f"clients-{number}.safetensors"
        if new:
            atomically(self._folder / file, lambda path: save_file(self._states(new), path))
        where = {version: known.get(version, file) for version in live}
        # A generation that may still be undone may come again with other contents.
        settled = {version: name for version, name in where.items() if version[0] not in before}
        self._where = {**known, **settled} if known else settled
        return {
            "current": list(current.items()),
            "before": list(before.items()),
            "where": [[*version, name] for version, name in where.items()],
        }

    def _states(self, versions: list[Version]) -> dict[str, torch.Tensor]:
        return {
            f"{client}|{generation}|{key}": leaf
            for client, generation in versions
            for key, leaf in flatten(self._learning.client_states.get(client, generation)).items()
        }


def tidy(folder: Path, keep: int = _KEPT) -> None:
    """Keep the newest checkpoints and their files; nothing else is needed any more."""
    needed: set[str] = set().union(*(saved.names for saved in whole(folder)[:keep]))
    for pattern in ("checkpoint-*", "answers-*", "learning-*", "clients-*", "*.tmp"):
        for path in folder.glob(pattern):
            if path.name not in needed:
                path.unlink()


def _checksum(path: Path) -> int:
    """CRC-32 of a file."""
    found = 0
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            found = zlib.crc32(block, found)
    return found


def _read_states(folder: Path, where: list[tuple[int, int, str]]) -> Iterator[tuple[int, int, Any]]:
    wanted: dict[str, dict[Version, list[str]]] = {}
    for client, generation, name in where:
        wanted.setdefault(name, {})[client, generation] = []
    for name, versions in wanted.items():
        with safe_open(folder / name, "pt") as file:
            for key in file.keys():  # noqa: SIM118  no mapping
                client, generation, _ = key.split("|", 2)
                if (own := versions.get((int(client), int(generation)))) is not None:
                    own.append(key)
            for (client, generation), keys in versions.items():
                yield client, generation, unflatten({key.split("|", 2)[2]: file.get_tensor(key) for key in keys})


def _apart(tensors: list[torch.Tensor]) -> dict[str, torch.Tensor]:
    """By number; safetensors refuses tensors that share memory."""
    return {str(place): leaf.detach().cpu().contiguous().clone() for place, leaf in enumerate(tensors)}
