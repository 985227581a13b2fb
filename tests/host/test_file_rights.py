"""rights: what a file lets whom do, taken over by another file, or the stricter of two."""

import os
import subprocess
from pathlib import Path

import pytest

from dodeka_db.host import file_rights

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")


@pytest.fixture
def live(tmp_path) -> Path:
    (tmp_path / "live").write_bytes(b"")
    return tmp_path / "live"


@pytest.fixture
def staged(tmp_path) -> Path:
    (tmp_path / "staged").touch(0o600)
    return tmp_path / "staged"


def take_over(its_rights: file_rights.Rights, file: Path) -> None:
    its_rights.own(file)
    its_rights.open_up(file)


def acl(file: Path) -> list[str]:
    shown = subprocess.check_output(
        ["getfacl", "--omit-header", "--numeric", "--no-effective", file], text=True
    )
    return shown.split()


def set_acl(file: Path, *entries: str) -> None:
    subprocess.run(["setfacl", "--modify", ",".join(entries), file], check=True)


@pytest.mark.parametrize("mode", [0o600, 0o640, 0o664, 0o400])
def test_the_mode(live, staged, mode):
    live.chmod(mode)
    take_over(file_rights.read(live), staged)
    assert staged.stat().st_mode & 0o7777 == mode


def test_the_acl_and_not_the_mode_that_its_mask_shows(live, staged):
    live.chmod(0o600)
    set_acl(live, "u:1234:r", "g:2345:rw")
    assert live.stat().st_mode & 0o070 == 0o060, "which the group itself does not have"
    take_over(file_rights.read(live), staged)
    assert acl(staged) == acl(live) and "user:1234:r--" in acl(live) and "group::---" in acl(staged)


def test_no_acl_where_the_folder_would_give_one(live, staged, tmp_path):
    live.chmod(0o640)
    set_acl(tmp_path, "d:u:1234:rw")
    inherited = tmp_path / "inherited"
    inherited.touch(0o600)
    assert "user:1234:rw-" in acl(inherited)
    take_over(file_rights.read(live), inherited)
    assert acl(inherited) == ["user::rw-", "group::r--", "other::---"]


def test_extended_attributes(live, staged):
    os.setxattr(live, "user.of", b"the board")
    take_over(file_rights.read(live), staged)
    assert os.getxattr(staged, "user.of") == b"the board"


@needs_root
def test_owner_and_group_with_no_right_to_anybody_before_it_is_opened_up(live, staged):
    os.chown(live, 1234, 2345)
    live.chmod(0o664)
    set_acl(live, "u:99:r")
    its_rights = file_rights.read(live)
    its_rights.own(staged)
    assert (staged.stat().st_uid, staged.stat().st_gid) == (1234, 2345)
    assert staged.stat().st_mode & 0o777 == 0o600 and len(acl(staged)) == 3
    its_rights.open_up(staged)
    assert acl(staged) == acl(live)


@needs_root
def test_a_new_file_is_its_folder_s_owner_s_alone(staged, tmp_path):
    os.chown(tmp_path, 3456, 4567)
    take_over(file_rights.for_new_file(tmp_path), staged)
    assert (staged.stat().st_uid, staged.stat().st_gid) == (3456, 4567)
    assert staged.stat().st_mode & 0o777 == 0o600


class TestTheStricter:
    def mode(self, live: Path, source: Path) -> int:
        take_over(file_rights.read(live).stricter(file_rights.read(source)), live)
        return live.stat().st_mode & 0o777

    @pytest.mark.parametrize(
        ("live_mode", "source_mode", "result"),
        [(0o644, 0o600, 0o600), (0o664, 0o640, 0o640), (0o600, 0o644, 0o600), (0o660, 0o664, 0o660)],
    )
    def test_of_two_modes(self, live, staged, live_mode, source_mode, result):
        live.chmod(live_mode)
        staged.chmod(source_mode)
        assert self.mode(live, staged) == result

    @needs_root
    def test_another_group_has_what_all_others_have_there(self, live, staged):
        os.chown(live, 0, 2345)
        live.chmod(0o660)
        staged.chmod(0o664)
        assert self.mode(live, staged) == 0o640

    def test_named_users_and_groups(self, live, staged):
        live.chmod(0o600)
        set_acl(live, "u:1234:rw", "u:77:rw", "g:2345:rw")
        staged.chmod(0o600)
        set_acl(staged, "u:77:r")
        take_over(file_rights.read(live).stricter(file_rights.read(staged)), live)
        assert [entry for entry in acl(live) if "::" not in entry] == [
            "user:77:r--",
            "user:1234:---",
            "group:2345:---",
        ]

    def test_who_is_named_there_to_be_kept_out_stays_out(self, live, staged):
        live.chmod(0o644)
        staged.chmod(0o604)
        set_acl(staged, "u:1234:---")
        take_over(file_rights.read(live).stricter(file_rights.read(staged)), live)
        assert "user:1234:---" in acl(live) and "other::---" in acl(live), (
            "for others may be in its group, which has none"
        )

    @pytest.mark.parametrize(("folder_mode", "result"), [(0o755, 0o664), (0o750, 0o660), (0o700, 0o600)])
    def test_a_folder_that_lets_nobody_through(self, live, tmp_path, folder_mode, result):
        live.chmod(0o664)
        (tmp_path / "folder").mkdir()
        (tmp_path / "folder").chmod(folder_mode)
        take_over(file_rights.read(live).within(tmp_path / "folder"), live)
        assert live.stat().st_mode & 0o777 == result
