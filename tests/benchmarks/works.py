"""The five works of the training benchmark, as scenarios, and the bare PyTorch loop they are compared with."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

N_CLIENTS, COHORT, PER_CLIENT = 1000, 100, 20
_A: dict[str, Any] = {"epochs": 1, "batch_size": 20}
_B: dict[str, Any] = {"epochs": 2, "batch_size": 10}


@dataclass(frozen=True)
class Work:
    """A model, its inputs, and the local training."""

    name: str
    model: dict[str, Any]
    rule: dict[str, Any]
    rounds: int
    text: bool = False
    precision: str = "float32"

    def scenario(self, folder: Path, executor: dict[str, Any], cohort: int = COHORT) -> dict[str, Any]:
        """All clients always on, a cohort of so many of 1000, no evaluation but the first and the last."""
        write_data(folder, text=self.text)
        return {
            "name": self.name,
            "training": "real",
            "precision": self.precision,
            "stop": {"server_steps": self.rounds},
            "population": {
                "clients": N_CLIENTS,
                "availability": "always",
                "speed": {"compute_ms_per_sample": 20, "download_kbps": 5000, "upload_kbps": 2000},
            },
            "data": {
                "dataset": {"kind": "arrays", "path": "data", "test": "test.npz"},
                "partition": {"kind": "natural"},
            },
            "model": self.model,
            "aggregation": {"kind": "synchronous", "cohort_goal": cohort},
            "client_rule": {"kind": "sgd", "learning_rate": 0.05, **self.rule},
            "executor": executor,
            "evaluation": {"every": self.rounds},
        }


WORKS = [
    Work("mlp-a", {"kind": "mlp", "hidden": [64]}, _A, 600),
    Work("mlp-b", {"kind": "mlp", "hidden": [64]}, _B, 150),
    Work("cnn-a", {"kind": "cnn"}, _A, 12),
    Work("cnn-b", {"kind": "cnn"}, _B, 6),
    Work("cnn-a bfloat16", {"kind": "cnn"}, _A, 9, precision="bfloat16"),
    Work("softmax", {"kind": "softmax"}, _A, 600),
    Work("gru", {"kind": "gru", "hidden": 64}, _A, 10, text=True),
    Work("resnet", {"kind": "evsim.training.models.factory:Factory", "target": "tests.benchmarks.works:resnet"}, _A, 9),
]


def samples(count: int, *, text: bool) -> tuple[np.ndarray, np.ndarray]:
    """Synthetic images of 1x28x28 in 62 classes, or sequences of 40 of 80 characters; every class occurs."""
    draw = np.random.default_rng(count)
    classes = 80 if text else 62
    y = draw.integers(0, classes, count)
    y[:classes] = np.arange(classes)
    if text:
        x = draw.integers(0, classes, (count, 40))
        x[:, 0] = np.arange(count) % classes
        return x, y
    return draw.standard_normal((count, 1, 28, 28)).astype(np.float32), y


def write_data(folder: Path, *, text: bool) -> None:
    """A data set folder: 20 samples for each client, and a small test set."""
    (folder / "data").mkdir(parents=True, exist_ok=True)
    for name, count in (("train", N_CLIENTS * PER_CLIENT), ("test", 200)):
        x, y = samples(count, text=text)
        np.savez(folder / "data" / f"{name}.npz", x=x, y=y, client=np.arange(count) % N_CLIENTS)


class _Block(nn.Module):
    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.one = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.two = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.norm_one, self.norm_two = nn.GroupNorm(4, outputs), nn.GroupNorm(4, outputs)
        self.short = nn.Identity() if stride == 1 else nn.Conv2d(inputs, outputs, 1, stride, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        inner = self.norm_two(self.two(torch.relu(self.norm_one(self.one(x)))))
        return torch.relu(inner + self.short(x))


def resnet(n_classes: int) -> nn.Module:
    """Three residual blocks of 16, 32 and 64 channels with GroupNorm, about 75,000 parameters."""
    blocks = [_Block(16, 16, 1), _Block(16, 32, 2), _Block(32, 64, 2)]
    head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, n_classes)]
    return nn.Sequential(nn.Conv2d(1, 16, 3, padding=1), nn.GroupNorm(4, 16), nn.ReLU(), *blocks, *head)


def bare_loop(job: Any, clients: range) -> None:
    """What one writes by hand: one model, reset for each client, plain SGD steps, the difference kept."""
    model, schedule, rate = job.model, job.rule.schedule, job.rule.learning_rate
    params = list(model.parameters())
    start = [leaf.detach().clone() for leaf in params]
    for client in clients:
        rows = torch.from_numpy(job.data.of_client(client)).to(job.device)
        with torch.no_grad():
            for leaf, value in zip(params, start, strict=True):
                leaf.copy_(value)
        for _ in range(schedule.epochs):
            for batch in torch.split(rows[torch.randperm(len(rows), device=job.device)], schedule.batch_size):
                with torch.autocast(job.device.type, torch.bfloat16, enabled=job.autocast):
                    logits = model(job.data.x[batch])
                grads = torch.autograd.grad(nn.functional.cross_entropy(logits.float(), job.data.y[batch]), params)
                with torch.no_grad():
                    for leaf, grad in zip(params, grads, strict=True):
                        leaf.sub_(grad, alpha=rate)
        _ = [leaf.detach() - value for leaf, value in zip(params, start, strict=True)]
    with torch.no_grad():
        for leaf, value in zip(params, start, strict=True):
            leaf.copy_(value)


def big_batch(job: Any, rows: int) -> None:
    """One model on so many samples at once, as many steps as a task has: no client has weights of its own.

    What no simulation of clients can reach; their share of it says how well a device is used.
    """
    model, schedule, rate = job.model, job.rule.schedule, job.rule.learning_rate
    params = list(model.parameters())
    picked = torch.arange(rows, device=job.device) % len(job.data.y)
    x, y = job.data.x[picked], job.data.y[picked]
    for _ in range(schedule.epochs):
        for batch in torch.split(torch.arange(rows, device=job.device), rows * schedule.batch_size // PER_CLIENT):
            with torch.autocast(job.device.type, torch.bfloat16, enabled=job.autocast):
                logits = model(x[batch])
            grads = torch.autograd.grad(nn.functional.cross_entropy(logits.float(), y[batch]), params)
            with torch.no_grad():
                for leaf, grad in zip(params, grads, strict=True):
                    leaf.sub_(grad, alpha=rate)
