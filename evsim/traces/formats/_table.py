"""Tables of text as people have them: what Excel, pandas, R and loggers write, read as one and the same table.

Commas, semicolons, tabs or bars; with or without a byte order mark; names in any case and with spaces or units in
brackets; an index column without a name. Cells stay text here: what they mean is the business of a format.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, final

import numpy as np

from evsim.base.errors import Problem, TraceError, report, suggest
from evsim.base.vocabulary import BoolArray, FloatArray, IntArray
from evsim.traces.formats._files import head, read_bytes

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

#: Problems of a file that are listed one by one; the others are counted.
SHOWN = 5

#: Cells of a matrix.
ONLINE = ("1", "1.0", "true")
OFFLINE = ("0", "0.0", "false")

_DELIMITERS = ",;\t|"
_MOST_BYTES = 2**31 - 1  # of a block, for Arrow
_MARK = b"\xef\xbb\xbf"
_WIDE_MARKS = (b"\xff\xfe", b"\xfe\xff")
_LINE_END = re.compile(rb"\r\n|\r|\n")
_SEPARATOR_LINE = re.compile(r"sep=(.)", re.IGNORECASE)  # Excel's own
_UNIT = re.compile(r"(.+)_(s|secs?|seconds|ms|msecs?|millis|milliseconds)")
_INDEX = re.compile(r"unnamed_[0-9_]+")  # how pandas calls an index that it reads and writes again
_NUMBER = r"^[-+]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][-+]?[0-9]+)?$"
_DECIMAL_COMMA = re.compile(r"[-+]?\d+,\d+")
_MISSING = ("", "nan", "na", "n/a", "null", "none")


@final
@dataclass(frozen=True)
class Table:
    """The cells of a file as text.

    Attributes:
        path: of the file.
        columns: Arrow arrays of text by our names; white space around cells is gone.
        headers: what the file calls each column.
        unnamed_first: the cells of a first column without a name, such as an index; None if there is none.
        content: of the file, for the numbers of lines.
        body: where the first row begins in it.
    """

    path: Path
    columns: dict[str, Any]
    headers: dict[str, str]
    unnamed_first: Any
    content: bytes
    body: int

    @property
    def n_rows(self) -> int:
        """Rows below the header."""
        return len(next(iter(self.columns.values()), ()))

    def line(self, row: int) -> int:
        """The number of a row's line in the file, from 1; blank lines count."""
        first = len(_LINE_END.findall(self.content[: self.body])) + 1
        kept = [number for number, line in enumerate(_LINE_END.split(self.content[self.body :]), first) if line.strip()]
        return kept[row] if row < len(kept) else first + row

    def problems(self, bad: BoolArray, column: str, expected: str) -> list[Problem]:
        """A problem for each of the first bad rows, and one for how many more there are."""
        rows = np.flatnonzero(bad)
        found = [self.problem(int(row), column, expected) for row in rows[:SHOWN]]
        more = [Problem(self.headers[column], f"{len(rows) - SHOWN} more such lines", "")] if len(rows) > SHOWN else []
        return found + more

    def problem(self, row: int, column: str, expected: str) -> Problem:
        """What is wrong with a cell."""
        cell = str(self.columns[column][row])
        comma = "a decimal comma? write a point" if _DECIMAL_COMMA.fullmatch(cell) else ""
        return Problem(f"line {self.line(row)}, {self.headers[column]}", repr(cell[:60]), expected, comma)


def fail(path: Path, problems: Sequence[Problem]) -> TraceError:
    """One error with all problems of a file."""
    if len(problems) == 1:
        return TraceError(f"{path}: {problems[0]}")
    return TraceError(
        report(Problem(f"{path}: {each.where}", each.given, each.expected, each.hint) for each in problems)
    )


def first_cells(path: Path) -> tuple[list[str], list[str]]:
    """The cells of the header and of the first row, as far as they can be seen; nothing of a file of another kind."""
    begin = head(path)
    if begin.startswith(_WIDE_MARKS) or b"\0" in begin:
        return [], []
    text = begin.removeprefix(_MARK).decode("utf-8", "replace")
    lines = [line for line in re.split(r"\r\n|\r|\n", text) if line.strip()][:3]
    delimiter = ""
    if lines and (stated := _SEPARATOR_LINE.fullmatch(lines[0].strip())):
        delimiter, lines = stated[1], lines[1:]
    cells = [_split(line, delimiter or _delimiter(lines[0])) for line in lines[:2]]
    header, row = [*cells, [], []][:2]
    return header, row


def is_slots(cells: Sequence[str]) -> bool:
    """Whether cells all say online or offline in 0 and 1, so that they are no names of columns."""
    return bool(cells) and all(cell.lower() in (*ONLINE, *OFFLINE) for cell in cells)


def looks_wide(path: Path) -> bool:
    """Whether a file begins like UTF-16 text."""
    begin = head(path)
    return begin.startswith(_WIDE_MARKS)


def plain_name(header: str) -> str:
    """A header in small letters, digits and underscores, its unit in one spelling.

    >>> plain_name(" Start (sec)"), plain_name("Device-ID"), plain_name("latency [ms]")
    ('start_s', 'device_id', 'latency_ms')
    """
    name = re.sub(r"[^0-9a-z]+", "_", header.strip().lower()).strip("_")
    if _INDEX.fullmatch(name):
        return ""
    match = _UNIT.fullmatch(name)
    return f"{match[1]}_{'ms' if match[2].startswith('m') else 's'}" if match else name


def read_table(path: Path, rename: Callable[[str], str], *, header: bool = True) -> Table:
    """A table of text.

    Args:
        path: of the file, plain or gzipped.
        rename: from a plain name to the format's own.
        header: whether the first line holds names; without it columns are called "0", "1", ....

    Raises:
        TraceError: if it is no UTF-8 text, a line has too many or too few cells, or two columns have one name.
    """
    content = _utf8(path, read_bytes(path))
    given, delimiter, body = _header(path, content)
    if not header:
        given, body = [str(number) for number in range(len(given))], 0
    names = [rename(plain_name(each)) for each in given]
    names = [name or f"unnamed {place}" for place, name in enumerate(names)]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise TraceError(f"{path}: two columns mean {twice[0]!r}: {', '.join(given)}")
    table = _arrow_table(path, content, body, names, delimiter)
    columns = {name: _trimmed(table[name]) for name in names}
    first = columns.pop("unnamed 0", None)
    for name in [name for name in columns if name.startswith("unnamed ")]:
        if not _all_empty(columns.pop(name)):
            raise TraceError(f"{path}: column {int(name.split()[1]) + 1} has cells but no name")
    return Table(path, columns, dict(zip(names, given, strict=True)), first, content, body)


def check_known(table: Table, known: Iterable[str]) -> list[Problem]:
    """A problem for each column that the format does not know."""
    names = sorted(known)
    return [
        Problem(f"unknown column {table.headers[name]!r}", "not one of this format", "", suggest(name, names))
        for name in table.columns
        if name not in names
    ]


def missing(column: Any) -> BoolArray:
    """Which cells are empty or say that there is nothing."""
    import pyarrow as pa
    import pyarrow.compute as pc

    return np.asarray(pc.is_in(pc.utf8_lower(column), pa.array(_MISSING)).to_numpy(zero_copy_only=False), np.bool_)


def matches(column: Any, pattern: str) -> BoolArray:
    """Which cells match a regular expression."""
    import pyarrow.compute as pc

    return np.asarray(pc.match_substring_regex(column, pattern).to_numpy(zero_copy_only=False), np.bool_)


def numbers(table: Table, name: str) -> tuple[FloatArray, list[Problem]]:
    """A column as floats, NaN where there is nothing, and what is wrong with it."""
    column = table.columns[name]
    nothing = missing(column)
    bad = ~nothing & ~matches(column, _NUMBER)
    values = np.full(len(column), np.nan)
    if bad.any():
        return values, table.problems(bad, name, "a number")
    values[~nothing] = as_floats(column, ~nothing)
    return values, []


def is_numeric(column: Any) -> BoolArray:
    """Which cells are numbers."""
    return matches(column, _NUMBER)


def as_floats(column: Any, chosen: BoolArray) -> FloatArray:
    """The chosen cells, all of them numbers."""
    import pyarrow as pa

    return np.asarray(column.filter(pa.array(chosen)).cast(pa.float64()).to_numpy(zero_copy_only=False))


def devices(table: Table) -> tuple[list[str], IntArray, list[Problem]]:
    """Names in order of appearance, the number of each row's device, and rows without one."""
    coded = table.columns["device"].combine_chunks().dictionary_encode()
    names = [str(name) for name in coded.dictionary.to_pylist()]
    of = np.asarray(coded.indices.to_numpy(zero_copy_only=False)).astype(np.int64)
    nameless = of == names.index("") if "" in names else np.zeros(len(of), np.bool_)
    return names, of, table.problems(nameless, "device", "a name or number of a device")


def _utf8(path: Path, content: bytes) -> bytes:
    """The text of a file, without a byte order mark."""
    if content.startswith(_WIDE_MARKS) or b"\0" in content[:1000]:
        raise TraceError(f"{path}: UTF-16 or binary; expected text in UTF-8 (in Excel: save as 'CSV UTF-8')")
    return content.removeprefix(_MARK)


def _header(path: Path, content: bytes) -> tuple[list[str], str, int]:
    """The names in the first line that is not blank, the delimiter, and where the rows begin."""
    delimiter, at = "", 0
    while at < len(content):
        end = _LINE_END.search(content, at)
        raw, at = content[at : end.start() if end else len(content)], end.end() if end else len(content)
        try:
            line = raw.decode("utf-8")
        except UnicodeDecodeError as error:
            raise TraceError(f"{path}: its header is not UTF-8; save the file as UTF-8") from error
        if stated := _SEPARATOR_LINE.fullmatch(line.strip()):
            delimiter = stated[1]
        elif line.strip():
            delimiter = delimiter or _delimiter(line)
            return _split(line, delimiter), delimiter, at
    raise TraceError(f"{path}: empty; expected a line of column names and rows below it")


def _delimiter(line: str) -> str:
    """The one that occurs most often outside of quotes."""
    bare = re.sub(r'"[^"]*"', "", line)
    return max(_DELIMITERS, key=bare.count)


def _split(line: str, delimiter: str) -> list[str]:
    import csv

    return [cell.strip() for cell in next(csv.reader([line], delimiter=delimiter), [])]


def _arrow_table(path: Path, content: bytes, body: int, names: list[str], delimiter: str) -> Any:
    import pyarrow as pa
    from pyarrow import csv

    if not content[body:].strip():
        return pa.table({name: pa.array([], pa.string()) for name in names})
    convert = csv.ConvertOptions(column_types=dict.fromkeys(names, pa.string()), strings_can_be_null=False)
    broken: list[Any] = []

    def read(parse: csv.ParseOptions) -> Any:
        source = pa.BufferReader(pa.py_buffer(memoryview(content)[body:]))
        # in one block, on this thread: a thread that reads ahead may abort a process that ends in an error meanwhile
        size = min(len(content) + 1, _MOST_BYTES)
        options = csv.ReadOptions(column_names=names, use_threads=False, block_size=size)
        return csv.read_csv(source, read_options=options, parse_options=parse, convert_options=convert)

    def note(row: Any) -> str:
        broken.append(row)
        return "skip"

    try:
        return read(csv.ParseOptions(delimiter=delimiter))
    except (pa.ArrowException, ValueError) as error:
        _check_text(path, content)  # pyarrow would print a traceback for each such row
        try:  # again, row by row, for all that is wrong
            read(csv.ParseOptions(delimiter=delimiter, invalid_row_handler=note))
        except (pa.ArrowException, ValueError):
            broken.clear()
        if broken:
            raise fail(path, _uneven(content, body, broken, names)) from error
        hint = "; save the file as UTF-8" if "UTF8" in str(error) else ""
        raise TraceError(f"{path}: not readable as CSV: {error}{hint}") from error


def _check_text(path: Path, content: bytes) -> None:
    try:
        content.decode("utf-8")
    except UnicodeDecodeError as error:
        line = len(_LINE_END.findall(content[: error.start])) + 1
        raise TraceError(
            f"{path}: not readable as CSV: line {line}: byte {error.start} is not UTF-8; save the file as UTF-8"
        ) from error


def _uneven(content: bytes, body: int, broken: list[Any], names: list[str]) -> list[Problem]:
    """Rows of too many or too few cells."""
    lines = content.decode("utf-8", "replace")
    before = len(_LINE_END.findall(content[:body]))
    found = []
    texts = [line.strip() for line in re.split(r"\r\n|\r|\n", lines)][before:]
    for row in broken[:SHOWN]:
        number = before + 1 + texts.index(row.text.strip()) if row.text.strip() in texts else 0
        comma = "decimal commas? write points" if re.search(r"\d,\d", row.text) else ""
        where = f"not readable as CSV: line {number}"
        found.append(Problem(where, f"{row.actual_columns} cells {row.text[:60]!r}", f"{len(names)} cells", comma))
    if len(broken) > SHOWN:
        found.append(Problem("not readable as CSV", f"{len(broken) - SHOWN} more such lines", ""))
    return found


def _trimmed(column: Any) -> Any:
    import pyarrow.compute as pc

    return pc.utf8_trim_whitespace(column)


def _all_empty(column: Any) -> bool:
    return bool(missing(column).all())
