# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # What a trace does to a training
#
# Phones come and go by the hour of the day. So the cohort changes with it, tasks are lost, and the model hears more
# from those who are online often. A dry run shows it without training anything.

# %%
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd

from evsim import Scenario, Simulation, load_run
from evsim.results import metrics, plots

scenario = Scenario.load("replay", ["stop.virtual_time=2d", "population.clients=500", "aggregation.cohort_goal=50"])
run = load_run(Simulation(scenario).run(Path(tempfile.mkdtemp()) / "replay"))

# %% [markdown]
# ## Availability by hour

# %%
online = run.availability
hour = (online["at"] + run.start_ms) // 3_600_000 % 24
online.groupby(hour)["online"].mean().rename_axis("hour").round(1)

# %%
plots.day_figure(run)

# %% [markdown]
# ## Drop-outs by hour
#
# The share of the tasks dispatched in each hour whose device left before it was done.

# %%
ended = run.tasks[run.tasks["outcome"] != "in_flight"]
hour = (ended["dispatched_at"] + run.start_ms) // 3_600_000 % 24
(ended["outcome"] == "dropped").groupby(hour).mean().rename_axis("hour").round(3)

# %% [markdown]
# ## Bias towards those who are online often
#
# Clients in five groups by how much of the day they are online: the share of all merged updates that each group sent.
# Without bias each would have a fifth.

# %%
merged = metrics.tasks_per_client(run, outcome="aggregated")
groups = pd.qcut(
    run.clients["online_share"].rank(method="first"), 5, labels=["least", "less", "middle", "more", "most"]
)
shares = pd.Series(merged).groupby(groups, observed=True).sum() / merged.sum()
shares.round(3)

# %%
metrics.participation(run).round(3)

# %%
np.corrcoef(run.clients["online_share"].rank(), pd.Series(merged).rank())[0, 1].round(2)

# %%
plots.participation_figure(run)
