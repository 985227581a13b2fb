"""make try: it ends, and what it has started too."""

import os
import signal
import subprocess
import sys

from site_folder import ROOT
from waiting import wait_for


def test_a_signal_leaves_no_step_running(tmp_path):
    (tmp_path / "make").write_text(f"#!/bin/sh\ntouch {tmp_path}/begun; sleep 1; touch {tmp_path}/ended\n")
    (tmp_path / "make").chmod(0o755)
    code = (
        "from dodeka_db import interrupts; from dodeka_db.flows import sandbox;"
        "interrupts.install(); sandbox._make('backup')"
    )
    path = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT / "bin")}
    child = subprocess.Popen([sys.executable, "-c", code], env=path, stderr=subprocess.PIPE, text=True)
    wait_for((tmp_path / "begun").exists)
    child.send_signal(signal.SIGTERM)
    assert "Interrupted: SIGTERM" in child.communicate(timeout=20)[1]
    assert (tmp_path / "ended").exists()
