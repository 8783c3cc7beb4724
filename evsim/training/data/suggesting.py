"""The scenario that a store asks for: what `evsim data import` prints at its end."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from evsim.training.data.store import OpenStore

_MANY = 300  # clients that the quick start has, and its rounds are made for
_SHARE = 10  # one client in so many is asked in a round
_OBJECTIVES = {"steps": "next_token", "flags": "multi_label", "numbers": "regression"}


def scenario_for(store: OpenStore, path: str) -> str:
    """A scenario file that runs beside a store, on the devices of the quick start."""
    clients = None if store.offsets is None else len(store.offsets) - 1
    lines = ['extends = "quickstart"']
    unset = ["cost.model_bytes", "cost.sample_scale"]
    if clients is not None:
        unset.append("population.clients")
    if store.labels != "classes":
        unset.append("stop.target_accuracy")
    if store.n_tokens is not None:
        unset.append("model.hidden")
    lines.append(f"unset = [{', '.join(repr(each).replace(chr(39), chr(34)) for each in unset)}]")
    if store.labels != "classes":
        lines.append(f'objective = "{_OBJECTIVES[store.labels]}"')
    if store.n_tokens is not None:
        lines.append('model = "transformer"' if store.labels == "steps" else 'model = "gru"')
    partition = '"natural"' if clients is not None else '"iid"'
    if clients is None and store.labels == "classes":
        partition = '{ kind = "dirichlet", alpha = 0.5 }'
    lines += ["", "[data]", f'dataset = {{ kind = "store", path = "{path}" }}', f"partition = {partition}"]
    if clients is not None and clients < _MANY:
        goal = max(1, clients // _SHARE)
        lines += ["", "[aggregation]", f"cohort_goal = {goal}", f"minimum_cohort = {goal}", "minimum_reports = 1"]
    return "\n".join(lines)
