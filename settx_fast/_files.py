"""Files that are whole or not there, and places that one process writes to at a time."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

PART = ".part"  # ends the names of temporary files


class InUseError(RuntimeError):
    """Another process writes there; says which."""


@contextmanager
def replacing(path: Path, within: Path | None = None) -> Iterator[Path]:
    """A file of this process's own, beside `path` or `within` another directory of its disk, that becomes `path`.

    It is on disk before it is renamed; after an error `path` is as it was. An OSError that names no file, as those of
    a full disk, names `path`.
    """
    part = (within or path.parent) / f".{path.name}.{os.getpid()}-{os.urandom(4).hex()}{PART}"
    try:
        with naming(path):
            yield part
            _keep(part)
            part.replace(path)
            _keep(path.parent)
    finally:
        part.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Replace `path` by a UTF-8 file, at once."""
    with replacing(path) as part:
        part.write_text(text, encoding="utf-8")


def write_bytes(path: Path, data: bytes) -> None:
    """Replace `path` by a file, at once."""
    with replacing(path) as part:
        part.write_bytes(data)


def remove_parts(path: Path) -> None:
    """Remove what killed processes left of `path`; for the one that has claimed the place."""
    for part in path.parent.glob(f".{path.name}.*{PART}"):
        part.unlink(missing_ok=True)


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Let an OSError that names no file name `path`."""
    try:
        yield
    except OSError as error:
        if error.errno is None or error.filename is not None:
            raise
        raise OSError(error.errno, os.strerror(error.errno), str(path)) from error


def _keep(path: Path) -> None:
    """Wait until a file, or a directory's list of names, is on disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def read_json(path: Path, remedy: str) -> dict[str, Any]:
    """What a file holds that must be a JSON object; ValueError that names a damaged one and says what to do."""
    try:
        found = json.loads(path.read_bytes())
    except ValueError as error:
        raise ValueError(f"'{path}' is damaged ({error}): {remedy}") from error
    if not isinstance(found, dict):
        raise ValueError(f"'{path}' is damaged (it holds no object): {remedy}")
    return found


def checksum(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


# ---- One process at a time -------------------------------------------------------------------------------------------

_held: set[int] = set()  # descriptors of locks; a forked child must not keep them when its parent ends


@contextmanager
def claimed(lock: Path, place: Path) -> Iterator[None]:
    """Hold the file `lock`, which says whose it is, until the end; its directory is made if need be.

    The system lets go of it when the process ends, however it ends. Raises InUseError where another holds `place`.
    """
    descriptor = _claim(lock, place)
    _held.add(descriptor)
    try:
        yield
    finally:
        if descriptor in _held:  # else this is a forked child, and its parent still holds it
            if _is_named(descriptor, lock):
                lock.unlink()
            _held.remove(descriptor)
            os.close(descriptor)


def _claim(lock: Path, place: Path) -> int:
    while True:
        lock.parent.mkdir(exist_ok=True)
        try:
            descriptor = os.open(lock, os.O_RDWR | os.O_CREAT, 0o644)
        except FileNotFoundError:  # the directory went away with an earlier holder
            continue
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            with open(descriptor, errors="replace") as file:
                owner = file.read() or "another process"
            raise InUseError(f"'{place}' is in use by {owner}: wait for it, or write to another place") from None
        if _is_named(descriptor, lock):
            owner = f"process {os.getpid()} on {socket.gethostname()} since {time.strftime('%Y-%m-%d %H:%M:%S')}"
            os.truncate(descriptor, 0)
            os.write(descriptor, owner.encode())
            return descriptor
        os.close(descriptor)


def _is_named(descriptor: int, path: Path) -> bool:
    """Whether the open file still has its name: an earlier holder may have removed it."""
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False


def _let_go() -> None:
    for descriptor in _held:
        os.close(descriptor)
    _held.clear()


os.register_at_fork(after_in_child=_let_go)
