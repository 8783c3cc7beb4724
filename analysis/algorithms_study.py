"""Compare the algorithms on `digits` and on `synthetic(1, 1)`, and robust merges under attack: one command.

    python analysis/algorithms_study.py [--out runs/algorithms] [--seeds 3] [--processes 2]

Every arm is the scenario of `scenarios/algorithms/` with a few overrides. What an arm may choose (a server learning
rate, mu, q) it chooses on a seed of its own, 100, by the mean accuracy over the run; the figures are of seeds 0, 1, 2
..., which no choice has seen. Arms of one seed share data, devices, joins and the initial model. Finished runs are not
run again.
"""

from __future__ import annotations

import argparse
import sys
from concurrent.futures import ProcessPoolExecutor
from itertools import pairwise
from pathlib import Path

import numpy as np
import pandas as pd

TUNING_SEED = 100
RATES = ("0.01", "0.03", "0.1", "0.3", "1.0")


def _rates(kind: str, rates: tuple[str, ...]) -> tuple[tuple[str, ...], ...]:
    return tuple((f'algorithm="{kind}"', f"server_optimizer.learning_rate={rate}") for rate in rates)


#: arm -> what it may choose from; each choice is a list of overrides
METHODS: dict[str, tuple[tuple[str, ...], ...]] = {
    "FedAvg": ((),),
    "FedProx": tuple(('algorithm="fedprox"', f"client_rule.mu={mu}") for mu in ("0.01", "0.1", "1.0")),
    "FedAvgM": _rates("fedavgm", RATES[1:]),
    "FedAdagrad": _rates("fedadagrad", RATES[:4]),
    "FedAdam": _rates("fedadam", RATES[:4]),
    "FedYogi": _rates("fedyogi", RATES[:4]),
    "FedNova": (('algorithm="fednova"',),),
    "q-FedAvg": tuple(('algorithm="qfedavg"', f"client_rule.q={q}") for q in ("0.2", "1.0")),
    "SCAFFOLD": (('algorithm="scaffold"',),),
    "FedAvg, top 10 %": (('upload=[{kind="top_k",share=0.1},{kind="int8"}]',),),
}
_FLIP = 'upload=[{kind="sign_flip",share=0.2}]'
ATTACKED: dict[str, tuple[tuple[str, ...], ...]] = {
    "no attack": ((),),
    "mean": ((_FLIP,),),
    "median": ((_FLIP, "merge.kind=median"),),
    "trimmed mean": ((_FLIP, "merge={kind='trimmed_mean',share=0.3}"),),
    "Krum": ((_FLIP, "merge={kind='krum',attackers=3}", "aggregation.minimum_reports=9"),),
    "multi-Krum": ((_FLIP, "merge={kind='multi_krum',attackers=3}", "aggregation.minimum_reports=9"),),
    "norm clip": tuple((_FLIP, f"merge={{kind='norm_clip',max_norm={norm}}}") for norm in ("0.3", "1.0", "3.0")),
}
STUDIES = {"digits": ("digits", METHODS), "synthetic": ("synthetic", METHODS), "attack": ("digits", ATTACKED)}


def run(folder: Path, scenario: str, overrides: tuple[str, ...], seed: int) -> Path:
    """One run, unless its folder is there already."""
    import torch

    from evsim.run.simulation import Simulation
    from evsim.scenario import Scenario

    torch.set_num_threads(1)
    if not (folder / "manifest.json").exists():
        common = ("executor={kind='serial',threads=1}", f"seed={seed}")
        Simulation(Scenario.load(f"algorithms/{scenario}", [*common, *overrides])).run(folder, None)
    return folder


def accuracy(folder: Path) -> pd.Series:
    """Test accuracy by hours of virtual time, the mean of three evaluations."""
    from evsim.results import load_run

    rows = load_run(folder).evaluations
    rows = rows[(rows["metric"] == "accuracy") & (rows["trigger"] != "final")]
    values = rows["value"].to_numpy()
    return pd.Series(values, index=rows["at"].to_numpy() / 3_600_000).rolling(3, min_periods=1).mean()


def study(name: str, out: Path, seeds: int, pool: ProcessPoolExecutor) -> pd.DataFrame:
    """Tune, run, and return one curve per arm and seed."""
    scenario, arms = STUDIES[name]
    tuning = {
        (arm, place): pool.submit(run, out / name / f"{arm}-tune{place}", scenario, choice, TUNING_SEED)
        for arm, choices in arms.items()
        for place, choice in enumerate(choices)
        if len(choices) > 1
    }
    chosen = {}
    for arm, choices in arms.items():
        scores = [accuracy(tuning[arm, k].result()).mean() if len(choices) > 1 else 0.0 for k in range(len(choices))]
        chosen[arm] = choices[int(np.argmax(scores))]
    done = {
        (arm, seed): pool.submit(run, out / name / f"{arm}-{seed}", scenario, chosen[arm], seed)
        for arm in arms
        for seed in range(seeds)
    }
    curves = pd.DataFrame({key: accuracy(future.result()) for key, future in done.items()})
    curves.columns = pd.MultiIndex.from_tuples(done, names=["arm", "seed"])
    table = summary(curves)
    table["chosen"] = [" ".join(chosen[arm]) for arm in table.index]
    table.to_csv(out / f"{name}.csv")
    print(f"\n{name}\n{table.to_string()}")
    return curves


def summary(curves: pd.DataFrame) -> pd.DataFrame:
    """Final accuracy and hours to a level, mean over seeds and half the range; a level is given by the first arm."""
    last = curves.ffill().iloc[-1]
    first = curves.columns[0][0]
    level = 0.95 * last[first].mean()
    rows = {}
    for arm in dict.fromkeys(curves.columns.get_level_values("arm")):
        hours = [_crossing(curves[arm, seed], level) for seed in curves[arm].columns]
        reached = [hour for hour in hours if hour is not None]
        rows[arm] = {
            "final accuracy": round(last[arm].mean(), 3),
            "+-": round((last[arm].max() - last[arm].min()) / 2, 3),
            f"hours to {level:.2f}": round(float(np.mean(reached)), 2) if len(reached) == len(hours) else None,
            "reached": f"{len(reached)}/{len(hours)}",
        }
    return pd.DataFrame.from_dict(rows, orient="index")


def _crossing(curve: pd.Series, level: float) -> float | None:
    for (_, below), (hour, above) in pairwise(curve.dropna().items()):
        if below < level <= above:
            return float(hour)
    return None


def plot(curves: dict[str, pd.DataFrame], path: Path) -> None:
    """One panel per study, one line per arm, the band from the lowest to the highest seed."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    colors = (
        "#000000",
        "#E69F00",
        "#56B4E9",
        "#009E73",
        "#F0E442",
        "#0072B2",
        "#D55E00",
        "#CC79A7",
        "#7F7F7F",
        "#8C564B",
    )
    figure = Figure(figsize=(7, 3.6 * len(curves)), layout="constrained")
    FigureCanvasAgg(figure)
    for axes, (name, table) in zip(figure.subplots(len(curves), 1, squeeze=False)[:, 0], curves.items(), strict=True):
        for place, arm in enumerate(dict.fromkeys(table.columns.get_level_values("arm"))):
            each = table[arm]
            style = ("-", "--", ":")[place % 3]
            axes.plot(each.index, each.mean(axis=1), style, color=colors[place], label=arm, linewidth=1.6)
            axes.fill_between(each.index, each.min(axis=1), each.max(axis=1), color=colors[place], alpha=0.08)
        axes.set(title=name, xlabel="virtual time, hours since 18:00", ylabel="test accuracy, mean of three")
        axes.grid(axis="y", color="#DDDDDD")
        axes.legend(fontsize=7, ncols=2, loc="lower right")
    figure.savefig(path, dpi=130)


def main() -> None:
    """Run all studies."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("runs/algorithms"))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--processes", type=int, default=2)
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    with ProcessPoolExecutor(given.processes) as pool:
        curves = {name: study(name, given.out, given.seeds, pool) for name in STUDIES}
    plot(curves, given.out / "algorithms.png")
    print(f"\nwrote {given.out / 'algorithms.png'}")


if __name__ == "__main__":
    sys.exit(main())
