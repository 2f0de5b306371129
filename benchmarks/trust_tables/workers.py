"""Processes that answer a request a line; one that hangs or dies is started again, and its request has crashed."""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import signal
import subprocess
import tempfile
import time
from typing import Any

MARK = b"ANSWER "


class Worker:
    """A process of a program, started at its first request."""

    def __init__(self, command: list[str], environment: dict[str, str] | None = None):
        self.command, self.environment = command, {**os.environ, **(environment or {})}
        self.process: subprocess.Popen | None = None

    def ask(self, request: dict[str, Any], limit: float) -> dict[str, Any]:
        """The answer, with its `seconds`; `crash` says how the process ended where there is none."""
        if self.process is None:
            self.errors = tempfile.TemporaryFile()  # noqa: SIM115 -- closed with the process
            self.process = subprocess.Popen(
                self.command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.errors,
                env=self.environment, start_new_session=True,
            )  # fmt: skip
        process, began = self.process, time.monotonic()
        assert process.stdin is not None and process.stdout is not None
        try:
            process.stdin.write(json.dumps(request).encode() + b"\n")
            process.stdin.flush()
        except BrokenPipeError:
            return self._ended(began)
        text = b""
        with selectors.DefaultSelector() as selector:
            selector.register(process.stdout, selectors.EVENT_READ)
            while time.monotonic() - began < limit:
                if not selector.select(timeout=1.0):
                    continue
                part = os.read(process.stdout.fileno(), 1 << 20)
                if not part:
                    return self._ended(began)
                text += part
                line = next((line for line in text.split(b"\n")[:-1] if line.startswith(MARK)), None)
                if line is not None:
                    answer = json.loads(line[len(MARK) :], parse_constant=lambda _: None)
                    return answer | {"seconds": time.monotonic() - began}
        self.close()
        return {"crash": f"no answer within {limit:.0f} seconds", "seconds": time.monotonic() - began}

    def _ended(self, began: float) -> dict[str, Any]:
        """What is said of a process that ended."""
        assert self.process is not None
        code = self.process.wait()
        self.errors.seek(0)
        tail = self.errors.read().decode(errors="replace").strip()[-300:]
        self.close()
        return {"crash": f"the process ended with {code}: {tail}", "seconds": time.monotonic() - began}

    def close(self) -> None:
        """End the process."""
        if self.process is not None:
            if self.process.poll() is None:
                os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
            for stream in (self.process.stdin, self.process.stdout, self.errors):
                with contextlib.suppress(BrokenPipeError):  # what was not yet written is lost with the process
                    stream.close()
            self.process = None
