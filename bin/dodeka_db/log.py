"""The log, whose lines console.py shows."""

import logging

log = logging.getLogger("dodeka_db")
