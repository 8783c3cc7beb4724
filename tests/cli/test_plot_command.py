"""Figures as files: formats, sizes, fonts, which arms; and what nobody can draw."""

from __future__ import annotations

import re
import struct

import pytest
from typer.testing import CliRunner

from evsim import load_run
from evsim.base.errors import PolicyError, RunFolderError
from evsim.base.figures import PAPER, SCREEN, new_figure, parse_width, write
from evsim.cli import app
from evsim.cli.plot_command import _of_a_run, _of_arms
from evsim.results.arms import load_arms
from tests.results.hand_made import write as write_run

BAD_INPUT = 2


@pytest.fixture
def evsim(tmp_path, monkeypatch):
    """Runs a command in a folder with two arms of one run each."""
    monkeypatch.chdir(tmp_path)
    for place, kind in enumerate(("uniform", "oort")):
        curve = tuple((at, version, min(0.9, 0.3 * version + 0.1 * place)) for version, at in enumerate((0, 400, 900)))
        write_run(tmp_path / kind, curve=curve, scenario=f'name = "tiny"\n[selection]\nkind = "{kind}"\n', spread=True)
    return lambda *arguments: CliRunner().invoke(app, [str(each) for each in arguments], catch_exceptions=False)


def inches(path):
    """Of a PDF page."""
    box = re.search(rb"/MediaBox \[ 0 0 ([0-9.]+) ([0-9.]+) \]", path.read_bytes())
    return float(box[1]) / 72, float(box[2]) / 72


@pytest.mark.parametrize("figure", [*_of_a_run()])
def test_every_figure_of_a_run_is_drawn(evsim, tmp_path, figure):
    done = evsim("plot", "uniform", "--figure", figure, "--style", "paper")
    assert done.exit_code == 0, done.output
    width, _ = struct.unpack(">II", (tmp_path / "figure.png").read_bytes()[16:24])
    assert width == round(PAPER.width * PAPER.dpi)


@pytest.mark.parametrize("figure", [name for name in _of_arms() if name != "groups"])
def test_every_figure_of_arms_is_drawn(evsim, figure):
    done = evsim("plot", "uniform", "oort", "--figure", figure, "--target", "0.8", "--out", "a.svg")
    assert done.exit_code == 0, done.output


def test_a_pdf_is_as_wide_as_asked_and_holds_its_fonts(evsim, tmp_path):
    evsim("plot", "uniform", "--out", "a.pdf", "--width", "84mm", "--style", "paper")
    assert inches(tmp_path / "a.pdf")[0] == pytest.approx(84 / 25.4, abs=0.01)
    content = (tmp_path / "a.pdf").read_bytes()
    assert b"/FontFile2" in content  # TrueType; journals refuse type 3
    assert b"/Type3" not in content


@pytest.mark.parametrize("ending", ["pdf", "svg", "png"])
def test_the_same_figure_gives_the_same_bytes(evsim, tmp_path, ending):
    for name in ("a", "b"):
        evsim("plot", "uniform", "--figure", "waste", "--out", f"{name}.{ending}")
    assert (tmp_path / f"a.{ending}").read_bytes() == (tmp_path / f"b.{ending}").read_bytes()


def test_letters_have_the_size_that_was_asked_for(evsim):
    from evsim.results.plots import waste_figure

    run = load_run("uniform")
    for style, size in ((SCREEN, 10), (PAPER, 8)):
        with style.worn():
            axes = waste_figure(run).axes[0]
        assert axes.xaxis.label.get_size() == size


def test_nothing_is_left_of_a_style_that_was_worn():
    with PAPER.worn():
        assert new_figure(10, 5).get_figwidth() == pytest.approx(3.3)
    assert new_figure(10, 5).get_figwidth() == 10


def test_arms_are_chosen_and_ordered(evsim, tmp_path):
    arms = load_arms(["uniform", "oort"], target=0.8)
    first, second = arms.runs
    chosen = arms.only([second])
    assert (list(chosen.runs), chosen.baseline) == ([second], second)
    assert arms.only([second, first]).baseline == arms.baseline
    done = evsim("plot", "uniform", "oort", "--target", "0.8", "--arms", f"{second}; {first}", "--out", "a.svg")
    assert done.exit_code == 0, done.output


def test_traces_and_data_are_plotted_in_the_same_way(evsim, tmp_path):
    for command, name in (("traces", "phones"), ("data", "digits")):
        done = evsim(command, "plot", name, "--out", f"{name}.pdf", "--width", "3.3in", "--style", "paper")
        assert done.exit_code == 0, done.output
        assert inches(tmp_path / f"{name}.pdf")[0] == pytest.approx(3.3, abs=0.01)


TWO = ("plot", "uniform", "oort", "--target", "0.8")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("plot", "uniform", "--width", "0"), "a width must lie between 1 and 40 inches, but got width=0.0"),
        (("plot", "uniform", "--width", "wide"), "--width 'wide' is no width; write inches or a unit, such as 3.3in"),
        (("plot", "uniform", "--width", "1e999in"), "is no width"),
        (("plot", "uniform", "--font-size", "0"), "a font size must lie between 3 and 40 points"),
        (("plot", "uniform", "--style", "papr"), "--style 'papr' is none; did you mean 'paper'?"),
        (("plot", "uniform", "--figure", "wast"), "--figure 'wast' is none of these; did you mean 'waste'?"),
        (("plot", "uniform", "--out", "a.gif"), "a.gif: ending '.gif'; expected one of .png, .svg, .pdf"),
        (("plot", "uniform", "--out", "plot"), "plot: ending ''; expected one of .png, .svg, .pdf"),
        (("plot", "uniform", "--arms", "oort"), "--arms are of a study or of several runs; uniform is one run"),
        (("plot", "nowhere"), "nowhere"),
        ((*TWO, "--arms", "selection.kind=oor"), "arms: 'selection.kind=oor'; did you mean 'selection.kind=oort'?"),
        (
            (*TWO, "--figure", "groups"),
            "no client was evaluated by itself; expected a run that was; set eval",
        ),
        (("traces", "plot", "phones", "--out", "a.gif"), "a.gif: ending '.gif'"),
        (("traces", "plot", "phones", "--width", "0"), "a width must lie between 1 and 40 inches"),
        (("data", "plot", "digits", "--out", "a.gif"), "a.gif: ending '.gif'"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_bad_input_is_a_sentence(evsim, arguments, said):
    done = evsim(*arguments)
    assert done.exit_code == BAD_INPUT, done.output
    assert said in done.stderr
    assert "Traceback" not in done.stderr


def test_a_width_has_units():
    assert [round(parse_width(text), 3) for text in ("3.3in", "3.3", "2.54cm", "25.4mm", "72pt")] == [3.3, 3.3, 1, 1, 1]
    with pytest.raises(PolicyError, match="is no width"):
        parse_width("-1in")


def test_a_place_that_cannot_be_written_is_refused(tmp_path):
    with pytest.raises(RunFolderError, match="cannot be written"):
        write(new_figure(), tmp_path / "no" / "a.pdf", RunFolderError)
