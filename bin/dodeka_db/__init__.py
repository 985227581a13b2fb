"""The package of the scripts in bin/: flows over restic, sqlite and host, over settings and errors."""
