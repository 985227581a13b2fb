"""What the page says about a line of `make status`: words of its own, because a line names paths, addresses and users."""

from dataclasses import dataclass

LOOK = "make status"


@dataclass(frozen=True)
class Words:
    """What a line is about, what is wrong where it is bad or a note, and the command that comes next.

    `{name}` stands for the environment.
    """

    about: str
    wrong: str
    step: str = LOOK


# a weakness that an intruder could use is not told apart from others
_RIGHTS = Words("the rights on the server", "Who may do what on the server has to be looked at.")
# by the subject of the line
WORDS = {
    "restic": Words(
        "the backup program", "The program that takes the snapshots does not work as it should.", "make setup"
    ),
    "password": _RIGHTS,
    "repository": Words("the repository", "The repository, where the snapshots are kept, does not open."),
    "format": Words("the format", "The snapshots take more room than they need."),
    "snapshots": Words(
        "the snapshots of {name}",
        "The newest snapshot of {name} is too old, or missing.",
        "make cron ENV={name}",
    ),
    "size": Words("the size of {name}'s snapshots", "A snapshot of {name} may be damaged.", "make check"),
    "cron": Words("the runs of {name}", "The last run of {name} failed, or is too long ago."),
    "rows": Words("the rows of {name}", "Many rows of {name} are gone.", "make changes ENV={name}"),
    "drill": Words(
        "the drill of {name}",
        "The drill of {name} failed, is too long ago, or was never made.",
        "make verify ENV={name}",
    ),
    "service": Words("the website of {name}", "The website of {name} does not run as it should."),
    "kept files": Words("the restores of {name}", "A restore of {name} left something to look at."),
    "live database": _RIGHTS,
    "key files": _RIGHTS,
    "check": Words("the check", "The check of the repository failed, or is too long ago.", "make check"),
    "off-site copy": Words(
        "the copy", "The copy in another place failed, is too long ago, or is not set up."
    ),
    "proof": Words(
        "the proof by paper", "Nobody has proven for a year that the paper opens the copy.", "make prove"
    ),
    "monitor": Words("the monitor", "The monitor, which tells of failures, has to be looked at."),
    "volume": Words("the disk of the repository", "The disk of the repository is missing, or too full."),
    "state folder": Words("the disk of the server", "The disk of the server is too full."),
    "lock": Words("the job that runs", "A job has been running for too long."),
    "restic's locks": Words("the locks of the repository", "The repository is locked.", "make check"),
    "crontab": Words("the schedule", "The schedule of the jobs is not complete."),
    "logrotate": Words("the log", "The log is not kept as it should be."),
    "user": _RIGHTS,
}


def of_line(subject: str, environment: str) -> Words:
    """The words for a line; for a subject that is not in WORDS they name it."""
    words = WORDS.get(subject, Words(f"“{subject}”", f"“{subject}” needs a look."))
    filled_in = (text.replace("{name}", environment) for text in (words.about, words.wrong, words.step))
    return Words(*filled_in)
