"""Reports and detailed plots: one file, nothing outside, whatever the run held."""

from __future__ import annotations

import re
from html.parser import HTMLParser

import pytest

from evsim.base.errors import RunFolderError
from evsim.results import plots
from evsim.results.report import run_page, write_report
from tests.results.hand_made import write

FIGURES = (
    plots.run_figure,
    plots.rounds_figure,
    plots.day_figure,
    plots.tasks_figure,
    plots.participation_figure,
    plots.waste_figure,
)


class Links(HTMLParser):
    def __init__(self):
        super().__init__()
        self.found = []

    def handle_starttag(self, tag, attrs):
        self.found += [value for name, value in attrs if name in {"src", "href", "srcset", "action"}]


def links(page):
    parser = Links()
    parser.feed(page)
    return parser.found


def test_a_report_points_at_nothing_outside(tiny, tmp_path):
    page = write_report(tiny.folder, tmp_path / "new" / "report.html").read_text(encoding="utf-8")
    assert len(links(page)) == 7
    assert all(link.startswith("data:") for link in links(page))
    assert not re.search(r"url\(|@import|<script|<link rel=.stylesheet", page)
    assert "<title>tiny, seed 0</title>" in page
    assert "&quot;trace_hash&quot;: &quot;t&quot;" in page


def test_names_in_a_report_are_text_and_never_markup(tmp_path):
    caveat = {"key": "diverged", "text": "<script>it diverged", "measure": "step 3", "remedy": "slower"}
    run = write(tmp_path / "run", name="<script>alert(1)</script>", caveats=[caveat])
    page = run_page(run)
    assert page.count("<li>&lt;script&gt;it diverged (step 3); slower</li>") == 1
    assert "<script" not in page
    assert "&lt;script&gt;" in page


@pytest.mark.parametrize("draw", FIGURES, ids=lambda draw: draw.__name__)
def test_plots_have_units_on_their_axes(draw, tiny):
    figure = draw(tiny)
    assert all(axes.get_ylabel() or axes.get_yticklabels() for axes in figure.axes)
    assert figure.axes[-1].get_xlabel()


@pytest.mark.parametrize("draw", FIGURES, ids=lambda draw: draw.__name__)
def test_plots_of_a_run_in_which_nothing_happened_are_drawn(draw, tmp_path):
    run = write(tmp_path / "run", rows=(), end=0, curve=((0, 0, 0.1),), target=None)
    plots.save(draw(run), tmp_path / "x.png")
    assert (tmp_path / "x.png").stat().st_size > 1000


def test_a_notebook_shows_a_plot_by_itself(tiny):
    assert plots.waste_figure(tiny)._repr_png_().startswith(b"\x89PNG")


def test_the_window_of_tasks_shows_what_ran_in_it(tiny):
    axes = plots.tasks_figure(tiny, 300, 500).axes[0]
    assert axes.get_ylabel() == "3 clients, a row each"  # clients 3, 1 and 4


def test_a_folder_that_is_no_run_has_no_report(tmp_path):
    with pytest.raises(RunFolderError, match="expected the folder of a run"):
        write_report(tmp_path, tmp_path / "report.html")
