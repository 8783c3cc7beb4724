"""What a task costs on the clock: bytes over links, samples over processors.

Decoupled from what is really trained: a small model may stand for a big one (`model_bytes`), a client's few samples for
many (`sample_scale`). NumPy only.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, final

import numpy as np

from evsim.base import rng
from evsim.base.errors import require
from evsim.base.vocabulary import FloatArray, IntArray
from evsim.cost.network import IndependentLinks, Network
from evsim.cost.work import Work
from evsim.traces.speed import DeviceSpeed


@final
@dataclass(frozen=True)
class Price:
    """Duration of the three phases of each task, ms, and what was charged for them."""

    download_ms: IntArray
    compute_ms: IntArray
    upload_ms: IntArray
    charged_samples: IntArray

    @property
    def total_ms(self) -> IntArray:
        """From dispatch to arrival if nothing goes wrong, ms."""
        return self.download_ms + self.compute_ms + self.upload_ms


@final
@dataclass(frozen=True, kw_only=True)
class CostModel:
    """The `[cost]` table of a scenario.

    transfer = bytes / rate; compute = ms per sample x samples x `training_factor` (3: a backward pass costs two forward
    passes, FedScale's convention; phones measured 3 to 17). Jitter is a log-normal factor of median 1 per task.

    Attributes:
        model_bytes: charged size of the dense model; None charges the real one.
        sample_scale: multiplies each client's own samples.
        training_factor: cost of training on a sample relative to a forward pass.
        samples_per_client: data size of every client in a dry run without `[data]`.
        availability_check: "throughout": a task is lost when its device leaves before it is done; "at_completion": only
            when the device is away at the instant of completion (FedScale's looser rule).
    """

    model_bytes: int | None = None
    sample_scale: float = 1.0
    training_factor: float = 3.0
    samples_per_client: int | None = None
    availability_check: Literal["throughout", "at_completion"] = "throughout"

    def __post_init__(self) -> None:
        require(
            self.model_bytes is None or self.model_bytes > 0, "model_bytes must be > 0", model_bytes=self.model_bytes
        )
        require(0 < self.sample_scale < np.inf, "sample_scale must be > 0", sample_scale=self.sample_scale)
        require(0 < self.training_factor < np.inf, "training_factor must be > 0", training_factor=self.training_factor)
        require(
            self.samples_per_client is None or self.samples_per_client > 0,
            "samples_per_client must be > 0",
            samples_per_client=self.samples_per_client,
        )

    def wire_bytes(self, payload_bytes: int, true_model_bytes: int) -> int:
        """Charged size of a payload: in proportion, when a small model stands for a big one."""
        if self.model_bytes is None:
            return payload_bytes
        return round(self.model_bytes * payload_bytes / true_model_bytes)


@final
@dataclass(frozen=True, eq=False)
class Pricing:
    """A cost model joined with the devices, the network and the seed: prices whole cohorts.

    `speed` has one row per client.
    """

    cost: CostModel
    speed: DeviceSpeed
    seed: int
    network: Network = field(default_factory=IndependentLinks)

    def price(
        self, clients: IntArray, tasks: IntArray, work: Work, sizes: tuple[IntArray, IntArray], now: int
    ) -> Price:
        """Durations of one task per client.

        Args:
            clients: client ids.
            tasks: how many tasks each client had before (names the jitter's draw).
            work: what the rule asks of each.
            sizes: charged bytes down and up, per client.
            now: instant of dispatch, ms.
        """
        charged = (work.samples + work.forward_samples) * self.cost.sample_scale
        passes = (work.samples * self.cost.training_factor + work.forward_samples) * self.cost.sample_scale
        speed = self.speed
        compute = speed.compute_ms_per_sample[clients] * passes * self._jitter("compute", clients, tasks)
        link = self._jitter("network", clients, tasks)
        begin = np.full(len(clients), now, np.int64)
        download = self.network.transfer_ms(sizes[0], speed.download_kbps[clients], begin) * link
        begin = begin + _ms(download) + _ms(compute)
        upload = self.network.transfer_ms(sizes[1], speed.upload_kbps[clients], begin) * link
        nothing = _ms(download) + _ms(compute) + _ms(upload) == 0  # a task lasts at least 1 ms
        return Price(_ms(download), _ms(compute) + nothing, _ms(upload), np.rint(charged).astype(np.int64))

    def samples_within(self, price: Price, work: Work, budget_ms: IntArray) -> IntArray:
        """Training samples that fit in a budget of compute time, given what the full work costs."""
        factor = self.cost.training_factor
        passes = (work.samples * factor + work.forward_samples) * budget_ms / np.maximum(price.compute_ms, 1)
        return np.asarray(np.maximum(np.floor((passes - work.forward_samples) / factor), 0).astype(np.int64))

    def declared_ms(self, work: Work, sizes: tuple[int, int]) -> FloatArray:
        """Task duration that each client's device class promises, ms, without jitter; one entry per client."""
        download, compute, upload = self.promised_ms(work, sizes)
        return download + upload + compute

    def promised_ms(self, work: Work, sizes: tuple[int, int]) -> tuple[FloatArray, FloatArray, FloatArray]:
        """Download, compute and upload of each client's device class, ms, without jitter; one entry per client."""
        speed = self.speed
        begin = np.zeros(len(speed.download_kbps), np.int64)
        down, up = (np.full_like(begin, size) for size in sizes)
        passes = (work.samples * self.cost.training_factor + work.forward_samples) * self.cost.sample_scale
        download = self.network.transfer_ms(down, speed.download_kbps, begin)
        upload = self.network.transfer_ms(up, speed.upload_kbps, begin)
        return download, speed.compute_ms_per_sample * passes, upload

    def factors(self, clients: IntArray, tasks: IntArray) -> tuple[FloatArray, FloatArray]:
        """What jitter multiplies the computation and the transfers of each task by: a client's so-many-eth, from 0."""
        return self._jitter("compute", clients, tasks), self._jitter("network", clients, tasks)

    def jitter_key(self, name: str) -> int:
        """Names the draws of jitter of "compute" or of "network"."""
        return rng.key(self.seed, "jitter", name)

    def _jitter(self, name: str, clients: IntArray, tasks: IntArray) -> FloatArray:
        sigma = self.speed.compute_jitter if name == "compute" else self.speed.network_jitter
        if sigma == 0.0:
            return np.ones(len(clients))
        return np.asarray(np.exp(sigma * rng.normal(self.jitter_key(name), clients, tasks)))


@final
class SinglePrices:
    """Prices of single tasks of clients whose work is always the same, without array overhead for each.

    All but the jitter is priced once, for everybody. The prices are those of `Pricing.price`, which holds as long as
    the network is constant.
    """

    def __init__(self, pricing: Pricing, work: Work, sizes: tuple[int, int]) -> None:
        from scipy.special import ndtri

        download, compute, upload = pricing.promised_ms(work, sizes)
        self._download, self._compute, self._upload = download.data, compute.data, upload.data
        charged = (work.samples + work.forward_samples) * pricing.cost.sample_scale
        self._charged = memoryview(np.rint(charged).astype(np.int64))
        everyone, keys = np.arange(len(work.samples)), (pricing.jitter_key(name) for name in ("compute", "network"))
        self._compute_base, self._network_base = (rng.hash64(key, everyone).data for key in keys)
        self._sigmas = np.array([pricing.speed.compute_jitter, pricing.speed.network_jitter])
        self._ndtri = ndtri

    def of(self, client: int, nth: int) -> tuple[int, int, int, int]:
        """Download, compute, upload in ms, and charged samples of a client's nth task."""
        draws = rng.uniform_one(self._compute_base[client], nth), rng.uniform_one(self._network_base[client], nth)
        jitter, link = np.exp(self._sigmas * self._ndtri(draws)).tolist()  # of NumPy as in bulk: the last bit counts
        download, upload = round(self._download[client] * link), round(self._upload[client] * link)
        compute = round(self._compute[client] * jitter)
        return download, compute or int(download + upload == 0), upload, self._charged[client]


def _ms(duration: FloatArray) -> IntArray:
    return np.rint(duration).astype(np.int64)
