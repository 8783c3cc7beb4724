"""What a notebook shows of a run, of arms and of a study: a table, a picture, and what speaks against them."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Sequence
from typing import TYPE_CHECKING

from evsim.base.errors import EvsimError
from evsim.results.caveats import comparison_caveats
from evsim.results.comparison import compare, in_words
from evsim.results.run_figure import run_figure
from evsim.results.standing import State
from evsim.results.study_figures import study_figure
from evsim.results.summary import summary_table

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from evsim.results.arms import Arms
    from evsim.results.run import Run
    from evsim.results.whole_study import StudyRuns

_DPI = 80
_MOST = 20  # rows of runs that are not done


def run_html(run: Run) -> str:
    """The summary of a run above its picture; of one that was killed, that it was."""
    if run.partial:
        return f"<p>{html.escape(repr(run))}: killed; its tables hold what its journal does</p>"
    try:
        return _table(summary_table(run)) + _picture(run_figure(run), f"{run.name}: over virtual time")
    except EvsimError as error:  # a display never raises: the cell that shows the run has made it
        return f"<p>{html.escape(repr(run))}</p><pre>{html.escape(str(error))}</pre>"


def arms_html(arms: Arms) -> str:
    """The comparison above curves and times."""
    head, *rows = in_words(arms, compare(arms))
    title = f"<p>{html.escape(f'{arms.name}: time to {arms.goal}')}</p>"
    caveats = "".join(f"<li>{html.escape(str(each))}</li>" for each in comparison_caveats(arms))
    listed = f"<details><summary>caveats</summary><ul>{caveats}</ul></details>" if caveats else ""
    return title + _table(rows, head) + listed + _picture(study_figure(arms), "curves and times to the target")


def study_html(study: StudyRuns) -> str:
    """How many runs of each arm there are, and which are missing and why."""
    done = [arm for arm, _ in study.runs]
    lost = study.not_done
    arms = dict.fromkeys([*done, *lost["arm"]])
    others = [state.value for state in State if state is not State.DONE]
    missing = list(zip(lost["arm"], lost["state"], strict=True))
    rows = [[arm, str(done.count(arm)), *(str(missing.count((arm, one))) for one in others)] for arm in arms]
    text = f"<p>{html.escape(study.name)}</p>" + _table(rows, ["arm", "done", *others])
    why = [[str(cell) for cell in row] for row in lost[lost["why"] != ""].itertuples(index=False)]
    return text + (_table(why[:_MOST], list(lost.columns)) if why else "")


def _table(rows: Sequence[Sequence[str]], head: Sequence[str] = ()) -> str:
    top = f"<thead><tr>{''.join(f'<th>{html.escape(each)}</th>' for each in head)}</tr></thead>" if head else ""
    cell = '<td style="text-align: left">{}</td>'
    lines = "".join(f"<tr>{''.join(cell.format(html.escape(each)) for each in row)}</tr>" for row in rows)
    return f"<table>{top}<tbody>{lines}</tbody></table>"


def _picture(figure: Figure, alt: str) -> str:
    held = io.BytesIO()
    figure.savefig(held, format="png", dpi=_DPI)
    data = base64.b64encode(held.getvalue()).decode("ascii")
    return f'<img alt="{html.escape(alt)}" src="data:image/png;base64,{data}">'
