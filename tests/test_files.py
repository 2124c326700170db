"""Files and folders are replaced whole: a reader sees the old content or the new."""

from __future__ import annotations

from pathlib import Path

import pytest

from pvae.files import move_into_place, replace_file, replace_folder, write_bytes, write_text


def test_a_file_is_replaced_and_nothing_else_is_left(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    write_text(path, "old")
    write_text(path, "new, ü\n")
    assert path.read_bytes() == "new, ü\n".encode()
    write_bytes(path, b"\x00\x01")
    assert path.read_bytes() == b"\x00\x01"
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.txt"]


def test_a_failing_write_leaves_the_old_file_alone(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    write_text(path, "old")

    def stop_halfway() -> None:
        with replace_file(path) as unfinished:
            unfinished.write_text("ne")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stop_halfway()
    assert path.read_text() == "old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.txt"]


def test_an_error_names_the_file_that_the_caller_asked_for(tmp_path: Path) -> None:
    (tmp_path / "a.txt").mkdir()
    with pytest.raises(IsADirectoryError) as error:
        write_text(tmp_path / "a.txt", "new")
    assert error.value.filename == str(tmp_path / "a.txt")


def test_the_old_file_is_there_until_the_new_one_is_complete(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    write_text(path, "old")
    with replace_file(path) as unfinished:
        unfinished.write_text("new")
        assert unfinished == tmp_path / "a.txt.tmp" and path.read_text() == "old"
    assert path.read_text() == "new"


def test_a_folder_is_replaced_and_the_old_one_is_kept(tmp_path: Path) -> None:
    path, previous = tmp_path / "last", tmp_path / "last.previous"
    for content in ("1", "2", "3"):
        with replace_folder(path, previous) as unfinished:
            assert list(unfinished.iterdir()) == []
            (unfinished / "state").write_text(content)
    assert (path / "state").read_text() == "3" and (previous / "state").read_text() == "2"
    assert {entry.name for entry in tmp_path.iterdir()} == {"last", "last.previous"}


def test_a_failing_folder_leaves_the_old_one_alone(tmp_path: Path) -> None:
    path, previous = tmp_path / "last", tmp_path / "last.previous"
    with replace_folder(path, previous) as unfinished:
        (unfinished / "state").write_text("1")

    def fill_the_disk() -> None:
        with replace_folder(path, previous) as unfinished:
            (unfinished / "state").write_text("2")
            raise OSError("full")

    with pytest.raises(OSError, match="full"):
        fill_the_disk()
    assert (path / "state").read_text() == "1"
    assert [entry.name for entry in tmp_path.iterdir()] == ["last"]


def test_what_a_killed_process_left_is_overwritten(tmp_path: Path) -> None:
    (tmp_path / "last.tmp").mkdir()
    (tmp_path / "last.tmp" / "half").write_text("half")
    with replace_folder(tmp_path / "last", tmp_path / "last.previous") as unfinished:
        (unfinished / "state").write_text("1")
    assert [entry.name for entry in (tmp_path / "last").iterdir()] == ["state"]
    (tmp_path / "a.txt.tmp").write_text("half")
    write_text(tmp_path / "a.txt", "whole")
    assert (tmp_path / "a.txt").read_text() == "whole" and not (tmp_path / "a.txt.tmp").exists()


def test_a_complete_file_is_moved(tmp_path: Path) -> None:
    (tmp_path / "part").write_text("new")
    (tmp_path / "whole").write_text("old")
    move_into_place(tmp_path / "part", tmp_path / "whole")
    assert (tmp_path / "whole").read_text() == "new" and not (tmp_path / "part").exists()
