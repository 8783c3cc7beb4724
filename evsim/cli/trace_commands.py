"""``evsim traces``: make, convert and draw traces of devices."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from evsim.base.errors import TraceError
from evsim.cli.base import say, say_table
from evsim.cli.plot_command import FontSize, StyleName, Width, style_of

if TYPE_CHECKING:
    from evsim.traces.availability import AvailabilityTrace
    from evsim.traces.speed import DeviceSpeed

traces = typer.Typer(no_args_is_help=True, help="Make, convert and draw traces of devices.")

Out = Annotated[Path, typer.Argument(help="A folder that is not there yet, or is empty.")]
Trace = Annotated[str, typer.Argument(help="A trace file or folder, or the name of a bundled trace.")]
Options = Annotated[list[str] | None, typer.Option("-o", "--option", metavar="KEY=VALUE")]


@traces.command()
def generate(
    out: Out,
    devices: Annotated[int, typer.Option(min=1, help="How many devices.")] = 2_000,
    seed: Annotated[int, typer.Option(min=0, help="Of every draw.")] = 0,
    option: Options = None,
) -> None:
    """Generate devices like real phones; -o availability.KEY=VALUE and -o speed.KEY=VALUE change the generator."""
    from evsim.traces.formats import columnar
    from evsim.traces.sources import load_availability, load_speed

    tables = _tables(option, allowed=("availability", "speed"))
    common: dict[str, Any] = {"n_devices": devices, "seed": seed, "folder": Path()}
    availability = load_availability(tables.get("availability", {}), **common)
    speed = load_speed(tables.get("speed", {}), **common)
    about = {"description": f"{devices} generated devices", "recipe": {"devices": devices, "seed": seed, **tables}}
    columnar.write(out, availability=availability, speed=speed, about=about)
    say(str(out))


@traces.command(name="import")
def import_(
    source: Annotated[Path, typer.Argument(help="A trace in any known format; see: evsim list trace_format.")],
    out: Out,
    what: Annotated[Literal["availability", "speed"], typer.Option(help="What to read from it.")] = "availability",
    format_: Annotated[str | None, typer.Option("--format", help="Default: recognized by content.")] = None,
    option: Options = None,
) -> None:
    """Convert a trace to evsim's own format; -o KEY=VALUE sets an option of the format, such as FLASH's rule."""
    from evsim.traces.formats import columnar
    from evsim.traces.sources import load_availability, load_speed

    spec = {"path": str(source.resolve()), **({"format": format_} if format_ else {}), **_tables(option)}
    common: dict[str, Any] = {"n_devices": 1, "seed": 0, "folder": Path()}
    about = {"description": f"imported from {source.name}"}
    if what == "availability":
        columnar.write(out, availability=load_availability(spec, **common), about=about)
    else:
        columnar.write(out, speed=load_speed(spec, **common), about=about)
    say(str(out))


@traces.command()
def plot(
    trace: Trace,
    out: Annotated[Path, typer.Option(help="The file: .pdf, .svg or .png.")] = Path("trace.png"),
    width: Width = None,
    font_size: FontSize = None,
    style: StyleName = "screen",
) -> None:
    """Draw how many devices are online over the week, and how long sessions last."""
    from evsim.traces.plot import plot_trace

    availability, _ = load(trace)
    if availability is None:
        raise TraceError(f"{trace}: holds device speeds only; expected availability to draw")
    with style_of(style, width, font_size).worn():
        plot_trace(availability, out, title=Path(trace).name)
    say(str(out))


def load(trace: str) -> tuple[AvailabilityTrace | None, DeviceSpeed | None]:
    """What a trace holds: availability, speeds or both.

    Raises:
        TraceError: if it holds neither.
    """
    from evsim.traces.sources import load_availability, load_speed

    common: dict[str, Any] = {"n_devices": 1, "seed": 0, "folder": Path()}
    found: list[Any] = []
    errors = []
    for reader in (load_availability, load_speed):
        try:
            found.append(reader(trace, **common))
        except TraceError as error:
            found.append(None)
            errors.append(error)
    if len(errors) == len(found):
        raise errors[0]
    return found[0], found[1]


def show(trace: str) -> None:
    """A trace in words and numbers."""
    from evsim.traces.describe import describe_trace

    say_table(list(describe_trace(*load(trace)).items()))


def _tables(options: list[str] | None, allowed: tuple[str, ...] | None = None) -> dict[str, Any]:
    from evsim.scenario.layers import merge, override

    tables: dict[str, Any] = {}
    for option in options or ():
        tables = merge(tables, override(option).tables)
    if allowed is not None and (strange := [key for key in tables if key not in allowed]):
        raise TraceError(f"-o {strange[0]}: expected a key that begins with {' or '.join(allowed)}")
    return tables
