"""What tasks cost each client where clients differ: by the group whose message they get, and by the work they do."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from evsim.algorithms.base import ClientInfo, GroupedBroadcast, PartialWork, WorkBySteps, total_bytes
from evsim.algorithms.sized import Sized
from evsim.algorithms.workload import Promised, checked_batch_sizes, checked_steps
from evsim.base.errors import PolicyError
from evsim.base.user_code import user_code
from evsim.cost.own import Own
from evsim.cost.pricing import Pricing
from evsim.timeline.world import cut
from evsim.training.learning.kept import is_kept
from evsim.training.learning.parts import groups_of, parts_of_model

if TYPE_CHECKING:
    from torch.nn import Module

    from evsim.algorithms.wires import Wires
    from evsim.base.vocabulary import FloatArray, IntArray
    from evsim.cost.work import Work
    from evsim.scenario import Scenario
    from evsim.traces.population import Population

Bytes = tuple[int, int]


def clients_of(population: Population, samples: IntArray) -> ClientInfo:
    """What the server may know of the clients before anything happened."""
    speed, none = population.speed, np.zeros(len(samples), np.int64)
    return ClientInfo(
        client=np.arange(len(samples)),
        samples=samples,
        device=population.speed_device,
        compute_ms=speed.compute_ms_per_sample,
        download_kbps=speed.download_kbps,
        upload_kbps=speed.upload_kbps,
        group=none,
        nth=none,
        more=speed.more,
    )


def charged(scenario: Scenario, model: Wires, held: Wires | None = None) -> Bytes:
    """Charged bytes of a message down and up, of a model that is held in part."""
    whole = model if held is None else held
    if scenario.keep:
        stays = [name for leaves in model.values() for name in leaves if is_kept(name, scenario.keep)]
        whole = {
            entry: {name: wire.but(size=0, sent=0) if name in stays else wire for name, wire in leaves.items()}
            for entry, leaves in whole.items()
        }
    base, update = total_bytes(model), scenario.client_rule.wires(whole)
    for transform in scenario.upload:
        update = transform.wires(update)
    down, up = total_bytes(scenario.broadcast.wires(whole)), total_bytes(update)
    return scenario.cost.wire_bytes(down, base), scenario.cost.wire_bytes(up, base)


def own_costs(
    scenario: Scenario, model: Module | None, wires: Wires, population: Population, samples: IntArray
) -> Own | None:
    """Costs by client; None where nobody differs."""
    grouped = isinstance(scenario.broadcast, GroupedBroadcast) and model is not None
    if not grouped and scenario.work is None:
        return None
    clients = clients_of(population, samples)
    group = groups_of(scenario.broadcast, clients) if grouped else clients.group
    sizes, share = _by_group(scenario, model, wires)
    down, up = sizes[group].T
    full = scenario.client_rule.work(samples)
    limits, own_sizes, work = np.zeros(len(samples), np.int64), np.zeros(len(samples), np.int64), full
    if scenario.work is not None:
        limits, own_sizes, work = _limited(
            scenario, clients, (down, up), share[group], Pricing(scenario.cost, population.speed, 0)
        )
    return Own(group, np.ascontiguousarray(down), np.ascontiguousarray(up), share[group], limits, own_sizes, work)


def _by_group(scenario: Scenario, model: Module | None, wires: Wires) -> tuple[IntArray, FloatArray]:
    """Bytes (groups, 2), and shares of the computing, of each group."""
    broadcast = scenario.broadcast
    if model is None or not isinstance(broadcast, GroupedBroadcast):
        return np.array([charged(scenario, wires)], np.int64), np.ones(1)
    parts = parts_of_model(broadcast, model)
    sizes = np.array([charged(scenario, wires, part.wires(wires)) for part in parts], np.int64)
    with user_code(PolicyError, slot="broadcast", cls=broadcast, step="compute_share"):
        share = np.array([broadcast.compute_share(group, part.share) for group, part in enumerate(parts)], np.float64)
    if not ((share > 0) & np.isfinite(share)).all():
        raise PolicyError(f"broadcast {type(broadcast).__name__}.compute_share: {share.tolist()}; expected numbers > 0")
    return sizes, share


def _limited(
    scenario: Scenario, clients: ClientInfo, sizes: tuple[IntArray, IntArray], share: FloatArray, pricing: Pricing
) -> tuple[IntArray, IntArray, Work]:
    """Most steps of each client (0: all), its batch size (0: the rule's), and the work in them."""
    rule, work = scenario.client_rule, scenario.work
    partial = isinstance(rule, PartialWork) and rule.partial_work
    if work is None or not isinstance(rule, WorkBySteps):
        raise PolicyError("work: needs a client rule that says what steps cost")
    samples, most = clients.samples, rule.schedule.batch_size
    with user_code(PolicyError, slot="work", cls=work, step="batch_sizes"):
        own = checked_batch_sizes(work, clients, most)
    if (own < most).any() and partial:
        raise PolicyError("work: batch sizes that differ beside client_rule.partial_work; expected one of the two")
    sized = Sized(rule, own)
    full, scheduled = sized.work(samples), sized.n_steps(samples)
    nothing, one_step = (sized.work_of(samples, np.minimum(scheduled, steps)) for steps in (0, 1))
    before = pricing.promised_ms(nothing, sizes)[1]
    download, first, upload = pricing.promised_ms(one_step, sizes)
    promised = Promised(download + upload, (first - before) * share, before * share)
    with user_code(PolicyError, slot="work", cls=work, step="steps"):
        steps = checked_steps(work, clients, scheduled, promised)
    limits = np.where(steps < scheduled, steps, 0)
    return limits, np.where(own < most, own, 0), cut(sized, full, samples, limits)
