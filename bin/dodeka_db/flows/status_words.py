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


# by the subject of the line
WORDS = {
    "restic": Words(
        "the backup program", "The program that makes the snapshots is missing or too old.", "make setup"
    ),
    "password": Words("the password", "The password of the repository cannot be used."),
    "repository": Words("the repository", "The repository, where the snapshots are kept, does not open."),
    "format": Words("the format", "The snapshots take more room than they need."),
    "snapshots": Words(
        "the snapshots of {name}",
        "The newest snapshot of {name} is too old, or missing.",
        "make cron ENV={name}",
    ),
    "size": Words("the size of {name}'s snapshots", "The snapshots of {name} are damaged.", "make check"),
    "cron": Words("the runs of {name}", "The last run of {name} failed, or is too long ago."),
    "drill": Words(
        "the drill of {name}",
        "The drill of {name}'s snapshots failed, or is too long ago.",
        "make verify ENV={name}",
    ),
    "service": Words("the website of {name}", "The website of {name} does not run as it should."),
    "kept files": Words(
        "restores of {name}", "A restore of {name} left a database behind that has to be looked at."
    ),
    "live database": Words(
        "the database of {name}",
        "The database of {name} can be read by more users of the server than needed.",
    ),
    "key files": Words("the keys", "The password of a new key still has to be handed over."),
    "check": Words("the check", "The check of the repository failed, or is too long ago.", "make check"),
    "off-site copy": Words(
        "the copy elsewhere", "There is no copy of the snapshots elsewhere that is new enough."
    ),
    "proof": Words(
        "the proof by paper",
        "For too long nobody has proven that the paper opens the copy elsewhere.",
    ),
    "monitor": Words("the monitor", "Nobody may hear of a job that fails."),
    "volume": Words("the disk of the repository", "The disk of the repository is missing or nearly full."),
    "state folder": Words("the disk of the server", "The disk of the server is nearly full."),
    "lock": Words("the job that runs", "A job has been running for too long."),
    "restic's locks": Words(
        "the locks of the repository", "A job that was killed left the repository locked.", "make check"
    ),
    "crontab": Words("the schedule", "The schedule of the jobs is not complete."),
    "logrotate": Words("the log", "The log is not kept as it should be."),
    "user": Words("the user of the backups", "The website's user can remove the snapshots."),
}


def of_line(subject: str, environment: str) -> Words:
    """The words for a line; for a subject that is not in WORDS they name it."""
    words = WORDS.get(subject, Words(f"“{subject}”", f"“{subject}” needs a look."))
    filled_in = (text.replace("{name}", environment) for text in (words.about, words.wrong, words.step))
    return Words(*filled_in)
