"""The retention policy: how many snapshots of which age are kept, and restic's options for that."""

from datetime import datetime, timedelta

# how many of an environment's ordinary snapshots are kept: the latest ones, and the last one of each hour, day, week, month
KEEP = {"last": 10, "hourly": 24, "daily": 7, "weekly": 4, "monthly": 6}
# how long a pre-restore snapshot is kept
PRE_RESTORE_MONTHS = 6
# what the policy keeps at most, and what backups by hand may add until the next cron run
MAX_KEPT = sum(KEEP.values()) + 20


def options() -> list[str]:
    """The policy as options of `restic forget`."""
    return [word for period, count in KEEP.items() for word in (f"--keep-{period}", str(count))]


def pre_restore_since() -> datetime:
    """The time before which pre-restore snapshots expire.

    restic's own --keep-within counts from the newest snapshot of a group, so the last one would stay for ever.
    """
    now = datetime.now().astimezone()
    # the same day, or days later where that month is too short, as restic itself counts
    year, month = divmod(now.year * 12 + now.month - 1 - PRE_RESTORE_MONTHS, 12)
    return now.replace(year=year, month=month + 1, day=1) + timedelta(days=now.day - 1)
