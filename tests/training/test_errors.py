"""An error in a user's model ends a run with one message and exit code 2, whichever executor trains."""

from __future__ import annotations

import re

import pytest
from typer.testing import CliRunner

from evsim.cli import app

SCENARIO = """
extends = "quickstart"
[stop]
server_steps = 3
[population]
clients = 30
availability = "always"
[aggregation]
kind = "synchronous"
cohort_goal = 6
minimum_cohort = 6
minimum_reports = 1
[model]
kind = "net.py:make"
"""
NET = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self, n_classes):
        super().__init__()
        self.body = nn.Linear(64, n_classes)
    def forward(self, x):
        return self.helped(self.body(x.flatten(1)))
    def helped(self, logits):
        if self.training and float(self.body.bias.detach().abs().max()) > LIMIT:
            raise ArithmeticError("too large")
        return logits

def make(n_classes):
    return Net(n_classes)
"""


@pytest.mark.filterwarnings("ignore:the model cannot be trained in batches")
@pytest.mark.parametrize(("limit", "when"), [(-1, "while it is trained on a few samples"), (0.15, "client")])
def test_a_failing_model_is_a_message_with_the_users_lines_and_the_same_for_all_executors(
    tmp_path, monkeypatch, limit, when
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "s.toml").write_text(SCENARIO)
    (tmp_path / "net.py").write_text(NET.replace("LIMIT", str(limit)))
    said = set()
    for number, executor in enumerate(("serial", "batched", "workers")):
        arguments = ["run", "s.toml", "-o", f"executor.kind={executor}", "--out", str(number)]
        done = CliRunner().invoke(app, arguments, catch_exceptions=False)
        assert done.exit_code == 2, done.output
        said.add(done.stderr[done.stderr.index("evsim: model") :])
    (message,) = said
    place = when if when != "client" else r"client \d+, task \d+, model version \d+"
    assert re.search(rf"^evsim: model Net \({place}\): ArithmeticError: too large$", message, re.MULTILINE)
    assert re.findall(r"^  net.py, line (\d+), in (\w+): .*$", message, re.MULTILINE) == [
        ("10", "forward"),
        ("13", "helped"),
    ]
    assert "Traceback" not in message
