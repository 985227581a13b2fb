"""settings: defaults, file, environment, and what makes no sense."""

import json
import os
import pwd
import random
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from dodeka_db import settings
from dodeka_db.errors import SetupError, UsageError
from site_folder import RESTIC

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
    assert loaded.main.address == "/mnt/backup/restic"
    assert loaded.main.password_file == Path("/mnt/backup/.restic-password")
    assert loaded.main.state == Path("/home/someone/.local/state/dodeka-backup")
    assert loaded.systemctl == (("systemctl",) if os.geteuid() == 0 else ("sudo", "systemctl"))
    assert loaded.environment("demo").database == ROOT / "backend/envs/demo/db.sqlite"
    assert loaded.environment("demo").unit == "dodeka-backend-demo"
    assert (
        loaded.main.variables["RESTIC_CACHE_DIR"] == "/home/someone/.local/state/dodeka-backup/restic-cache"
    )


def test_the_environment_wins_over_the_file(file):
    file.write_text("DODEKA_FORMAT=zst\nRESTIC_REPOSITORY=/repo/of/file\n")
    loaded = load(file, DODEKA_FORMAT="pages", RESTIC_REPOSITORY="/repo/of/file")
    assert (loaded.main.format, loaded.main.address) == ("pages", "/repo/of/file")


@pytest.mark.parametrize(
    ("in_file", "exported", "said"),
    [
        ("DODEKA_BACKEND=/a", {"DODEKA_BACKEND": "/b"}, "DODEKA_BACKEND=/b|DODEKA_BACKEND=/a"),
        ("DODEKA_STATE=/a", {"DODEKA_STATE": "/b"}, "DODEKA_STATE=/b|DODEKA_STATE=/a"),
        (
            "RESTIC_REPOSITORY=rest:http://me:hush@a/",
            {"RESTIC_REPOSITORY": "rest:http://me:psst@b/"},
            "RESTIC_REPOSITORY=rest:http://me:***@b/|RESTIC_REPOSITORY=rest:http://me:***@a/",
        ),
        (
            "RESTIC_PASSWORD_FILE=/a",
            {"RESTIC_PASSWORD": "hush"},
            "RESTIC_PASSWORD=***|RESTIC_PASSWORD_FILE=/a",
        ),
        (
            "RESTIC_PASSWORD=hush",
            {"RESTIC_PASSWORD_COMMAND": "echo psst"},
            "RESTIC_PASSWORD_COMMAND=***|RESTIC_PASSWORD=***",
        ),
        (
            "OFFSITE_REPOSITORY=/a",
            {"OFFSITE_REPOSITORY": "/b"},
            "OFFSITE_REPOSITORY=/b|OFFSITE_REPOSITORY=/a",
        ),
        (
            "AZURE_ACCOUNT_NAME=a",
            {"AZURE_ACCOUNT_NAME": "b"},
            "AZURE_ACCOUNT_NAME=b|AZURE_ACCOUNT_NAME=a",
        ),
        (
            "RESTIC_REST_PASSWORD=hush",
            {"RESTIC_REST_PASSWORD": "psst"},
            "RESTIC_REST_PASSWORD=***|RESTIC_REST_PASSWORD=***",
        ),
        ("OFFSITE_REPOSITORY=", {"OFFSITE_REPOSITORY": "/b"}, "OFFSITE_REPOSITORY=/b|OFFSITE_REPOSITORY="),
        (
            "OFFSITE_PASSWORD_FILE=/a",
            {"OFFSITE_PASSWORD_FILE": "/b"},
            "OFFSITE_PASSWORD_FILE=/b|OFFSITE_PASSWORD_FILE=/a",
        ),
    ],
)
def test_a_place_in_the_environment_that_is_not_the_file_s_is_refused(file, in_file, exported, said):
    """The shell still had another repository's address, and the sandbox's snapshots went into that."""
    file.write_text(f"{in_file}\n")
    with pytest.raises(SetupError) as raised:
        load(file, **exported)
    here, there = said.split("|")
    (name,) = exported
    assert raised.value.message == f"the environment sets {here}, but settings file {file} sets {there}"
    assert raised.value.hint == f"unset {name}, or change the settings file"
    file.write_text("DODEKA_FORMAT=pages\n")
    load(file, **exported)  # where the file says nothing of it


def test_cron_gives_no_home(file):
    loaded = settings.load({"DODEKA_BACKUP_ENV": str(file)})
    home = Path(pwd.getpwuid(os.geteuid()).pw_dir) if "HOME" not in os.environ else Path(os.environ["HOME"])
    assert loaded.main.state == home / ".local/state/dodeka-backup"
    assert loaded.main.variables["HOME"] == str(home)


def test_the_file_is_read_as_a_shell_reads_it(file):
    lines = {
        "# a comment": "",
        "   # it's another": "",
        "V='a b#c\"d'   # behind a value too": 'a b#c"d',
        'export V="max"': "max",
        "V=/with\\ blank": "/with blank",
        "V=ab#c'd #e'\\##f # it's a comment": "ab#cd #e##f",
        "V=x\t#y": "x",
        'V="pa\\$word"': "pa$word",
        r"""V="a\`b\"c\\d\e" """: r'a`b"c\d\e',
        "V='$HOME'": "$HOME",
        "V=~/state": "/home/someone/state",
        "V=\\~/state": "~/state",
        "V='~'/state": "~/state",
        "V=a\u2028b\xa0c": "a\u2028b\xa0c",
        "V=#x": "#x",
        "V=": "",
    }
    for line, value in lines.items():
        file.write_text(f"{line}\n")
        assert load(file).main.variables.get("V", "") == value == in_a_shell("sh", file, [line])[0], line


PIECES = [
    *(
        "'",
        '"',
        "\\",
        "$",
        "`",
        "#",
        " ",
        "\t",
        "~",
        "~/",
        ":",
        "a",
        "b c",
        "=",
        "*",
        "?",
        "[x]",
        "{a,b}",
        "!",
        "%",
    ),
    *(
        "HOME",
        "${HOME}",
        "$HOME",
        ";",
        "&",
        "|",
        "<",
        ">",
        "(",
        ")",
        "\xe9",
        "\u2028",
        "\x0c",
        "\r",
        "~root",
        "^",
    ),
]


def test_a_line_means_what_it_means_to_a_shell_or_is_refused(file):
    random.seed(1)
    read = {}
    for _ in range(2000):
        line = (
            random.choice(["", "", "export ", " "])
            + "V="
            + "".join(random.choices([*PIECES, *"x" * 40], k=random.randrange(7)))
        )
        file.write_bytes(line.encode())
        try:
            read[line] = load(file).main.variables.get("V", "")
        except SetupError as error:
            assert f"settings file {file}, line 1: " in error.message
    assert len(read) > 250
    for shell in ("sh", "bash"):
        assert in_a_shell(shell, file, list(read)) == list(read.values())


def in_a_shell(shell: str, file: Path, lines: list[str]) -> list[str]:
    """What V is in a shell after each of `lines` as a settings file, V not being set before."""
    assert shutil.which(shell)
    for number, line in enumerate(lines):
        (file.parent / f"line-{number}").write_bytes(line.encode())
    script = f"cd '{file.parent}'; n=0; while [ $n -lt {len(lines)} ]; do (set -a; . ./line-$n; printf '%s\\0' \"$V\"); n=$((n+1)); done"
    environ = {"HOME": "/home/someone", "PATH": os.environ["PATH"]}
    done = subprocess.run([shell, "-c", script], env=environ, capture_output=True, check=True)
    assert done.stderr == b""
    return done.stdout.decode().split("\0")[:-1]


@pytest.mark.parametrize(
    "line", ["DODEKA_BACKEND /x", "A-B=c", "A=b c", "A='b", "=x", "echo hi", 'A="$HOME/b"', "A=$B", "A=~me/b"]
)
def test_a_line_that_is_no_setting_is_named(file, line):
    file.write_text(f"# fine\n{line}\n")
    with pytest.raises(SetupError, match=rf"{file}, line 2: not of the form NAME=value"):
        load(file)


def test_a_settings_file_that_was_named_must_be_there(tmp_path):
    with pytest.raises(SetupError, match=r"none\.env cannot be read"):
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
    assert load(file, RESTIC_REPOSITORY=repository).main.folder == (Path(local) if local else None)


def test_the_password_in_an_address_is_not_shown(file):
    loaded = load(file, RESTIC_REPOSITORY="rest:https://me:hush@host:8000/x")
    assert loaded.main.shown == "rest:https://me:***@host:8000/x"


def test_another_way_to_give_the_password(file):
    loaded = load(file, RESTIC_PASSWORD_COMMAND="pass show restic")
    assert loaded.main.password_file is None and "RESTIC_PASSWORD_FILE" not in loaded.main.variables


def program(folder: Path, name: str, text: str = "") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(text)
    (folder / name).chmod(0o755)
    return folder / name


def test_a_user_s_own_restic_comes_first(file, tmp_path):
    others = program(tmp_path / "bin", "restic")
    environ = {"HOME": str(tmp_path / "home"), "PATH": str(others.parent)}
    assert load(file, **environ).main.restic == str(others)
    own = program(tmp_path / "home/.local/bin", "restic")
    assert load(file, **environ).main.restic == str(own)
    own.parent.chmod(0o777)
    assert load(file, **environ).main.restic == str(others)
    assert load(file, **environ, RESTIC="/opt/restic").main.restic == "/opt/restic"


def test_no_program_is_run_out_of_another_user_s_folder(site, tmp_path):
    """Root in a shell that still has the web user's HOME and PATH: neither that restic is run nor that git."""
    if os.geteuid() != 0:
        pytest.skip("only root can give a folder to another user")
    home, ran = tmp_path / "home", tmp_path / "ran"
    for name in ("restic", "git", "ssh", "crontab"):
        program(home / ".local/bin", name, f"#!/bin/sh\necho $0 >> {ran}\nexit 1\n")
    os.chown(home / ".local/bin", 65534, 65534)
    environ = {name: value for name, value in site.environ.items() if name != "RESTIC"}
    environ |= {"HOME": str(home), "PATH": f"{home}/.local/bin:{Path(RESTIC).parent}:{os.environ['PATH']}"}
    for script in ("backup", "recovery-sheet", "status"):
        words = [ROOT / f"bin/dodeka-db-{script}.py", *(["demo"] if script == "backup" else [])]
        done = subprocess.run(words, env=environ, capture_output=True, text=True)
        assert done.returncode == (1 if script == "status" else 0), done
    assert not ran.exists(), ran.read_text()
    assert load(Path("/dev/null"), **environ).main.restic == str(Path(RESTIC).parent / "restic")
    os.chown(home / ".local/bin", 0, 0)
    assert load(Path("/dev/null"), **environ).main.restic == str(home / ".local/bin/restic")


def test_restic_gets_no_secret_that_it_does_not_need(site):
    log = site.folder / "environment"
    restic = program(site.folder, "restic-that-notes", f'#!/bin/sh\nenv >> {log}\nexec {RESTIC} "$@"\n')
    site.config.write_text(
        "PASSWORD_OF_A_COMMAND=of-the-file\nDODEKA_PING_URL_DEMO=http://127.0.0.1:9/ping-secret\n"
    )
    variables = {
        "DODEKA_BACKUP_ENV": str(site.config),
        "RESTIC": str(restic),
        "OFFSITE_REPOSITORY": "rest:http://me:offsite-secret@127.0.0.1:9/",
        "DODEKA_HEALTH_URL_DEMO": "http://me:health-secret@127.0.0.1:9/",
        "GITHUB_TOKEN": "github-secret",
        "SMTP_PASSWORD": "smtp-secret",
        "AWS_SECRET_ACCESS_KEY": "of-restic-s3",
        "RESTIC_REST_PASSWORD": "of-restic-rest",
        "SSH_AUTH_SOCK": "/of-restic-ssh",
        "https_proxy": "http://of-restic-proxy",
    }
    site.ok("backup", "demo", **variables)
    site.run("restic", "snapshots", **variables)
    found = log.read_text()
    assert not re.search(r"-secret|^(DODEKA|OFFSITE)_", found, re.MULTILINE)
    for needed in ("of-restic-s3", "of-restic-rest", "of-restic-ssh", "of-restic-proxy", "of-the-file"):
        assert needed in found
    settings_there = load(Path("/dev/null"), **{**site.environ, **variables}).main.masked(
        "github-secret smtp-secret offsite-secret"
    )
    assert settings_there == "*** *** ***", "what restic does not get is no secret less"


@pytest.mark.parametrize(
    ("variables", "names"),
    [
        ({"RESTIC_REPOSITORY": "rest:http://me:hush@backup.example.org/"}, "RESTIC_REPOSITORY"),
        ({"RESTIC_REPOSITORY": "rest:HTTP://me:hush@10.0.0.1:8000/"}, "RESTIC_REPOSITORY"),
        ({"RESTIC_REPOSITORY": "s3:http://[2001:db8::1]:9000/x"}, "RESTIC_REPOSITORY"),
        ({"RESTIC_REPOSITORY": "rest:http://127.0.0.1@example.org/"}, "RESTIC_REPOSITORY"),
        (
            {
                "OFFSITE_REPOSITORY": "rest:http://127.example.org/",
                "DODEKA_PING_URL_DEMO": "http://ping.example.org/x",
            },
            "OFFSITE_REPOSITORY, DODEKA_PING_URL_DEMO",
        ),
        ({"OS_AUTH_URL": "http://keystone.example.org/v3"}, "OS_AUTH_URL"),
        ({"RESTIC_REPOSITORY": "rest:http://127.0.0.1:8000/"}, ""),
        ({"RESTIC_REPOSITORY": "rest:http://me:hush@[::1]:8000/"}, ""),
        (
            {
                "RESTIC_REPOSITORY": "s3:https://example.org/x",
                "DODEKA_HEALTH_URL_DEMO": "http://LOCALHOST:4243/",
            },
            "",
        ),
    ],
)
def test_plain_http_to_another_machine_is_warned_of(file, caplog, variables, names):
    load(file, **variables)
    warned = [
        f"{names}: plain http:// to another machine: others can read and change what is sent; use https://"
    ]
    assert [record.getMessage() for record in caplog.records] == (warned if names else [])


def test_the_warning_comes_once_and_beside_what_was_asked_for(site):
    plain = {
        "OFFSITE_REPOSITORY": "rest:http://192.0.2.1/x",
        "OFFSITE_PASSWORD_FILE": str(site.password_file),
    }
    site.ok("backup", "demo")
    assert site.run("backup", "demo", **plain).stdout.count("plain http:// to another machine") == 1
    for script in (["snapshots", "--json"], ["restic", "snapshots --json --quiet"], ["settings"], ["keys"]):
        done = site.run(*script, **plain)
        assert done.returncode == 0
        assert "plain http" not in done.stdout
        assert done.stderr.count("plain http:// to another machine") == 1


def test_the_example_file_shows_every_setting_and_its_default(file):
    text = (ROOT / "deploy" / "backup.env.example").read_text()
    file.write_text(
        "\n".join(line[1:] for line in text.splitlines() if line.startswith("#") and "=" in line.split()[0])
    )
    example = load(file, HOME=os.path.expanduser("~"))
    assert example.monitor and settings.load({"DODEKA_BACKUP_ENV": "/dev/null"}).monitor is None
    assert set(example.health_urls) == set(example.ping_urls) == set(settings.ENVIRONMENTS)
    default = settings.load({"DODEKA_BACKUP_ENV": "/dev/null", "HOME": os.path.expanduser("~")})
    assert example.main.address == default.main.address
    assert example.main.password_file == default.main.password_file
    assert example.main.state == default.main.state
    assert example.main.format == default.main.format == "zst"
    assert example.main.lock_wait_s == default.main.lock_wait_s
    assert example.start_wait_s == default.start_wait_s
    assert example.systemctl == ("sudo", "systemctl")
    shown = re.findall(r"^#([A-Z_]+)=", text, re.MULTILINE)
    assert sorted(set(shown) - {"RESTIC_COMPRESSION"}) == sorted(settings.SETTINGS)


@pytest.mark.parametrize(("setting", "attribute"), [("HEALTH", "health_url"), ("PING", "ping_url")])
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
        with pytest.raises(SetupError, match=r"DODEKA_START_WAIT_S=.* is not a whole number of seconds"):
            load(file, DODEKA_START_WAIT_S=wrong)


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o604])
def test_a_settings_file_that_others_can_read_is_refused(file, mode):
    file.write_text("AWS_SECRET_ACCESS_KEY=hush-hush\n")
    file.chmod(mode)
    with pytest.raises(SetupError) as caught:
        load(file)
    assert str(caught.value) == f"settings file {file} can be read by others; chmod 600 {file}"
    file.chmod(0o600)
    assert load(file).main.variables["AWS_SECRET_ACCESS_KEY"] == "hush-hush"


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
    assert loaded.main.masked(text) == "https://me:***@host:8000/x *** aws-identity *** *** *** /mnt"


def test_the_offsite_repository_is_opened_with_its_own_password_alone(file):
    assert load(file).offsite is None
    loaded = load(
        file, OFFSITE_REPOSITORY="sftp:offsite:restic", RESTIC_PASSWORD="main", RESTIC_KEY_HINT="0123abcd"
    )
    there = loaded.offsite
    assert there.address == there.for_restic["RESTIC_REPOSITORY"] == "sftp:offsite:restic"
    assert there.password_file == Path("/home/someone/.restic-offsite-password")
    assert there.variables["RESTIC_PASSWORD_FILE"] == str(there.password_file)
    assert not {"RESTIC_PASSWORD", "RESTIC_KEY_HINT"} & set(there.variables)
    assert there.state == loaded.main.state / "offsite"
    assert there.retains and not load(file, OFFSITE_REPOSITORY="x:", OFFSITE_RETENTION="none").offsite.retains
    assert loaded.main.as_source == {
        "RESTIC_FROM_REPOSITORY": "/mnt/backup/restic",
        "RESTIC_FROM_PASSWORD": "main",
        "RESTIC_FROM_KEY_HINT": "0123abcd",
    }


def test_a_password_that_restic_would_not_take_is_refused_and_not_shown(file):
    for address in (
        *("sftp://dodeka:Sekr1t@host/restic", "sftp:dodeka:Sekr1t@host:restic"),
        *("rest:http://dodeka:Sekr1t#more@host/", "rest:HTTP://dodeka:Sekr1t#more@host/"),
        "REST:http://dodeka:Sekr1t@host/",  # restic takes it for a folder
    ):
        file.write_text(f"OFFSITE_REPOSITORY={address}\n")
        with pytest.raises(SetupError) as caught:
            load(file)
        assert "Sekr1t" not in f"{caught.value} {caught.value.hint}"
    for address in ("sftp://dodeka@host:2222//srv/restic", "sftp:dodeka@host:a@b/c", "sftp:host:/a@b:c"):
        file.write_text(f"OFFSITE_REPOSITORY={address}\n")
        load(file)


def test_no_credential_of_an_address_that_is_called_is_shown(site):
    addresses = {
        "DODEKA_HEALTH_URL_DEMO": "http://me:hush-hush@127.0.0.1:4243/health?token=psst-psst",
        "DODEKA_HEALTH_URL_PRODUCTION": "HTTPS://hush-hush@localhost/health",
        "DODEKA_PING_URL_DEMO": "HTTPS://me:hush-hush@hc-ping.com/psst-psst",
        "DODEKA_PING_URL_PRODUCTION": "https://hc-ping.com?uuid=psst-psst",
    }
    printed = site.ok("settings", **addresses)
    assert not re.search("hush|psst", printed)
    for shown in (
        *("http://me:***@127.0.0.1:4243/health?*** ", "HTTPS://***@localhost/health "),
        *("HTTPS://me:***@hc-ping.com/*** ", "https://hc-ping.com?*** "),
    ):
        assert shown in printed
    loaded = load(Path("/dev/null"), **addresses)
    assert loaded.main.masked("nonnumeric port: 'hush-hush@127.0.0.1'") == "nonnumeric port: '***@127.0.0.1'"


def test_the_longer_of_two_secrets_is_masked_whole(file):
    for _ in range(10):
        loaded = load(file, AWS_SECRET_ACCESS_KEY="hunter2-long", RESTIC_REST_PASSWORD="hunter2")
        assert loaded.main.masked("hunter2-long and hunter2") == "*** and ***"


@pytest.mark.parametrize(
    ("text", "masked"),
    [
        ('parse "http://dodeka:Sekr1t/": invalid port', 'parse "http://dodeka:***/": invalid port'),
        ("https://dodeka:Sek@host:80/x", "https://dodeka:***@host:80/x"),
        ("http://127.0.0.1:8000/config: refused", "http://127.0.0.1:8000/config: refused"),
        ('Head "http://[::1]:8000/"', 'Head "http://[::1]:8000/"'),
        ("http://host:8000", "http://host:8000"),
        ("open rest:HTTP://dodeka:Sekr1t@host/x", "open rest:HTTP://dodeka:***@host/x"),
        ("s3:HtTpS://Sekr1t@host/x", "s3:HtTpS://***@host/x"),
        ("HTTP://dodeka:Sekr", "HTTP://dodeka:***"),
        ("sftp:dodeka:Sekr1t@host:restic", "sftp:dodeka:***@host:restic"),
        ("sftp://dodeka:Sekr1t@host/restic", "sftp://dodeka:***@host/restic"),
        ("socks5://dodeka:Sekr1t@proxy:1080", "socks5://dodeka:***@proxy:1080"),
        ("sftp:dodeka@host:restic", "sftp:dodeka@host:restic"),
        ("sftp://dodeka@host:2222/a@b:c", "sftp://dodeka@host:2222/a@b:c"),
        ("git@github.com:x/y ssh://git@github.com/x", "git@github.com:x/y ssh://git@github.com/x"),
    ],
)
def test_what_looks_like_a_password_in_an_address_is_masked(file, text, masked):
    assert load(file).main.masked(text) == masked


def test_a_repository_below_the_home_folder(file):
    loaded = load(file, HOME=os.environ["HOME"], RESTIC_REPOSITORY="~/restic", OFFSITE_REPOSITORY="~/there")
    home = Path(os.environ["HOME"])
    assert (loaded.main.folder, loaded.offsite.folder) == (home / "restic", home / "there")
    assert loaded.main.for_restic["RESTIC_REPOSITORY"] == str(home / "restic")


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("DODEKA_PING_URL_PRODUCTON", "DODEKA_PING_URL_PRODUCTION"),
        ("DODEKA_HEALTH_URL_DEMOS", "DODEKA_HEALTH_URL_DEMO"),
        ("OFFSITE_REPO", "OFFSITE_REPOSITORY"),
        ("OFSITE_REPOSITORY", "OFFSITE_REPOSITORY"),
        ("DODEKE_STATE", "DODEKA_STATE"),
        ("RESTIC_REPOSTORY", "RESTIC_REPOSITORY"),
        ("RESTIC_PASWORD_FILE", "RESTIC_PASSWORD_FILE"),
        ("RESTIC_REPOSITORY_FILE", "RESTIC_REPOSITORY"),
    ],
)
def test_a_name_that_is_no_setting_is_refused_with_the_nearest(file, name, meant):
    hint = f"did you mean {meant}? If not, remove the line or the variable"
    with pytest.raises(SetupError) as raised:
        load(file, **{name: "/x"})
    assert str(raised.value) == f"{name} of the environment is not a setting; {hint}"
    file.write_text(f"{name}=/x\n")
    with pytest.raises(SetupError) as raised:
        load(file)
    assert str(raised.value) == f"{name} of settings file {file} is not a setting; {hint}"


def test_what_restic_reads_is_not_taken_for_a_misspelling(file):
    names = (
        *(
            "RESTIC_PASSWORD",
            "RESTIC_PASSWORD_COMMAND",
            "RESTIC_KEY_HINT",
            "RESTIC_CACERT",
            "RESTIC_COMPRESSION",
        ),
        *("RESTIC_FEATURES", "RESTIC_PACK_SIZE", "RESTIC_READ_CONCURRENCY", "RESTIC_TLS_CLIENT_CERT"),
        *("RESTIC_REST_USERNAME", "RESTIC_REST_PASSWORD", "RESTIC_AWS_ASSUME_ROLE_ARN", "RESTIC_OF_TOMORROW"),
    )
    for name in names:
        assert load(file, **{name: "/x"}).main.variables[name] == "/x"


def test_restic_is_not_handed_what_would_make_it_mean_something_else(file):
    names = ("RESTIC_HOST", "RESTIC_FROM_REPOSITORY", "RESTIC_FROM_PASSWORD_FILE")
    file.write_text("".join(f"{name}=x\n" for name in names))
    loaded = load(file, **dict.fromkeys(names, "y"))
    assert not set(names) & set(loaded.main.variables)


@pytest.mark.parametrize(
    "name",
    [
        "DODEKA_STATE",
        "DODEKA_BACKEND",
        "RESTIC_REPOSITORY",
        "RESTIC_PASSWORD_FILE",
        "RESTIC",
        "RESTIC_CACHE_DIR",
    ],
)
@pytest.mark.parametrize("value", ["there/x", "./x", "../x", "~nobody-of-that-name/x"])
def test_a_relative_path_is_refused(file, name, value):
    file.write_text(f"{name}='{value}'\n")
    with pytest.raises(SetupError) as raised:
        load(file)
    assert str(raised.value) == f"{name}={value} is a relative path; begin the path with / or ~/"


def test_an_address_that_is_taken_for_a_path_is_not_shown_with_its_password(file):
    for address in ("REST:https://me:hush-hush@host/", " rest:https://me:hush-hush@host/"):
        with pytest.raises(SetupError) as raised:
            load(file, RESTIC_REPOSITORY=address)
        assert raised.value.message == f"RESTIC_REPOSITORY={address} is a relative path".replace(
            "hush-hush", "***"
        )


def test_root_does_not_run_restic_by_hand_on_what_belongs_to_somebody_else(site):
    if os.geteuid() != 0:
        pytest.skip("only root can give a folder away")
    os.chown(site.repository, 12345, -1)
    done = site.run("restic", "snapshots")
    assert done.returncode == 6
    assert f"{site.repository} belongs to #12345, not to root; run this as #12345" in done.stderr


def test_restic_by_hand_ends_as_restic_does(site):
    site.password_file.write_text("wrong\n")
    assert site.run("restic", "snapshots").returncode in (1, 12)
    site.password_file.unlink()
    done = site.run("restic", "snapshots")
    assert (done.returncode, done.stdout) == (6, "")
    assert f"password file {site.password_file} is missing" in done.stderr
    assert site.run("restic", "snapshots", "--offsite").returncode == 6


def test_the_settings_file_itself_may_be_named_from_here(file, monkeypatch):
    monkeypatch.chdir(file.parent)
    file.write_text("DODEKA_FORMAT=pages\n")
    assert load(Path(file.name)).main.format == "pages"


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"A=caf\xe9\n", "cannot be read: it is not UTF-8"),
        (b"A=x\0y\n", "line 1: it contains a control character"),
        (b"A=x\r\n", "line 1: it contains a control character"),
        (b"A='x\ny'\n", "line 1: not of the form NAME=value"),
        (b"\xef\xbb\xbfA=x\n", "line 1: not of the form NAME=value"),
    ],
)
def test_a_file_of_other_characters_is_one_line(file, content, said):
    file.write_bytes(content)
    with pytest.raises(SetupError) as raised:
        load(file)
    assert said in str(raised.value) and "\n" not in str(raised.value)


@pytest.mark.parametrize("value", ["/x\udcff", "/x\ny", "/x\x1b[2J"])
@pytest.mark.parametrize(
    "name", ["DODEKA_STATE", "RESTIC_REPOSITORY", "RESTIC_PASSWORD", "HOME", "DODEKA_BACKUP_ENV"]
)
def test_a_value_in_the_environment_that_cannot_be_printed_is_refused_and_not_shown(file, name, value):
    with pytest.raises(SetupError) as raised:
        load(file, **{name: value})
    assert str(raised.value) == f"{name} of the environment contains a control character; set it again"


def test_other_programs_variables_may_hold_anything(file):
    loaded = load(file, PS1="\x1b[1m$", SOME_PASSWORD="caf\udce9", LINES_OF_TEXT="a\nb")
    assert loaded.main.masked("caf\udce9") == "***"


@pytest.mark.parametrize("value", ["sudo 'systemctl", '"', " "])
def test_a_systemctl_that_is_no_command(file, value):
    with pytest.raises(SetupError) as raised:
        load(file, DODEKA_SYSTEMCTL=value)
    assert (
        str(raised.value)
        == f"DODEKA_SYSTEMCTL={value} is not a command; sudo systemctl, for example, or none"
    )


@pytest.mark.parametrize(
    ("variables", "code", "said"),
    [
        ({"DODEKA_STATE": "/dev/null"}, 6, "folder /dev/null cannot be made: File exists"),
        ({"RESTIC": "/"}, 6, "/ cannot be run: it is not an executable file"),
        ({"RESTIC": "/dev/null"}, 6, "/dev/null cannot be run: it is not an executable file"),
        ({"DODEKA_LOCK_WAIT_S": "1000000"}, 6, "is not a whole number of seconds, up to 999999"),
        ({"RESTIC_REPOSITORY": "ftp:host/x"}, 1, "restic backup failed with exit code 1: Fatal: "),
        ({"RESTIC_REPOSITORY": ":"}, 6, "RESTIC_REPOSITORY=: is a relative path"),
        ({"DODEKA_BACKUP_ENV": "/dev"}, 6, "settings file /dev cannot be read: Is a directory"),
        (
            {"DODEKA_BACKUP_ENV": "~nobody-of-that-name/x"},
            6,
            "settings file ~nobody-of-that-name/x cannot be read",
        ),
        ({"DODEKA_BACKEND": "/dev/null"}, 3, "database /dev/null/envs/demo/db.sqlite"),
    ],
)
def test_odd_values_are_one_line(site, variables, code, said):
    done = site.run("backup", "demo", **variables)
    assert done.returncode == code
    assert said in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_an_empty_restic_is_the_default(file):
    file.write_text("RESTIC=\n")
    assert (
        load(file, RESTIC="", PATH="/nowhere").main.restic
        == load(Path("/dev/null"), PATH="/nowhere").main.restic
    )


def test_every_value_in_force_is_listed_with_where_it_was_set(site):
    ping = "https://hc-ping.com/the-secret-part"
    site.config.write_text(
        f"DODEKA_PING_URL_DEMO={ping}\nAWS_SECRET_ACCESS_KEY=the-aws-secret\nGODEBUG=x=1\nDODEKA_FORMAT=zst\n"
    )
    environ = {
        "DODEKA_BACKUP_ENV": str(site.config),
        "RESTIC_REPOSITORY": "rest:https://me:the-password@host/",
        "DODEKA_FORMAT": "pages",
        "RESTIC_HOST": "elsewhere",
        "RESTIC_PACK_SIZE": "32",
        "RESTIC_PASSWORD_COMMAND": "echo the-other-password",
    }
    printed = site.ok("settings", **environ)
    assert printed.splitlines()[0].split() == ["Setting", "Value", "From"]
    listed = {words[0]: words[1:] for words in (re.split(r"  +", line) for line in printed.splitlines()[1:])}
    file = str(site.config)
    assert set(settings.SETTINGS) < set(listed)
    assert listed["DODEKA_BACKEND"] == [str(site.folder / "backend"), "environment"]
    assert listed["RESTIC_REPOSITORY"] == ["rest:https://me:***@host/", "environment"]
    assert listed["DODEKA_FORMAT"] == ["pages", "environment"]
    assert listed["DODEKA_PING_URL_DEMO"] == ["https://hc-ping.com/***", file]
    assert listed["DODEKA_PING_URL_PRODUCTION"] == ["-", "default"]
    assert listed["DODEKA_START_WAIT_S"] == ["5", "default"]
    assert listed["OFFSITE_REPOSITORY"] == ["-", "default"]
    assert listed["AWS_SECRET_ACCESS_KEY"] == ["***", file]
    assert listed["GODEBUG"] == ["x=1", file]
    assert listed["RESTIC_HOST"] == ["not handed to restic", "environment"]
    assert listed["RESTIC_PACK_SIZE"] == ["32", "environment"]
    assert listed["RESTIC_PASSWORD_COMMAND"] == ["***", "environment"]
    assert not re.search("the-", printed)


@pytest.mark.slow("every command, for each variable")
@pytest.mark.parametrize(
    "variables",
    [
        {"RESTIC_HOST": "elsewhere"},
        {
            "RESTIC_FROM_REPOSITORY": "/x",
            "RESTIC_FROM_REPOSITORY_FILE": "/x",
            "RESTIC_FROM_PASSWORD_COMMAND": "/x",
        },
        {"RESTIC_PROGRESS_FPS": "60"},
    ],
    ids=min,
)
def test_restic_means_our_snapshots_whatever_is_exported(site, variables):
    offsite = {
        "OFFSITE_REPOSITORY": str(site.folder / "there"),
        "OFFSITE_PASSWORD_FILE": str(site.folder / "pw"),
    }
    site.ok("backup", "production")
    site.ok("cron", "production", **variables)
    assert len(site.snapshots()) == len(json.loads(site.ok("snapshots", "--json", **variables))) == 2
    assert len({snapshot["host"] for snapshot in site.snapshots()}) == 1
    site.ok("verify", "production", **variables)
    site.ok("restore", "demo", "--from", "production", "--snapshot", "latest", "--yes", **variables)
    site.ok("init", "--offsite", "--yes", **offsite, **variables)
    assert "3 snapshots copied" in site.ok("offsite", **offsite, **variables)
