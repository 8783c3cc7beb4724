"""Large models: updates per second and peak memory of every executor beside the bare loop. Figures only.

Run with `make bench-training`. Each mode has a process of its own, so that its memory is its own; those of one model
run after each other in the same minutes. Rates are per second of wall clock and per second of processor time: the
latter changes less when neighbours are busy.
"""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

pytestmark = pytest.mark.benchmark

_TRAIN = """
import json, resource, sys, time, warnings
import numpy as np, torch
from evsim.algorithms.sgd import Sgd
from evsim.base import registry
from evsim.training.data.samples import TrainingData
from evsim.training.executors.base import Job, TrainTask
from evsim.training.models.freezing import freeze_all_but_adapters
from evsim.training.models.leaves import averaged, trained
from evsim.training.models.lora import Lora, adapt
from evsim.training.objectives.classification import Classification
from evsim.training.objectives.next_token import NextToken

told = json.loads(sys.argv[1])
warnings.simplefilter("ignore")
clients, per, batch, text = told["clients"], told["per"], told["batch"], told.get("text", 0)
draw, n = np.random.default_rng(0), told["clients"] * told["per"]
model = registry.load("model", told["kind"])(**told.get("options", {}))
every = text and getattr(model, "predicts", "last") == "every"
if text:
    x, shape, classes = torch.from_numpy(draw.integers(0, 80, (n, text))), (text,), 80
else:
    x, shape, classes = torch.from_numpy(draw.standard_normal((n, 3, 32, 32)).astype(np.float32)), (3, 32, 32), 10
y = torch.from_numpy(draw.integers(0, classes, (n, text) if every else n))
module = model.build(shape=shape, n_classes=classes, n_tokens=classes if text else None, seed=0)
if "lora" in told:
    adapt(module, Lora(rank=8, targets=tuple(told["lora"])), 0)
    freeze_all_but_adapters(module, ())
data = TrainingData(x, y, np.arange(n), np.arange(clients + 1) * per)
rule = Sgd(learning_rate=0.01, batch_size=batch)
objective = NextToken() if every else Classification()
job = Job(module, rule, data, torch.float32, False, torch.device("cpu"), 0, objective)
params = {name: leaf.detach().clone() for name, leaf in trained(module).items()}
received = {"model": params, "buffers": {name: leaf.clone() for name, leaf in averaged(module).items()}}
tasks = [TrainTask(client, client, 0, 0, received, {}) for client in range(clients)]


def bare(some):
    leaves = [leaf for leaf in module.parameters() if leaf.requires_grad]
    for task in some:
        with torch.no_grad():
            for leaf, value in zip(leaves, params.values()):
                leaf.copy_(value)
        own = torch.randperm(per) + task.client * per
        for rows in torch.split(own, batch):
            loss = objective.loss(module(x[rows]), y[rows]).mean()
            with torch.no_grad():
                for leaf, grad in zip(leaves, torch.autograd.grad(loss, leaves)):
                    leaf.sub_(grad, alpha=0.01)
        _ = [leaf.detach() - value for leaf, value in zip(leaves, params.values())]


def cpu():
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(each.ru_utime + each.ru_stime for each in used)


options = dict(told["executor"])
kind = options.pop("kind")
torch.set_num_threads(1)
runner = None if kind == "bare" else registry.load("executor", kind)(**options).open(job)


def train(some):
    if runner is None:
        bare(some)
        return
    for _ in runner.sums(some, {"": np.ones(len(some))}):
        pass


if not told.get("cold"):
    train(tasks[: told.get("warm", 2)])
start, before = time.perf_counter(), cpu()
train(tasks)
seconds = time.perf_counter() - start
plan = {} if runner is None else dict(runner.plan)
if runner is not None:
    runner.close()
own = next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM"))
child = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
print(json.dumps({"rate": clients / seconds, "cpu": clients / (cpu() - before), "mib": int(own) // 1024,
                  "child": child // 1024, "seconds": seconds, "plan": plan}))
"""

BARE = {"kind": "bare"}
MODES = [BARE, {"kind": "serial", "threads": 1}, {"kind": "workers", "workers": 2}, {"kind": "batched", "threads": 1}]
WORKS = {
    "resnet-18 GroupNorm": {"kind": "resnet", "clients": 8, "per": 10, "batch": 10},
    "mobilenet_v2": {"kind": "mobilenet_v2", "clients": 8, "per": 10, "batch": 10},
    "char_lstm": {"kind": "char_lstm", "clients": 16, "per": 10, "batch": 10, "text": 80},
    "transformer": {"kind": "transformer", "clients": 32, "per": 10, "batch": 10, "text": 80},
}
_WIDE = {"width": 512, "layers": 4, "heads": 8}
LORA = {"every layer": ["*.attn.q", "*.attn.v"], "the last block": ["blocks.3.attn.q", "blocks.3.attn.v"]}


def measured(**told: object) -> dict[str, float]:
    done = subprocess.run([sys.executable, "-c", _TRAIN, json.dumps(told)], capture_output=True, text=True, check=True)
    found: dict[str, float] = json.loads(done.stdout)
    return found


def line(name: str, found: dict[str, float], bare: dict[str, float]) -> str:
    workers = f" + {found['child']:,} in a worker" if found["child"] else ""
    fell = "  fell back to serial" if "fallback" in str(found["plan"]) else ""
    return (
        f"  {name:<24} {found['rate']:>8.2f}/s {found['rate'] / bare['rate']:>5.2f} x bare"
        f" {found['cpu']:>8.2f} per CPU s {found['cpu'] / bare['cpu']:>5.2f} x bare"
        f" {found['mib']:>6,} MiB{workers}{fell}"
    )


@pytest.mark.parametrize("name", WORKS)
def test_large_models(name: str) -> None:
    """Client updates per second and peak MiB of every executor, on one thread each."""
    print(f"\n{name}: {WORKS[name]}")
    bare: dict[str, float] = {}
    for mode in MODES:
        found = measured(**WORKS[name], executor=mode)
        bare = bare or found
        print(line(str(mode["kind"]), found, bare))


@pytest.mark.parametrize("kind", ["serial", "batched"])
def test_adapters_beside_full_training(kind: str) -> None:
    """A transformer of 12.6 M parameters, clients of one text of 32 tokens: all of it, and adapters only."""
    work = {"kind": "transformer", "options": _WIDE, "text": 32, "clients": 16, "per": 1, "batch": 1, "warm": 16}
    mode = {"kind": kind, "threads": 1} | ({"chunk": 16} if kind == "batched" else {})
    full = measured(**work, executor=mode)
    print(f"\n{kind}, {work}\n{line('full', full, full).replace('bare', 'full')}")
    for name, targets in LORA.items():
        print(line(f"adapters in {name}", measured(**work, executor=mode, lora=targets), full).replace("bare", "full"))


@pytest.mark.parametrize("kind", ["serial", "batched", "workers"])
def test_a_thousand_clients_of_eleven_million_parameters_in_one_step(kind: str) -> None:
    """Peak MiB: 1000 tasks of ResNet-18, one image each, added up as they come."""
    mode = {"kind": kind} | ({"workers": 2} if kind == "workers" else {"threads": 1})
    found = measured(kind="resnet", clients=1000, per=1, batch=1, executor=mode, cold=True)
    workers = f", {found['child']:,} in a worker" if found["child"] else ""
    print(f"\n{kind:>8}: {found['mib']:,} MiB in the process{workers}, {found['seconds']:.0f} s")
