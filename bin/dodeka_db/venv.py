"""Importing this restarts the running script under the project's own virtual environment.

Cron, sudo and other users' shells start scripts with whatever Python they have; ours has the pinned
packages. Kept to old syntax and the standard library: any Python 3 must be able to read it.
"""

import os
import sys
import time

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.realpath(__file__))))
VENV = os.path.join(ROOT, ".venv")

if os.path.realpath(sys.prefix) != os.path.realpath(VENV):
    python = os.path.join(VENV, "bin", "python")
    if not (os.access(python, os.X_OK) and os.path.exists(os.path.join(VENV, "pyvenv.cfg"))):
        name = os.path.basename(sys.argv[0])
        words = ["%s: error: %s is missing; run: make -C %s setup\n" % (name, VENV, ROOT)]
        if not sys.stderr.isatty():  # for the log: when, and of which environment
            words = [time.strftime("%Y-%m-%dT%H:%M:%S%z")] + sys.argv[1:2] + words
        sys.stderr.write(" ".join(words))
        raise SystemExit(6)
    os.execv(python, [python] + sys.argv)
