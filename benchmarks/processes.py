"""Run one program as a process of its own and record its cost: CPU, wall, peak memory, outcome, its JSON line."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import tempfile
import threading
import time
from typing import Any


def last_json(text: str) -> dict[str, Any] | None:
    """The last line of `text` that is a JSON object, or None."""
    for line in reversed(text.splitlines()):
        if line.startswith("{"):
            try:
                return json.loads(line)
            except json.JSONDecodeError:
                return None
    return None


def reached(printed: dict[str, Any]) -> dict[str, Any]:
    """Estimates and log-likelihood that a program, ours or a peer, printed for the last table that it fitted."""
    ours = printed["fit"] if "log_likelihood" in printed.get("fit", {}) else printed
    return printed.get("second") or ours


def timed(command: list[str], limit: float, environment: dict[str, str] | None = None) -> dict[str, Any]:
    """Run `command` to its end or to `limit` seconds and return its record.

    **Returns:** `status` ("ok", "failed" or "timeout"), `cpu` and `wall` seconds of the whole process and of the
    children it waited for, `peak_rss_mb`, `printed` (its JSON line) and, unless all went well, `stderr` (the tail). A
    program that exits with 0 but prints an `error`, or no JSON, has failed.
    """
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        began = time.perf_counter()
        process = subprocess.Popen(
            command, stdout=out, stderr=err, env={**os.environ, **(environment or {})}, start_new_session=True
        )
        late = threading.Event()

        def stop() -> None:
            late.set()
            os.killpg(process.pid, signal.SIGKILL)

        timer = threading.Timer(limit, stop)
        timer.start()
        _, state, usage = os.wait4(process.pid, 0)
        wall = time.perf_counter() - began
        timer.cancel()
        process.returncode = os.waitstatus_to_exitcode(state)  # wait4 has reaped it: Popen must not wait again
        out.seek(0), err.seek(0)
        printed, messages = last_json(out.read().decode(errors="replace")), err.read().decode(errors="replace")
    if late.is_set():
        status = "timeout"
    elif process.returncode != 0 or printed is None or printed.get("error"):
        status = "failed"
    else:
        status = "ok"
    return {
        "status": status,
        "returncode": process.returncode,
        "cpu": usage.ru_utime + usage.ru_stime,
        "wall": wall,
        "peak_rss_mb": usage.ru_maxrss / 1024,  # kilobytes on Linux
        "said": printed,
        "stderr": None if status == "ok" else messages[-2000:],
    }
