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
# # A time-to-accuracy study with intervals
#
# How much sooner does a shorter deadline bring the model to a target? Two arms, three seeds. Arms of one seed share
# data, devices and initial model, so they are compared in pairs.

# %%
import tempfile
from pathlib import Path

from evsim.results import plots
from evsim.results.arms import load_arms
from evsim.results.caveats import comparison_caveats
from evsim.results.comparison import compare
from evsim.study import Study, sweep

study = Study(
    name="deadlines",
    scenario="quickstart",
    arms={"12 min": (), "6 min": ("aggregation.reporting_deadline=6min",)},
    seeds=(0, 1, 2),
    target_accuracy=0.6,
    overrides=("population.clients=150", "stop.virtual_time=12h", "stop.server_steps="),
)
folder = sweep(study, Path(tempfile.mkdtemp()) / "deadlines")

# %% [markdown]
# A run that has not arrived when it ends is *censored*: its time is only known to be longer. `reached` counts those
# that arrived; the (geometric) mean is restricted to the horizon up to which every run was watched; where a ratio can't
# be known, `bound` says on which side it lies. Three seeds are few, and the comparison says so.

# %%
arms = load_arms([folder])
compare(arms).T

# %%
[str(each) for each in comparison_caveats(arms)]

# %%
plots.study_figure(arms)

# %% [markdown]
# The first crossing of a single evaluation is earlier, and depends on how often one looks:

# %%
compare(load_arms([folder], running_mean=1))[["reached", "median_h", "speedup", "speedup_low", "speedup_high", "bound"]]
