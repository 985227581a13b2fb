"""Importing this restarts the running script under the project's own virtual environment.

Cron, sudo and other users' shells start scripts with whatever Python they have; ours has the pinned packages. Where it
is missing, half made, or made by a Python that has gone, the script ends here: one line, exit code 6, and the monitor
is told. Kept to old syntax and the standard library: any Python 3 must be able to read it.
"""

import os
import signal
import sys
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.realpath(__file__))))
VENV = os.path.join(ROOT, ".venv")
PACKAGES = ("sh", "zstandard")
RESTARTED = "dodeka-restarted"


def _enter() -> None:
    # until interrupts.install() turns it into one line, Ctrl-C ends the script without a traceback
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    for descriptor in (0, 1, 2):
        try:
            os.fstat(descriptor)
        except OSError:  # closed (>&-): the next file that is opened would become standard output
            os.open(os.devnull, os.O_RDWR)
            os.set_inheritable(descriptor, True)
    if os.path.realpath(sys.prefix) == os.path.realpath(VENV):
        from importlib import util

        missing = [name for name in PACKAGES if not getattr(util.find_spec(name), "origin", None)]
        if missing:  # a new Debian's Python looks for them in a folder of its own
            _fail("%s has no %s for Python %d.%d" % ((VENV, " and ".join(missing)) + sys.version_info[:2]))
        return
    python = os.path.join(VENV, "bin", "python")
    if not os.path.exists(os.path.join(VENV, ".runtime")):  # what install-venv.sh does last
        _fail("%s is %s" % (VENV, "half made" if os.path.isdir(VENV) else "missing"))
    if RESTARTED in sys._xoptions:  # otherwise this would go on for ever
        _fail("%s starts the Python of %s" % (python, sys.prefix))
    try:
        os.execv(python, [python, "-X", RESTARTED] + sys.argv)
    except OSError as error:
        _fail("%s cannot be run: %s" % (python, error.strerror))


def _fail(problem: str) -> "NoReturn":
    error = "%s; run: %smake -C %s setup" % (problem, "" if os.access(ROOT, os.W_OK) else "sudo ", ROOT)
    words = ["%s: error: %s\n" % (os.path.basename(sys.argv[0]), error)]
    stamp = []
    if not sys.stderr.isatty():  # for the log: when, and of which environment
        stamp = [time.strftime("%Y-%m-%dT%H:%M:%S%z")] + sys.argv[1:2]
    sys.stderr.write(" ".join(stamp + words))
    import logging  # slow, and seldom needed

    logging.basicConfig(format=" ".join(stamp + ["warning: %(message)s"]))
    try:
        from dodeka_db.host import monitor

        monitor.of_script(sys.argv, error)
    except Exception:  # a Python too old for ours: the monitor notices the missing run
        pass
    raise SystemExit(6)


_enter()
