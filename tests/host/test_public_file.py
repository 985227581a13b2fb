"""public_file: a reader sees the old file or the new one, in the folder that was named and nowhere else."""

import os

import pytest

from dodeka_db.errors import SetupError
from dodeka_db.host import public_file


@pytest.fixture(autouse=True)
def private_umask():
    before = os.umask(0o077)
    yield
    os.umask(before)


def test_others_can_read_it_and_nothing_else_is_left(tmp_path):
    page = tmp_path / "status.html"
    (tmp_path / ".status.html.new").write_text("of a killed run")
    public_file.write(page, "é\n")
    before = page.stat().st_ino
    public_file.write(page, "new\n")
    assert page.read_text() == "new\n"
    assert page.stat().st_mode & 0o777 == 0o644
    assert page.stat().st_ino != before  # a file of its own: a reader of the old one goes on reading that
    assert os.listdir(tmp_path) == ["status.html"]


def test_links_are_replaced_and_not_followed(tmp_path):
    (tmp_path / "web").mkdir()
    other = tmp_path / "other"
    other.write_text("other\n")
    for name in ("status.html", ".status.html.new"):
        (tmp_path / "web" / name).symlink_to(other)
    public_file.write(tmp_path / "web" / "status.html", "page\n")
    assert (tmp_path / "web" / "status.html").read_text() == "page\n"
    assert not (tmp_path / "web" / "status.html").is_symlink()
    assert other.read_text() == "other\n"


def test_a_folder_that_is_missing_is_not_made(tmp_path):
    page = tmp_path / "web" / "status.html"
    with pytest.raises(
        SetupError, match=f"page {page} cannot be written: No such file or directory; give this user"
    ):
        public_file.write(page, "page\n")
    assert os.listdir(tmp_path) == []


def test_a_folder_in_its_place_stays(tmp_path):
    page = tmp_path / "status.html"
    page.mkdir()
    with pytest.raises(SetupError, match="cannot be written: Is a directory"):
        public_file.write(page, "page\n")
    assert os.listdir(tmp_path) == ["status.html"]
