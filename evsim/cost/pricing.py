"""What a task costs on the clock: bytes over links, samples over processors.

Decoupled from what is really trained: a small model may stand for a big one (`model_bytes`), a client's few samples for
many (`sample_scale`). NumPy only.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import final

import numpy as np

from evsim.base import rng
from evsim.base.casts import EXACT, whole
from evsim.base.errors import TraceError
from evsim.base.units import LONGEST_PHASE
from evsim.base.vocabulary import FloatArray, IntArray
from evsim.cost import bounds
from evsim.cost.model import CostModel
from evsim.cost.network import IndependentLinks, Network, Way, alone_ms
from evsim.cost.work import Work
from evsim.traces.speed import DeviceSpeed

#: Charged bytes down and up: of everybody, or one entry per client.
Sizes = tuple[int | IntArray, int | IntArray]


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
@dataclass(frozen=True, eq=False)
class Pricing:
    """A cost model joined with the devices, the network and the seed: prices whole cohorts.

    `speed` has one row per client, and so has `compute_share`: what computing costs it relative to the whole model.
    `start_ms` is the time of day at which virtual time 0 falls.
    """

    cost: CostModel
    speed: DeviceSpeed
    seed: int
    network: Network = field(default_factory=IndependentLinks)
    start_ms: int = 0
    compute_share: FloatArray | None = None

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
        speed, n = self.speed, len(clients)
        jitter, link = self._jitter("compute", clients, tasks), self._jitter("network", clients, tasks)
        refuse = _Refusal(self, clients, work, sizes, jitter, link)
        latency = speed.latency_ms[clients]
        with np.errstate(over="ignore", invalid="ignore"):  # what is not finite is refused
            begin = np.full(n, now + self.start_ms, np.int64)
            alone = alone_ms(sizes[0], speed.download_kbps[clients]) * link
            down = self.network.lasts_ms("download", clients, begin, alone) + latency
            ahead = np.concatenate([down, self._computing(clients, work) * jitter])
            first = whole(ahead, refuse, most=LONGEST_PHASE)
            download_ms, compute_ms = first[:n], first[n:]
            begin = begin + download_ms + compute_ms
            alone = alone_ms(sizes[1], speed.upload_kbps[clients]) * link
            up = self.network.lasts_ms("upload", clients, begin, alone) + latency
            upload_ms = whole(up, refuse.upload, most=LONGEST_PHASE)
        nothing = download_ms + compute_ms + upload_ms == 0  # a task lasts at least 1 ms
        return Price(download_ms, compute_ms + nothing, upload_ms, self.charged(work))

    def alone(self, way: Way, clients: IntArray, nth: IntArray, sizes: IntArray) -> FloatArray:
        """Duration of transfers of so many bytes at the devices' own rates, jitter included, latency not, ms."""
        return alone_ms(sizes, self._kbps(way)[clients]) * self._jitter("network", clients, nth)

    def links(
        self, clients: IntArray, nth: IntArray, sizes: tuple[IntArray, IntArray]
    ) -> tuple[tuple[FloatArray, FloatArray], tuple[FloatArray, FloatArray]]:
        """Down and up: the rates of the devices' own links, jitter included, kbit/s; what transfers take alone, ms."""
        link, speed = self._jitter("network", clients, nth), self.speed
        down, up = speed.download_kbps[clients], speed.upload_kbps[clients]
        return (down / link, alone_ms(sizes[0], down) * link), (up / link, alone_ms(sizes[1], up) * link)

    def moved(self, size: str, rows: Mapping[str, IntArray], begin: IntArray, spent: IntArray) -> IntArray:
        """Bytes of transfers that were cut short after `spent` ms.

        Args:
            size: column of the bytes that were to be moved: "bytes_down" or "bytes_up".
            rows: of the tasks: "client", "nth" and the bytes.
            begin: instants at which the transfers began, ms.
            spent: how long they lasted, ms.
        """
        clients, sizes = rows["client"], rows[size]
        way: Way = "download" if size == "bytes_down" else "upload"
        alone = self.alone(way, clients, rows["nth"], sizes)
        done = self.network.done_ms(way, clients, begin + self.start_ms, spent.astype(np.float64))
        share = np.clip(done / np.maximum(alone, np.finfo(np.float64).tiny), 0, 1)
        return np.asarray(np.floor(sizes * share), np.int64)

    def _kbps(self, way: Way) -> FloatArray:
        return self.speed.download_kbps if way == "download" else self.speed.upload_kbps

    def samples_within(self, price: Price, work: Work, budget_ms: IntArray) -> IntArray:
        """Training samples that fit in a budget of compute time, given what the full work costs."""
        factor = self.cost.training_factor
        with np.errstate(over="ignore"):
            passes = (work.samples * factor + work.forward_samples) * budget_ms / np.maximum(price.compute_ms, 1)
            fit = np.floor((passes - work.forward_samples) / factor)
        return whole(np.clip(fit, 0, EXACT), _no_budget)

    def declared_ms(self, work: Work, sizes: Sizes) -> FloatArray:
        """Task duration that each client's device class promises, ms, without jitter; one entry per client."""
        download, compute, upload = self.promised_ms(work, sizes)
        return download + upload + compute

    def promised_ms(self, work: Work, sizes: Sizes) -> tuple[FloatArray, FloatArray, FloatArray]:
        """Download, compute and upload of each client's device class, ms, without jitter; one entry per client."""
        download, compute, upload = self.bare_ms(work, sizes)
        latency = self.speed.latency_ms
        return download + latency, compute, upload + latency

    def bare_ms(self, work: Work, sizes: Sizes) -> tuple[FloatArray, FloatArray, FloatArray]:
        """`promised_ms` without the latency: what jitter multiplies."""
        speed = self.speed
        everyone = np.arange(speed.n_devices)
        down, up = (np.full(speed.n_devices, size, np.int64) for size in sizes)
        with np.errstate(over="ignore", invalid="ignore"):
            download, upload = alone_ms(down, speed.download_kbps), alone_ms(up, speed.upload_kbps)
            return download, self._computing(everyone, work), upload

    def check(self, work: Work, sizes: Sizes) -> None:
        """Raise `TraceError` unless every phase of every client lies within its bounds, jitter left out."""
        n = self.speed.n_devices
        download, compute, upload = self.promised_ms(work, sizes)
        per_client = tuple(np.full(n, size, np.int64) for size in sizes)
        refuse = _Refusal(self, np.arange(n), work, (per_client[0], per_client[1]), np.ones(n), np.ones(n))
        whole(np.concatenate([download, compute]), refuse, most=LONGEST_PHASE)
        whole(upload, refuse.upload, most=LONGEST_PHASE)
        self.charged(work)

    def factors(self, clients: IntArray, tasks: IntArray) -> tuple[FloatArray, FloatArray]:
        """What jitter multiplies the computation and the transfers of each task by: a client's so-many-eth, from 0."""
        return self._jitter("compute", clients, tasks), self._jitter("network", clients, tasks)

    def jitter_key(self, name: str) -> int:
        """Names the draws of jitter of "compute" or of "network"."""
        return rng.key(self.seed, "jitter", name)

    def _computing(self, clients: IntArray, work: Work) -> FloatArray:
        """Ms of computing without jitter."""
        cost = self.cost
        passes = (work.samples * cost.training_factor + work.forward_samples) * cost.sample_scale
        alone = self.speed.compute_ms_per_sample[clients] * passes
        return np.asarray(alone if self.compute_share is None else alone * self.compute_share[clients])

    def charged(self, work: Work) -> IntArray:
        """Samples on the clock."""
        samples, scale = work.samples + work.forward_samples, self.cost.sample_scale
        return samples if scale == 1 else whole(samples * scale, self._refuse_scale)

    def _refuse_scale(self, row: int) -> TraceError:
        scale = self.cost.sample_scale
        return TraceError(f"cost.sample_scale: {scale:g} makes more than {EXACT} samples of a client's; lower it")

    def _jitter(self, name: str, clients: IntArray, tasks: IntArray) -> FloatArray:
        sigma = self.speed.compute_jitter if name == "compute" else self.speed.network_jitter
        if sigma == 0.0:
            return np.ones(len(clients))
        return np.asarray(np.exp(sigma * rng.normal(self.jitter_key(name), clients, tasks)))


@final
@dataclass(eq=False, slots=True)  # not frozen: one is made for each dispatch, and frozen ones cost three times as much
class _Refusal:
    """The error for a row of a dispatch whose phase is out of bounds."""

    pricing: Pricing
    clients: IntArray
    work: Work
    sizes: tuple[IntArray, IntArray]
    jitter: FloatArray
    link: FloatArray

    def __call__(self, row: int) -> TraceError:
        """For all downloads, then all computations."""
        n = len(self.clients)
        return self._transfer("download", row, self.sizes[0]) if row < n else self._computation(row - n)

    def upload(self, row: int) -> TraceError:
        """For uploads."""
        return self._transfer("upload", row, self.sizes[1])

    def _computation(self, row: int) -> TraceError:
        pricing, client, jitter = self.pricing, int(self.clients[row]), float(self.jitter[row])
        samples = float(self.work.samples[row] + self.work.forward_samples[row])
        factors = bounds.of_computing(pricing.cost, pricing.speed, client, samples, jitter)
        return bounds.too_long("computation", client, factors)

    def _transfer(self, phase: str, row: int, sizes: IntArray) -> TraceError:
        client = int(self.clients[row])
        factors = bounds.of_transfer(
            f"{phase}_kbps", self.pricing.speed, client, float(sizes[row]), float(self.link[row])
        )
        return bounds.too_long(phase, client, factors)


@final
class SinglePrices:
    """Prices of single tasks of clients whose work is always the same, without array overhead for each.

    All but the jitter is priced and checked once, for everybody. The prices are those of `Pricing.price`, which holds
    as long as the network is constant.

    Raises:
        TraceError: if a phase of any client is out of bounds.
    """

    def __init__(self, pricing: Pricing, work: Work, sizes: Sizes) -> None:
        from scipy.special import ndtri

        pricing.check(work, sizes)
        self._pricing, self._work, self._sizes = pricing, work, sizes
        download, compute, upload = pricing.bare_ms(work, sizes)
        self._download, self._compute, self._upload = download.data, compute.data, upload.data
        self._latency = pricing.speed.latency_ms.data
        self._charged = pricing.charged(work).data
        everyone, keys = np.arange(len(work.samples)), (pricing.jitter_key(name) for name in ("compute", "network"))
        self._compute_base, self._network_base = (rng.hash64(key, everyone).data for key in keys)
        self._sigmas = np.array([pricing.speed.compute_jitter, pricing.speed.network_jitter])
        self._ndtri = ndtri
        self._bare = download, compute, upload
        self._expected: dict[tuple[int, int], tuple[int, int, int]] = {}

    def expect(self, clients: IntArray, nth: IntArray) -> None:
        """These tasks are likely to be asked for next: they are priced together."""
        compute, link = self._pricing.factors(clients, nth)
        latency = self._pricing.speed.latency_ms[clients]
        down, computing, up = (bare[clients] for bare in self._bare)
        phases = np.stack([down * link + latency, computing * compute, up * link + latency])
        short = phases.sum(axis=0) <= LONGEST_PHASE  # an error is for those that are asked for
        columns = np.rint(phases[:, short]).astype(np.int64).tolist()
        names = zip(clients[short].tolist(), nth[short].tolist(), strict=True)
        self._expected = dict(zip(names, zip(*columns, strict=True), strict=True))

    def of(self, client: int, nth: int) -> tuple[int, int, int, int]:
        """Download, compute, upload in ms, and charged samples of a client's nth task.

        Raises:
            TraceError: if jitter makes a phase too long.
        """
        expected = self._expected.get((client, nth))
        if expected is not None:
            download, compute, upload = expected
            return download, compute or int(download + upload == 0), upload, self._charged[client]
        draws = rng.uniform_one(self._compute_base[client], nth), rng.uniform_one(self._network_base[client], nth)
        jitter, link = np.exp(self._sigmas * self._ndtri(draws)).tolist()  # of NumPy as in bulk: the last bit counts
        latency = self._latency[client]
        down, up, computing = (
            self._download[client] * link + latency,
            self._upload[client] * link + latency,
            self._compute[client] * jitter,
        )
        if not down + computing + up <= LONGEST_PHASE:  # each alone may still be within its bound
            self._price_in_bulk(client, nth)
        download, upload, compute = round(down), round(up), round(computing)
        return download, compute or int(download + upload == 0), upload, self._charged[client]

    def _price_in_bulk(self, client: int, nth: int) -> None:
        """Raises what `Pricing.price` raises, in its words."""
        clients, work = np.array([client]), self._work
        everybody = np.zeros_like(work.samples)
        down, up = ((everybody + size)[clients] for size in self._sizes)
        alone = Work(work.samples[clients], work.forward_samples[clients])
        self._pricing.price(clients, np.array([nth]), alone, (down, up), 0)


def _no_budget(row: int) -> TraceError:
    return TraceError(f"row {row}: the samples that fit into the time left are not a number")
