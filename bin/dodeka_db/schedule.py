"""The times at which each job is due. The crontab in deploy/ has them for cron; a test checks that both agree."""

from datetime import datetime, timedelta

BACKUP_EVERY = timedelta(minutes=12)
FIRST_MINUTE = {"production": 0, "demo": 6}
DRILLED = ("production",)
# one missed run may be chance, two are not; the copy is hourly, the drill and the check are weekly
BACKUP_OVERDUE = timedelta(minutes=30)
OFFSITE_OVERDUE = timedelta(hours=3)
WEEKLY_OVERDUE = timedelta(days=8)
PROOF_OVERDUE = timedelta(days=365)
MONITOR_OVERDUE = timedelta(days=1)
# how far two clocks may differ before a snapshot counts as one from the future
CLOCK_TOLERANCE = timedelta(minutes=5)


def seconds_until_next(environment: str, now: datetime) -> int:
    """The seconds from `now` until the next cron run of `environment` is due: 1 to 720."""
    every = int(BACKUP_EVERY.total_seconds())
    in_hour = now.minute * 60 + now.second
    return every - (in_hour - FIRST_MINUTE[environment] * 60) % every
