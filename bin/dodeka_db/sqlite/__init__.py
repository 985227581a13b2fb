"""One SQLite database file."""
