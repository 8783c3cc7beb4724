"""One self-contained HTML page about a run or a study: nothing in it points outside."""

from __future__ import annotations

import base64
import html
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from evsim.base.errors import Problem, RunFolderError, report
from evsim.results.arms import Arms, load_arms
from evsim.results.caveats import comparison_caveats
from evsim.results.comparison import compare, executors_in_words, in_words
from evsim.results.detail_figures import day_figure, participation_figure, rounds_figure, tasks_figure, waste_figure
from evsim.results.run import Run, load_run
from evsim.results.run_figure import run_figure
from evsim.results.standing import STUDY_FILE
from evsim.results.study_figures import study_figure
from evsim.results.summary import summary_table
from evsim.results.writing import write_text

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_DPI = 110
_STYLE = """
:root { color-scheme: light; }
body { font: 16px/1.5 system-ui, sans-serif; margin: 0 auto; padding: 1rem; max-width: 70rem; color: #222; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.15rem; margin-top: 2.2rem; border-bottom: 1px solid #ddd; }
figure { margin: 0; overflow-x: auto; } figure img { width: 100%; min-width: 34rem; height: auto; display: block; }
figcaption, .note { color: #555; font-size: .9rem; }
.scroll { overflow-x: auto; } table { border-collapse: collapse; }
th, td { text-align: left; padding: .25rem .8rem .25rem 0; vertical-align: top; border-bottom: 1px solid #eee; }
pre { background: #f6f6f8; padding: .8rem; overflow-x: auto; font-size: .85rem; } summary { cursor: pointer; }
"""


def write_report(path: str | Path, out: str | Path) -> Path:
    """The page of a run folder or of a study's folder.

    Raises:
        RunFolderError: if the folder holds neither, or the file cannot be written.
    """
    folder, target = Path(path), Path(out)
    page = study_page(load_arms([folder])) if (folder / STUDY_FILE).is_file() else run_page(load_run(folder))
    write_text(target, page)
    return target


def run_page(run: Run) -> str:
    """The page of one run."""
    try:
        return _run_page(run)
    except (TypeError, ValueError) as error:  # of a figure: ids or instants of one table are not in another
        problem = Problem(str(run.folder), f"tables that do not fit each other ({error})", "those of one run")
        raise RunFolderError(report([problem])) from error


def _run_page(run: Run) -> str:
    title = run.name if run.seed is None else f"{run.name}, seed {run.seed}"
    plots = [
        (
            "The run",
            run_figure(run),
            "Accuracy, how rounds ended, devices online and at work, tasks lost. Nights gray.",
        ),
        ("Rounds", rounds_figure(run), "How long each attempt at a server step lasted, and why it closed."),
        ("The day", day_figure(run), "Clients online and at work by time of day, averaged over the run."),
        ("The first hour of tasks", tasks_figure(run), "What each client did, and how tasks that were not used ended."),
        (
            "Participation",
            participation_figure(run),
            "How evenly tasks fall on clients; who is online often is used often.",
        ),
        ("Device time", waste_figure(run), "What became of the time that devices spent."),
    ]
    body = [_table(summary_table(run, caveats=False)), _caveats(run.caveats), *(_plot(*plot) for plot in plots)]
    body += [_folded("Scenario", run.scenario_toml), _folded("Manifest", json.dumps(run.manifest, indent=2))]
    return _page(title, body)


def study_page(arms: Arms) -> str:
    """The page of a study."""
    table = compare(arms)
    head, *rows = in_words(arms, table)
    note = (
        f"Time until the mean of {arms.running_mean} evaluations is at {arms.goal}. Means of times and speed-ups (over "
        "pairs of one seed) are geometric, their intervals Student's t on the logarithms over seeds. Runs that never "
        "arrive count up to the common horizon; where they make a ratio unknowable there is a bound instead."
    )
    caption = f"Mean {arms.metric} over seeds with 95 % intervals; time to the target with every run as a dot."
    trained = "; ".join(executors_in_words(arms.executors))
    body = [
        _table(rows, head),
        f'<p class="note">{html.escape(note)}</p>',
        f'<p class="note">Trained by {html.escape(trained)}</p>' if trained else "",
        _caveats(comparison_caveats(arms)),
        _plot("Curves", study_figure(arms), caption),
    ]
    for arm, runs in arms.runs.items():
        title = f"{arm}: seed {runs[0].seed}"
        body += [_plot(title, run_figure(runs[0]), ""), _folded(f"Scenario of {arm}", runs[0].scenario_toml)]
    first = next(iter(arms.runs.values()))[0]
    return _page(arms.name, [*body, _folded("Manifest of the first run", json.dumps(first.manifest, indent=2))])


def _page(title: str, body: Sequence[str]) -> str:
    safe = html.escape(title)
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1"><link rel="icon" href="data:,">'
        f"<title>{safe}</title><style>{_STYLE}</style></head>\n<body><h1>{safe}</h1>\n"
        + "\n".join(body)
        + "\n</body></html>\n"
    )


def _caveats(caveats: Sequence[object]) -> str:
    if not caveats:
        return ""
    return f"<h2>Caveats</h2><ul>{''.join(f'<li>{html.escape(str(each))}</li>' for each in caveats)}</ul>"


def _plot(title: str, figure: Figure, caption: str) -> str:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=_DPI)
    data = base64.b64encode(buffer.getvalue()).decode("ascii")
    words = html.escape(caption)
    alt = html.escape(f"{title}. {caption}")
    return (
        f'<h2>{html.escape(title)}</h2><figure><img alt="{alt}" src="data:image/png;base64,{data}">'
        f"<figcaption>{words}</figcaption></figure>"
    )


def _table(rows: Sequence[Sequence[str]], head: Sequence[str] = ()) -> str:
    top = f"<tr>{''.join(f'<th>{html.escape(cell)}</th>' for cell in head)}</tr>" if head else ""
    lines = "".join(f"<tr>{''.join(f'<td>{html.escape(cell)}</td>' for cell in row)}</tr>" for row in rows)
    return f'<div class="scroll"><table>{top}{lines}</table></div>'


def _folded(title: str, text: str) -> str:
    return f"<details><summary>{html.escape(title)}</summary><pre>{html.escape(text)}</pre></details>"
