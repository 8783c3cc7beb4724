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
# # A first look at a run
#
# One scenario, from file to tables. A run is a folder; `load_run` gives its tables as pandas frames.

# %%
import tempfile
from pathlib import Path

from evsim import Scenario, Simulation, load_run
from evsim.results import metrics, plots

place = Path(tempfile.mkdtemp())
scenario = Scenario.load("quickstart", ["stop.virtual_time=12h", "population.clients=150"])
run = load_run(Simulation(scenario).run(place / "first"))
run

# %% [markdown]
# What came of every task? `outcome` says it, and the three phases say what it cost the device.

# %%
run.tasks.head()

# %%
run.tasks["outcome"].value_counts()

# %% [markdown]
# ## The learning curve
#
# A single evaluation can be lucky, so the headline is the first instant at which the mean of five is at the target.

# %%
metrics.time_to_accuracy(run, 0.5)

# %%
plots.run_figure(run)

# %% [markdown]
# ## What it cost
#
# Device time is what phones spent downloading, computing and uploading; wasted is what never reached the model.

# %%
metrics.device_time_shares(run)

# %%
plots.waste_figure(run)

# %% [markdown]
# ## An hour on the devices
#
# Each row is a client: download, computation, upload. Crosses left before they were done.

# %%
plots.tasks_figure(run)
