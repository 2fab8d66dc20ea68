"""Predictions as files: named after table and target, never in place of another table's."""

from __future__ import annotations

import json
import math
import re
from itertools import count
from pathlib import Path
from typing import Any

from settx_fast._files import write_text

PREDICTIONS, RECOMMENDATIONS = "prediction-*.json", "recommendation-*.json"
_UNSHOWN = re.compile("[\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")  # a terminal may act on them


def as_json(value: dict[str, Any], ascii_only: bool = False) -> str:
    """JSON text; numbers that are not finite are null, control characters escaped."""
    text = json.dumps(_plain(value), indent=2, ensure_ascii=ascii_only, allow_nan=False)
    return _UNSHOWN.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def save(text: str, where: Path, table: str, target: str, source: str | None = None, kind: str = "prediction") -> Path:
    """Write a prediction's JSON to a file, or into a directory as prediction-TABLE-TARGET.json; return the path.

    A file in a directory is replaced only by one of the same table and target, else the name gets a number.
    Raises OSError where nothing can be written.
    """
    path = where if where.suffix.lower() == ".json" else _free(where, kind, table, target, source)
    write_text(path, text + "\n")
    return path


def _free(directory: Path, kind: str, table: str, target: str, source: str | None) -> Path:
    stem = re.sub(r"\.(csv|tsv|parquet|pq)(\.gz)?$", "", table, flags=re.IGNORECASE)
    name = f"{kind}-{_as_name(stem)}-{_as_name(target)}"
    paths = (directory / f"{name}{'' if number == 1 else f'-{number}'}.json" for number in count(1))
    return next(path for path in paths if not path.exists() or _is_of(path, table, target, source))


def _as_name(text: str) -> str:
    return re.sub(r"[^\w.+-]+", "_", text)[:80] or "_"


def _is_of(path: Path, table: str, target: str, source: str | None) -> bool:
    """Whether a file holds a prediction of that table and target."""
    try:
        held = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, OSError):
        return False
    if not isinstance(held, dict):
        return False
    return [held.get(name) for name in ("table", "target", "source")] == [table, target, source]


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
