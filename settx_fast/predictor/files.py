"""A CSV, TSV or Parquet file as a data frame: separators, row names, blanks; what is missing is decided by columns."""

from __future__ import annotations

import csv
import gzip
import re
import warnings
from collections import Counter
from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from itertools import islice
from pathlib import Path

import pandas as pd

SUFFIXES = (".csv", ".csv.gz", ".tsv", ".tsv.gz", ".parquet", ".pq")
UNNAMED = "Unnamed: "
_BEYOND = "\0beyond the header"
_SAMPLE = 1000  # rows from which the layout of a file is told
_MISSING = ["", "nan", "NaN", "NAN", "NULL", "null", "<NA>", "#N/A"]  # words that can be values are left to columns


class TableError(ValueError):
    """The table cannot be used as it is; the message says what to change."""


def read_frame(path: Path, as_text: Sequence[str] = ()) -> pd.DataFrame:
    """The rows of a file under stripped names; columns named in `as_text` stay as written.

    Raises TableError where the file cannot be read, with a sentence that says what to change.
    """
    if not path.name.lower().endswith(SUFFIXES):
        raise TableError(f"'{path}' is not a table this command reads: expected one of {', '.join(SUFFIXES)}.")
    if not path.is_file():
        raise TableError(f"There is no file '{path}'.")
    try:
        is_parquet = path.suffix.lower() in (".parquet", ".pq")
        frame = pd.read_parquet(path) if is_parquet else _read_text(path, as_text)
    except TableError:
        raise
    except UnicodeDecodeError as error:
        raise TableError(f"'{path}' is not text in UTF-8: save it again with that encoding, or as Parquet.") from error
    except (pd.errors.ParserError, pd.errors.ParserWarning, csv.Error, ValueError, OSError, EOFError) as error:
        raise TableError(f"'{path}' could not be read: {str(error).strip().rstrip('.')}.") from error
    if frame.empty:
        raise TableError(f"'{path}' holds no rows.")
    return frame


def check_names(names: Sequence[str]) -> None:
    """Raise TableError where a name is repeated."""
    repeated = [name for name, count in Counter(names).items() if name and count > 1]
    if repeated:
        raise TableError(f"Column names must differ; repeated: {listed(repeated)}.")


def listed(names: Sequence[str] | pd.Index, limit: int = 12) -> str:
    """Names with commas, the first `limit` of them."""
    shown = ", ".join(str(name) for name in list(names)[:limit])
    return shown if len(names) <= limit else f"{shown} and {len(names) - limit} more"


def meant(name: str, names: Iterable[str]) -> str:
    """A question that names what is spelt almost alike, or is in other letters' case; "" where nothing is."""
    folded = {str(each).casefold(): str(each) for each in names}
    close = get_close_matches(name.casefold(), folded, 1)
    return f" Did you mean '{folded[close[0]]}'?" if close else ""


def _read_text(path: Path, as_text: Sequence[str]) -> pd.DataFrame:
    opened = gzip.open if path.suffix.lower() == ".gz" else open
    with opened(path, "rt", encoding="utf-8-sig", newline="") as lines:
        head = list(islice(lines, _SAMPLE))
    if not head or not head[0].strip():
        raise TableError(f"'{path}' could not be read: its first line should name the columns, and is empty.")
    separator = _separator(head[0])
    rows = [row for row in csv.reader(head, delimiter=separator, skipinitialspace=True) if row]
    header = [name.strip() for name in rows[0]]
    check_names(header)
    has_row_names = _has_row_names(header, rows[1:])
    names = [name or f"{UNNAMED}{index}" for index, name in enumerate(header)]
    if has_row_names:
        names = [f"{UNNAMED}row names", *names]
    elif any(len(row) > len(header) for row in rows):
        names = [*names, _BEYOND]
    padded = [
        name for index, name in enumerate(names) if _is_padded([row[index] for row in rows[1:] if index < len(row)])
    ]
    with warnings.catch_warnings():
        warnings.simplefilter("error", pd.errors.ParserWarning)  # fields beyond the last name would be lost
        frame = pd.read_csv(
            path, sep=separator, decimal="," if separator == ";" else ".", encoding="utf-8-sig", skipinitialspace=True,
            names=names, header=0, index_col=False, dtype=dict.fromkeys((*as_text, *padded), "str"),
            keep_default_na=False, na_values=_MISSING, low_memory=False,
        )  # fmt: skip
    return _without_what_lies_beyond(frame) if _BEYOND in names else frame


def _separator(header: str) -> str:
    """Comma, semicolon, tab or bar: which one the header holds most often outside quotes; else a blank."""
    bare = re.sub(r'"[^"]*"', "", header.strip())
    found = max(",;\t|", key=bare.count)
    return found if found in bare or " " not in bare else " "


def _has_row_names(header: list[str], rows: list[list[str]]) -> bool:
    """Whether rows begin with a name that the header lacks, as R writes them; refuse what might be or not.

    A row longer than its header either ends with a separator, and its last field is empty, or begins with a name.
    """
    longer = [row for row in rows if len(row) > len(header)]
    if all(not field.strip() for row in longer for field in row[len(header) :]):
        return False
    first = [row[0] for row in rows]
    by_one = len(longer) == len(rows) and all(len(row) == len(header) + 1 for row in longer)
    if by_one and len(set(first)) == len(first) and not any(map(_is_fraction, first)):
        return True
    number = next(index for index, row in enumerate(rows) if len(row) > len(header))
    raise _too_long(number + 1, len(rows[number]), len(header))


def _is_fraction(text: str) -> bool:
    return re.fullmatch(r"[+-]?\d*[.,]\d+(?:[eE][+-]?\d+)?", text.strip()) is not None


def _is_padded(texts: list[str]) -> bool:
    """Whether whole numbers are written with zeros in front."""
    known = [text for text in map(str.strip, texts) if text]
    return bool(known) and all(map(str.isdecimal, known)) and any(text[0] == "0" and len(text) > 1 for text in known)


def _without_what_lies_beyond(frame: pd.DataFrame) -> pd.DataFrame:
    """Without the empty field after a separator at the end of rows."""
    beyond = frame.pop(_BEYOND)
    filled = beyond.notna() & (beyond.astype(str).str.strip() != "")
    if filled.any():
        raise _too_long(int(filled.to_numpy().argmax()) + 1, len(frame.columns) + 1, len(frame.columns))
    return frame


def _too_long(row: int, fields: int, names: int) -> TableError:
    return TableError(
        f"Row {row} has {fields} fields, the header names {names}: expected one name for every field, "
        "a separator at the end of every row, or row names in front."
    )
