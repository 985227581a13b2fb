"""settings: defaults, file, environment, and what makes no sense."""

import os
import pwd
import re
import stat
import subprocess
from pathlib import Path

import pytest

from dodeka_db import settings
from dodeka_db.errors import SetupError, UsageError

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def file(tmp_path) -> Path:
    path = tmp_path / "backup.env"
    path.touch(0o600)
    return path


def load(file: Path, **environ: str) -> settings.Settings:
    return settings.load({"DODEKA_BACKUP_ENV": str(file), "HOME": "/home/someone", **environ})


def test_the_defaults_are_the_server_s(file):
    loaded = load(file)
    assert loaded.backend == ROOT / "backend"
    assert loaded.repository == "/mnt/backup/restic"
    assert loaded.password_file == Path("/mnt/backup/.restic-password")
    assert loaded.state == Path("/home/someone/.local/state/dodeka-backup")
    assert loaded.systemctl == (("systemctl",) if os.geteuid() == 0 else ("sudo", "systemctl"))
    assert loaded.environment("demo").database == ROOT / "backend/envs/demo/db.sqlite"
    assert loaded.environment("demo").unit == "dodeka-backend-demo"
    assert loaded.variables["RESTIC_CACHE_DIR"] == "/home/someone/.local/state/dodeka-backup/restic-cache"


def test_the_environment_wins_over_the_file(file):
    file.write_text("DODEKA_BACKEND=/from/file\nRESTIC_REPOSITORY=/repo/of/file\n")
    loaded = load(file, DODEKA_BACKEND="/from/environment")
    assert (loaded.backend, loaded.repository) == (Path("/from/environment"), "/repo/of/file")


def test_cron_gives_no_home(file):
    loaded = settings.load({"DODEKA_BACKUP_ENV": str(file)})
    home = Path(pwd.getpwuid(os.geteuid()).pw_dir) if "HOME" not in os.environ else Path(os.environ["HOME"])
    assert loaded.state == home / ".local/state/dodeka-backup"
    assert loaded.variables["HOME"] == str(home)


def test_the_file_is_read_as_a_shell_reads_it(file):
    file.write_text(
        "# a comment\n\n"
        "AWS_SECRET_ACCESS_KEY='a b#c\"d'   # behind a value too\n"
        'export RESTIC_COMPRESSION="max"\n'
        "DODEKA_BACKEND=/with\\ blank\n"
        "RESTIC_REPOSITORY=s3:host/bucket=1\n"
        "AZURE_ACCOUNT_KEY=ab#c'd #e'\\##f # it's a comment\n"
        "B2_ACCOUNT_KEY=x\t#y\n"
        "   # it's another\n"
    )
    loaded = load(file)
    names = (
        *("AWS_SECRET_ACCESS_KEY", "RESTIC_COMPRESSION", "DODEKA_BACKEND", "RESTIC_REPOSITORY"),
        *("AZURE_ACCOUNT_KEY", "B2_ACCOUNT_KEY"),
    )
    shell = subprocess.run(
        ["sh", "-c", f'set -a; . "{file}"; env'], capture_output=True, text=True, check=True, env={}
    ).stdout.splitlines()
    for name in names:
        assert f"{name}={loaded.variables[name]}" in shell
    assert loaded.variables["AWS_SECRET_ACCESS_KEY"] == 'a b#c"d'
    assert loaded.variables["AZURE_ACCOUNT_KEY"] == "ab#cd #e##f"


@pytest.mark.parametrize("line", ["DODEKA_BACKEND /x", "A-B=c", "A=b c", "A='b", "=x", "echo hi"])
def test_a_line_that_is_no_setting_is_named(file, line):
    file.write_text(f"# fine\n{line}\n")
    with pytest.raises(SetupError, match=rf"{file}, line 2: not of the form NAME=value"):
        load(file)


def test_a_settings_file_that_was_named_must_be_there(tmp_path):
    with pytest.raises(SetupError, match="none.env cannot be read"):
        load(tmp_path / "none.env")


def test_a_secret_of_a_bad_line_is_not_shown(file):
    file.write_text("AWS_SECRET_ACCESS_KEY=hush hush\n")
    with pytest.raises(SetupError) as caught:
        load(file)
    assert "hush" not in str(caught.value)


@pytest.mark.parametrize("value", ["soon", "-1", "1.5"])
def test_a_waiting_time_is_whole_seconds(file, value):
    with pytest.raises(SetupError, match="DODEKA_LOCK_WAIT_S"):
        load(file, DODEKA_LOCK_WAIT_S=value)


def test_systemctl_is_words_or_none(file):
    assert load(file, DODEKA_SYSTEMCTL="none").systemctl == ()
    assert load(file, DODEKA_SYSTEMCTL="sudo -n systemctl").systemctl == ("sudo", "-n", "systemctl")


def test_an_unknown_environment_is_a_usage_error(file):
    with pytest.raises(UsageError, match="unknown environment 'staging'; choose production or demo"):
        load(file).environment("staging")


@pytest.mark.parametrize(
    ("repository", "local"),
    [
        ("/mnt/backup/restic", "/mnt/backup/restic"),
        ("local:/x", "/x"),
        ("s3:host/x", None),
        ("sftp:h:/x", None),
    ],
)
def test_which_repositories_are_local(file, repository, local):
    assert load(file, RESTIC_REPOSITORY=repository).local_repository == (Path(local) if local else None)


def test_the_password_in_an_address_is_not_shown(file):
    loaded = load(file, RESTIC_REPOSITORY="rest:https://me:hush@host:8000/x")
    assert loaded.repository_shown == "rest:https://me:***@host:8000/x"


def test_another_way_to_give_the_password(file):
    loaded = load(file, RESTIC_PASSWORD_COMMAND="pass show restic")
    assert loaded.password_file is None and "RESTIC_PASSWORD_FILE" not in loaded.variables


def test_restic_of_the_backend_user_comes_first(file, tmp_path):
    fake = tmp_path / "restic"
    fake.touch()
    fake.chmod(fake.stat().st_mode | stat.S_IXUSR)
    found = load(file, PATH=str(tmp_path)).restic
    ours = Path("/home/backend/.local/bin/restic")
    assert found == (str(ours) if ours.exists() else str(fake))
    assert load(file, RESTIC="/opt/restic").restic == "/opt/restic"


def test_the_example_file_shows_every_setting_and_its_default(file):
    text = (ROOT / "deploy" / "backup.env.example").read_text()
    file.write_text(
        "\n".join(line[1:] for line in text.splitlines() if line.startswith("#") and "=" in line.split()[0])
    )
    example = load(file)
    assert set(example.health_urls) == set(example.ping_urls) == set(settings.ENVIRONMENTS)
    default = settings.load({"DODEKA_BACKUP_ENV": "/dev/null", "HOME": os.path.expanduser("~")})
    assert example.repository == default.repository
    assert example.password_file == default.password_file
    assert example.state == default.state
    assert example.format == default.format == "zst"
    assert example.lock_wait_s == default.lock_wait_s
    assert example.start_wait_s == default.start_wait_s
    assert example.systemctl == ("sudo", "systemctl")
    read = (ROOT / "bin" / "dodeka_db" / "settings.py").read_text()
    for name in set(
        re.findall(r'"(DODEKA_[A-Z_]+|OFFSITE_[A-Z_]+|RESTIC(?:_REPOSITORY|_PASSWORD_FILE)?)"', read)
    ):
        assert re.search(rf"^#{name}(_PRODUCTION)?=", text, re.MULTILINE) or name == "DODEKA_BACKUP_ENV", name


@pytest.mark.parametrize("setting, attribute", [("HEALTH", "health_url"), ("PING", "ping_url")])
def test_addresses_by_environment(file, setting, attribute):
    assert getattr(load(file).environment("demo"), attribute) is None
    name = f"DODEKA_{setting}_URL_DEMO"
    loaded = load(file, **{name: "https://demo.example.org/up"})
    assert getattr(loaded.environment("demo"), attribute) == "https://demo.example.org/up"
    assert getattr(loaded.environment("production"), attribute) is None
    for wrong in (
        "demo.example.org",
        "file:///etc",
        "http://",
        "http:// x",
        "http://a..b/",
        "http://[::1",
        "http://a:b/",
        "http://a/ë",
    ):
        with pytest.raises(SetupError, match=f"{name} is not an address that begins with") as raised:
            load(file, **{name: wrong})
        assert str(raised.value) == f"{name} is not an address that begins with http:// or https://"


def test_seconds(file):
    assert load(file, DODEKA_START_WAIT_S="0").start_wait_s == 0
    for wrong in ("-1", "5s", "1.5"):
        with pytest.raises(SetupError, match="DODEKA_START_WAIT_S=.* is not a whole number of seconds"):
            load(file, DODEKA_START_WAIT_S=wrong)


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o604])
def test_a_settings_file_that_others_can_read_is_refused(file, mode):
    file.write_text("AWS_SECRET_ACCESS_KEY=hush-hush\n")
    file.chmod(mode)
    with pytest.raises(SetupError) as caught:
        load(file)
    assert str(caught.value) == f"settings file {file} can be read by others; chmod 600 {file}"
    file.chmod(0o600)
    assert load(file).variables["AWS_SECRET_ACCESS_KEY"] == "hush-hush"


def test_no_secret_that_is_known_stays_in_a_text(file):
    loaded = load(
        file,
        RESTIC_REPOSITORY="rest:https://me:hush@host:8000/x",
        AWS_SECRET_ACCESS_KEY="aws-secret",
        AWS_ACCESS_KEY_ID="aws-identity",
        RCLONE_CONFIG_STORE_PASS="rclone-secret",
        B2_ACCOUNT_KEY="b2-secret",
        RESTIC_PASSWORD="the-password",
    )
    text = "https://me:hush@host:8000/x aws-secret aws-identity rclone-secret b2-secret the-password /mnt"
    assert loaded.masked(text) == "https://me:***@host:8000/x *** aws-identity *** *** *** /mnt"


def test_the_offsite_repository_is_opened_with_its_own_password_alone(file):
    assert load(file).offsite is None
    loaded = load(
        file, OFFSITE_REPOSITORY="sftp:offsite:restic", RESTIC_PASSWORD="main", RESTIC_KEY_HINT="0123abcd"
    )
    there = loaded.offsite
    assert there.repository == there.variables["RESTIC_REPOSITORY"] == "sftp:offsite:restic"
    assert there.password_file == Path("/home/someone/.restic-offsite-password")
    assert there.variables["RESTIC_PASSWORD_FILE"] == str(there.password_file)
    assert not {"RESTIC_PASSWORD", "RESTIC_KEY_HINT"} & set(there.variables)
    assert there.state == loaded.state / "offsite"
    assert there.retains and not load(file, OFFSITE_REPOSITORY="x:", OFFSITE_RETENTION="none").offsite.retains
    assert loaded.as_source == {
        "RESTIC_FROM_REPOSITORY": "/mnt/backup/restic",
        "RESTIC_FROM_PASSWORD": "main",
        "RESTIC_FROM_KEY_HINT": "0123abcd",
    }


def test_a_password_that_restic_would_not_take_is_refused_and_not_shown(file):
    for address in ("sftp://dodeka:Sekr1t@host/restic", "rest:http://dodeka:Sekr1t#more@host/"):
        file.write_text(f"OFFSITE_REPOSITORY={address}\n")
        with pytest.raises(SetupError) as caught:
            load(file)
        assert "Sekr1t" not in f"{caught.value} {caught.value.hint}"
    load(file, OFFSITE_REPOSITORY="sftp://dodeka@host:2222//srv/restic")


def test_the_longer_of_two_secrets_is_masked_whole(file):
    for _ in range(10):
        loaded = load(file, AWS_SECRET_ACCESS_KEY="hunter2-long", RESTIC_REST_PASSWORD="hunter2")
        assert loaded.masked("hunter2-long and hunter2") == "*** and ***"


@pytest.mark.parametrize(
    ("text", "masked"),
    [
        ('parse "http://dodeka:Sekr1t/": invalid port', 'parse "http://dodeka:***/": invalid port'),
        ("https://dodeka:Sek@host:80/x", "https://dodeka:***@host:80/x"),
        ("http://127.0.0.1:8000/config: refused", "http://127.0.0.1:8000/config: refused"),
        ('Head "http://[::1]:8000/"', 'Head "http://[::1]:8000/"'),
        ("http://host:8000", "http://host:8000"),
    ],
)
def test_what_looks_like_a_password_in_an_address_is_masked(file, text, masked):
    assert load(file).masked(text) == masked


def test_a_repository_below_the_home_folder(file):
    loaded = load(file, HOME=os.environ["HOME"], RESTIC_REPOSITORY="~/restic", OFFSITE_REPOSITORY="~/there")
    home = Path(os.environ["HOME"])
    assert (loaded.local_repository, loaded.offsite.local_repository) == (home / "restic", home / "there")
    assert loaded.variables["RESTIC_REPOSITORY"] == str(home / "restic")
