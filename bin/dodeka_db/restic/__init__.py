"""One restic repository."""
