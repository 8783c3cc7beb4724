"""How figures are made and written, whoever draws them: sizes, fonts, formats.

A figure is drawn while a `Style` is worn, which says how wide it becomes and how large its letters are:

>>> with PAPER.worn():
...     figure = new_figure(10, 5)
>>> [round(float(each), 2) for each in figure.get_size_inches()]
[3.3, 2.87]
"""

from __future__ import annotations

import io
import math
import re
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, final

from evsim.base.errors import EvsimError, PolicyError, Problem, report, require

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_INCHES = {"in": 1.0, "cm": 1 / 2.54, "mm": 1 / 25.4, "pt": 1 / 72}
_LENGTH = re.compile(r"\s*([0-9]+(?:\.[0-9]*)?|\.[0-9]+)\s*(in|cm|mm|pt)?\s*")
_WIDTHS = (1.0, 40.0)  # inches: nothing can be read, or no program opens it
_SIZES = (3.0, 40.0)  # points
_NARROW = 5.0  # inches
_NOTEBOOK_DPI = 80
#: Formats by the ending of a file, with what would differ from one writing to the next.
FORMATS: dict[str, dict[str, Any]] = {
    ".png": {},
    ".svg": {"Date": None},
    ".pdf": {"CreationDate": None},
}


@final
@dataclass(frozen=True, kw_only=True)
class Style:
    """How figures look.

    Attributes:
        width: inches; None: each figure's own. Its height follows, less than in proportion.
        font_size: points; what is small is small beside it.
        titles: whether figures say what they show; in a paper the caption does.
        dpi: dots per inch of a PNG.
    """

    width: float | None = None
    font_size: float = 10.0
    titles: bool = True
    dpi: int = 150

    def __post_init__(self) -> None:
        low, high = _WIDTHS
        fits = self.width is None or low <= self.width <= high
        require(fits, f"a width must lie between {low:g} and {high:g} inches", width=self.width)
        low, high = _SIZES
        require(low <= self.font_size <= high, f"a font size must lie between {low:g} and {high:g} points")

    @contextmanager
    def worn(self) -> Iterator[None]:
        """Figures that are made and written meanwhile look like this."""
        import matplotlib as mpl

        thin = min(1.0, (self.font_size / 10) ** 0.5)
        told: Any = {"font.size": self.font_size, "lines.markersize": 5 * thin**2, "axes.linewidth": 0.8 * thin}
        told |= {"legend.handlelength": 2.2, "legend.columnspacing": 1.2}
        token = _worn.set(self)
        try:
            with mpl.rc_context(told):
                yield
        finally:
            _worn.reset(token)


SCREEN = Style()
PAPER = Style(width=3.3, font_size=8, titles=False, dpi=300)
_worn: ContextVar[Style] = ContextVar("style", default=SCREEN)


def style() -> Style:
    """The style that is worn now."""
    return _worn.get()


def is_narrow() -> bool:
    """Whether figures are as wide as a column of a page: two panels then do not stand side by side."""
    width = style().width
    return width is not None and width < _NARROW


def parse_width(text: str) -> float:
    """A width in inches, from a number of inches or a text with a unit.

    >>> parse_width("3.3in"), parse_width("127mm"), parse_width("7")
    (3.3, 5.0, 7.0)

    Raises:
        PolicyError: if it is none.
    """
    match = _LENGTH.fullmatch(text)
    if match is None or not math.isfinite(float(match[1])):
        raise PolicyError(f"--width {text!r} is no width; write inches or a unit, such as 3.3in, 84mm, 8.4cm, 240pt")
    return float(match[1]) * _INCHES[match[2] or "in"]


def new_figure(width: float = 9.0, height: float = 5.0) -> Figure:
    """An empty figure that is no part of pyplot's state; sizes in inches, unless the style says another width."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    class Picture(Figure):
        """A figure that a notebook shows by itself, without pyplot."""

        def _repr_png_(self) -> bytes:
            buffer = io.BytesIO()
            self.savefig(buffer, format="png", dpi=_NOTEBOOK_DPI)
            return buffer.getvalue()

    wanted = style().width or width
    figure = Picture(figsize=(wanted, height * (wanted / width) ** 0.5), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def titled(figure: Figure, text: str) -> None:
    """Say what a figure shows, unless a caption will."""
    if style().titles:
        figure.suptitle(text, x=0.01, ha="left", fontsize="large")


def format_of(path: str | Path, raising: type[EvsimError]) -> str:
    """The format that the ending of a file asks for: "png", "svg" or "pdf".

    Raises:
        EvsimError: of the kind given, if it is another one.
    """
    ending = Path(path).suffix.lower()
    if ending not in FORMATS:
        raise raising(report([Problem(str(path), f"ending {ending!r}", f"one of {', '.join(FORMATS)}")]))
    return ending[1:]


def write(figure: Figure, path: str | Path, raising: type[EvsimError]) -> Path:
    """Write a figure as its ending says, fonts embedded; the same figure gives the same bytes.

    Raises:
        EvsimError: of the kind given, if the ending is unknown or the file cannot be written.
    """
    import matplotlib as mpl

    target, kind = Path(path), format_of(path, raising)
    fonts: Any = {"pdf.fonttype": 42, "svg.fonttype": "path", "svg.hashsalt": "evsim"}  # TrueType; outlines
    try:
        with mpl.rc_context(fonts):
            figure.savefig(target, dpi=style().dpi, format=kind, metadata=FORMATS[f".{kind}"])
    except OSError as error:
        problem = Problem(str(target), f"cannot be written ({error.strerror or error})", "a path that can be written")
        raise raising(report([problem])) from error
    return target
