"""Files that are whole or not there, and places that one process writes to at a time."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from settx_fast import _files
from settx_fast._files import InUseError, checksum, claimed, naming, read_json, remove_parts, replacing, write_text


def test_a_file_is_replaced_at_once_or_left_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "x.txt"
    write_text(path, "before")

    def write_half() -> None:
        with replacing(path) as part:
            part.write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_half()
    assert path.read_text() == "before"
    write_text(path, "ä")
    assert path.read_bytes() == "ä".encode()
    assert list(tmp_path.iterdir()) == [path]


def test_temporary_files_lie_beside_their_target_under_a_name_of_their_own(tmp_path: Path) -> None:
    path = tmp_path / "x.txt"
    with replacing(path) as first, replacing(path) as second:
        assert first != second
        assert {first.parent, second.parent} == {tmp_path}
        assert str(os.getpid()) in first.name
        first.write_text("1")
        second.write_text("2")
    assert path.read_text() == "1"


def test_a_file_is_on_disk_before_it_gets_its_name_and_then_its_name_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = []

    def keep(path: Path) -> None:
        done.append((path.name if path.is_dir() else "part", (tmp_path / "x.txt").exists()))

    monkeypatch.setattr(_files, "_keep", keep)
    write_text(tmp_path / "x.txt", "")
    assert done == [("part", False), (tmp_path.name, True)]


def test_what_a_killed_process_left_is_removed_for_that_file_alone(tmp_path: Path) -> None:
    for name in (".x.txt.1-ab.part", ".y.txt.1-ab.part", "x.txt"):
        (tmp_path / name).touch()
    remove_parts(tmp_path / "x.txt")
    assert {path.name for path in tmp_path.iterdir()} == {".y.txt.1-ab.part", "x.txt"}


def test_an_error_of_the_system_names_the_file(tmp_path: Path) -> None:
    with pytest.raises(OSError, match=r"No space left on device: '.*x.txt'"), naming(tmp_path / "x.txt"):
        raise OSError(28, "Error writing bytes to file. Detail: [errno 28] No space left on device")
    with pytest.raises(FileNotFoundError, match="absent"), naming(tmp_path / "x.txt"):
        open("absent")  # noqa: SIM115


@pytest.mark.parametrize("text", ["", '{"a": ', "3", "\udcff".encode("utf-8", "surrogateescape").decode("latin1")])
def test_damaged_json_is_named_with_what_to_do(tmp_path: Path, text: str) -> None:
    (tmp_path / "x.json").write_text(text)
    with pytest.raises(ValueError, match=r"'.*x.json' is damaged \(.*\): do this"):
        read_json(tmp_path / "x.json", "do this")


def test_the_checksum_of_a_file_is_its_sha256(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"abc")
    assert checksum(tmp_path / "x") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


# ---- One process at a time -------------------------------------------------------------------------------------------

HOLDER = """
import sys, time
from pathlib import Path
from settx_fast._files import claimed
with claimed(Path(sys.argv[1]), Path("there")):
    print("held", flush=True)
    time.sleep(60)
"""


def holder(lock: Path) -> subprocess.Popen[str]:
    """Another process that holds a lock."""
    process = subprocess.Popen([sys.executable, "-c", HOLDER, str(lock)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


def test_a_place_that_another_process_holds_is_refused_by_its_name_until_that_ends(tmp_path: Path) -> None:
    lock = tmp_path / "new" / "lock"
    process = holder(lock)
    try:
        with pytest.raises(InUseError, match=f"'there' is in use by process {process.pid} on .* since "):
            claimed(lock, Path("there")).__enter__()
    finally:
        process.kill()
        process.wait()
    with claimed(lock, Path("there")):
        assert f"process {os.getpid()} " in lock.read_text()
    assert not lock.exists()


def test_a_lock_dies_with_its_process_though_a_child_lives(tmp_path: Path) -> None:
    child = os.fork()
    if child == 0:
        with claimed(tmp_path / "lock", tmp_path):
            if os.fork() == 0:
                time.sleep(20)
            os._exit(0)
    os.waitpid(child, 0)
    with claimed(tmp_path / "lock", tmp_path):
        pass


def test_a_forked_child_that_leaves_takes_no_lock_away(tmp_path: Path) -> None:
    claim = claimed(tmp_path / "lock", tmp_path)
    with claim:
        child = os.fork()
        if child == 0:
            claim.__exit__(None, None, None)
            os._exit(0)
        assert os.waitpid(child, 0)[1] == 0
        with pytest.raises(InUseError):
            claimed(tmp_path / "lock", tmp_path).__enter__()


def test_who_leaves_removes_no_lock_but_its_own(tmp_path: Path) -> None:
    lock = tmp_path / "lock"
    with claimed(lock, tmp_path):
        lock.unlink()
        process = holder(lock)
    try:
        assert lock.exists()
    finally:
        process.kill()
        process.wait()


def test_a_lock_on_a_file_that_lost_its_name_counts_for_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lock, flock, tries = tmp_path / "lock", _files.fcntl.flock, []

    def flock_after_its_holder_left(descriptor: int, how: int) -> None:
        flock(descriptor, how)
        if not tries:
            lock.unlink()
        tries.append(descriptor)

    monkeypatch.setattr(_files.fcntl, "flock", flock_after_its_holder_left)
    with claimed(lock, tmp_path):
        assert len(tries) == 2
        assert lock.exists()
