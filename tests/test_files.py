"""Files in folders that others may write to: whoever runs as root there is not led astray."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from wattgram.tools.files import read_small, write_whole


def test_what_is_written_is_read(tmp_path: Path) -> None:
    path = tmp_path / "kept"
    write_whole(path, b"first")
    write_whole(path, b"second", 0o644)

    assert b"second" == read_small(path, 6)
    assert 0o644 == path.stat().st_mode & 0o777
    assert [path] == list(tmp_path.iterdir())


def test_a_file_is_its_owners_alone_unless_said_otherwise(tmp_path: Path) -> None:
    write_whole(tmp_path / "kept", b"")

    assert 0o600 == (tmp_path / "kept").stat().st_mode & 0o777


@pytest.mark.parametrize("name", ["kept", ".kept.new"])
def test_a_link_in_the_way_is_replaced_and_its_target_stays(tmp_path: Path, name: str) -> None:
    precious = tmp_path / "precious"
    precious.write_text("precious")
    (tmp_path / name).symlink_to(precious)

    write_whole(tmp_path / "kept", b"ours")

    assert ("precious", b"ours") == (precious.read_text(), read_small(tmp_path / "kept", 100))
    assert not (tmp_path / "kept").is_symlink()


def test_a_link_is_not_read(tmp_path: Path) -> None:
    (tmp_path / "kept").symlink_to("/etc/hostname")

    with pytest.raises(OSError, match="symbolic links"):
        read_small(tmp_path / "kept", 100)


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "kept")

    with pytest.raises(OSError, match="not a regular file"):
        read_small(tmp_path / "kept", 100)


def test_more_than_expected_is_refused(tmp_path: Path) -> None:
    (tmp_path / "kept").write_bytes(b"12345")

    with pytest.raises(OSError, match="larger than 4 bytes"):
        read_small(tmp_path / "kept", 4)


def test_what_cannot_be_written_leaves_what_was(tmp_path: Path) -> None:
    """A folder stands in its place."""
    (tmp_path / "kept" / "inside").mkdir(parents=True)

    with pytest.raises(OSError, match=r"directory|empty"):
        write_whole(tmp_path / "kept", b"ours")

    assert [tmp_path / "kept"] == list(tmp_path.iterdir())
