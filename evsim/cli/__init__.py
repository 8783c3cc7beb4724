"""The command line: thin commands over the public API; nothing heavy is imported before a command needs it."""

from __future__ import annotations

from evsim.cli.base import app
from evsim.cli.check_command import check
from evsim.cli.data_commands import data
from evsim.cli.export_command import export
from evsim.cli.look_commands import describe, list_kinds
from evsim.cli.new_command import new
from evsim.cli.plot_command import plot
from evsim.cli.run_command import resume, run
from evsim.cli.schema_command import schema
from evsim.cli.study_commands import compare, report, sweep
from evsim.cli.trace_commands import traces
from evsim.cli.verify_command import verify

__all__ = ["app"]

app.command()(run)
app.command()(resume)
app.command()(sweep)
app.command()(compare)
app.command()(report)
app.command()(plot)
app.command()(check)
app.command()(verify)
app.command()(export)
app.command(name="list")(list_kinds)
app.command()(describe)
app.command()(new)
app.command()(schema)
app.add_typer(traces, name="traces")
app.add_typer(data, name="data")
