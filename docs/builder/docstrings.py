"""Docstrings as Markdown: lists in columns become tables, `name: meaning` at the start of a line stays prose."""

from __future__ import annotations

import re
from itertools import groupby
from typing import Any

import griffe

ENTRY = re.compile(r"(?P<names>[a-z_]\w*(?:, \w+)*)(?: {2,}| (?=\())(?P<meaning>\S.*)")
NESTED = re.compile(r' +"(\w+)" {2,}(\S.*)')
LATER = re.compile(r" {6,}(\S.*)")


class Tables(griffe.Extension):
    """Rewrites every docstring that is loaded."""

    def on_instance(self, *, obj: griffe.Object, **_: Any) -> None:
        """Called once for every object."""
        if obj.docstring:
            obj.docstring.value = with_tables(obj.docstring.value)


def with_tables(docstring: str) -> str:
    """Blocks of at least two entries `name  meaning` as tables; continuation lines are indented by six or more."""
    lines = docstring.splitlines()
    written: list[str] = []
    for is_list, block in groupby(zip(lines, _parts_of_lists(lines), strict=True), key=lambda pair: pair[1]):
        text = [line for line, _ in block]
        written += ["", *_table(text), ""] if is_list else text
    return "\n".join(written)


def _parts_of_lists(lines: list[str]) -> list[bool]:
    """For every line whether it belongs to a list of two entries or more."""
    result, start = [False] * len(lines), None
    for at, line in enumerate([*lines, ""]):
        if ENTRY.fullmatch(line) and "  " in line:
            start = at if start is None else start
        elif start is not None and not LATER.fullmatch(line):
            if sum(bool(ENTRY.fullmatch(each)) for each in lines[start:at]) > 1:
                result[start:at] = [True] * (at - start)
            start = None
    return result


def _table(lines: list[str]) -> list[str]:
    rows: list[list[str]] = []
    for line in lines:
        if entry := ENTRY.fullmatch(line):
            rows.append([", ".join(f"`{name}`" for name in entry["names"].split(", ")), _cells(entry["meaning"])])
        elif nested := NESTED.fullmatch(line):
            rows[-1][1] += f'<br>`"{nested[1]}"` {_cells(nested[2])}'
        else:
            rows[-1][1] += f" {line.strip()}"
    rows = [[cell.replace("|", "\\|") for cell in row] for row in rows]
    return ["| | |", "|---|---|", *(f"| {name} | {meaning} |" for name, meaning in rows)]


def _cells(text: str) -> str:
    """A meaning that is itself in columns: shape, dtype, the rest."""
    return " · ".join(re.split(r" {2,}", re.sub(r'^"(\w+)" {2,}', r'<br>`"\1"` ', text)))
