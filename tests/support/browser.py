"""Headless Chromium over its DevTools pipe: what a page does when a browser opens it."""

from __future__ import annotations

import base64
import fcntl
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from waiting import wait_until

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
CHROMIUM = next((path for name in NAMES if (path := shutil.which(name))), None)
_FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--remote-debugging-pipe", "--no-first-run"),
    *("--disable-dev-shm-usage", "--disable-background-networking", "--disable-extensions"),
    *("--disable-component-update", "--hide-scrollbars"),
)


class Browser:
    """One tab; requests that the page makes are noted by address."""

    def __init__(self, commands: BinaryIO, answers: BinaryIO) -> None:
        self._commands, self._answers = commands, answers
        self._number, self._rest, self._session = 0, b"", None
        self.requests: list[str] = []
        self.errors: list[str] = []
        target = self._ask("Target.createTarget", url="about:blank")["targetId"]
        found = self._ask("Target.attachToTarget", targetId=target, flatten=True)
        self._session = found["sessionId"]
        for domain in ("Page", "Network", "Runtime"):
            self._ask(f"{domain}.enable")

    def open(self, path: Path) -> None:
        """Open a file and wait until it is loaded."""
        self._ask("Page.navigate", url=path.resolve().as_uri())
        self.wait_for("document.readyState == 'complete'")

    def run(self, script: str) -> Any:
        """The value of an expression of JavaScript in the page, as JSON knows it."""
        found = self._ask("Runtime.evaluate", expression=script, returnByValue=True)
        assert "exceptionDetails" not in found, found["exceptionDetails"]
        return found["result"].get("value")

    def wait_for(self, script: str) -> None:
        """Wait until an expression of JavaScript is true; events of the page come when they come.

        Raises:
            AssertionError: it is not within two minutes.
        """
        wait_until(lambda: self.run(script), script)

    def press(self, key: str, code: int) -> None:
        """Press a key where the focus is."""
        for kind in ("keyDown", "keyUp"):
            text = {"text": "\r"} if key == "Enter" and kind == "keyDown" else {}
            event = {"type": kind, "key": key, "code": key, "windowsVirtualKeyCode": code, **text}
            self._ask("Input.dispatchKeyEvent", **event)

    def resize(self, width: int, height: int = 900, *, scale: float = 1.0) -> None:
        """Give the page a window of so many pixels."""
        size = {"width": width, "height": height, "deviceScaleFactor": scale}
        self._ask("Emulation.setDeviceMetricsOverride", mobile=width < 600, **size)

    def prefer(self, scheme: str) -> None:
        """Make the system's scheme light or dark."""
        feature = {"name": "prefers-color-scheme", "value": scheme}
        self._ask("Emulation.setEmulatedMedia", features=[feature])

    def screenshot(self, path: Path, *, whole: bool = True) -> None:
        """Write a picture of the page."""
        found = self._ask("Page.captureScreenshot", format="png", captureBeyondViewport=whole)
        path.write_bytes(base64.b64decode(found["data"]))

    def pdf(self, path: Path) -> None:
        """Write what would be printed."""
        path.write_bytes(base64.b64decode(self._ask("Page.printToPDF")["data"]))

    def _ask(self, method: str, **parameters: Any) -> dict[str, Any]:
        self._number += 1
        command = {"id": self._number, "method": method, "params": parameters}
        if self._session is not None:
            command["sessionId"] = self._session
        self._commands.write(json.dumps(command).encode() + b"\0")
        self._commands.flush()
        while (answer := self._read()).get("id") != self._number:
            self._note(answer)
        assert "error" not in answer, (method, answer["error"])
        return answer["result"]

    def _note(self, event: dict[str, Any]) -> None:
        name, parameters = event.get("method"), event.get("params", {})
        if name == "Network.requestWillBeSent":
            if not parameters["request"]["url"].startswith("data:"):  # in the page itself
                self.requests.append(parameters["request"]["url"])
        elif name == "Runtime.exceptionThrown":
            self.errors.append(parameters["exceptionDetails"]["text"])

    def _read(self) -> dict[str, Any]:
        while b"\0" not in self._rest:
            chunk = os.read(self._answers.fileno(), 1 << 16)
            assert chunk, "the browser has ended"
            self._rest += chunk
        message, _, self._rest = self._rest.partition(b"\0")
        return json.loads(message)


@contextmanager
def browser(profile: Path) -> Generator[Browser]:
    """A browser whose profile lies in a folder, until the block ends."""
    assert CHROMIUM is not None
    (reads, commands), (answers, writes) = os.pipe(), os.pipe()
    reads, writes = (_above_four(descriptor) for descriptor in (reads, writes))
    flags = [*_FLAGS, f"--user-data-dir={profile}"]
    words = [sys.executable, "-c", _LAUNCH, str(reads), str(writes), CHROMIUM, *flags]
    with os.fdopen(commands, "wb") as to_it, os.fdopen(answers, "rb") as from_it:
        silent = subprocess.DEVNULL
        process = subprocess.Popen(words, pass_fds=(reads, writes), stdout=silent, stderr=silent)
        os.close(reads)
        os.close(writes)
        try:
            yield Browser(to_it, from_it)
        finally:
            process.kill()
            process.wait()


# Chromium reads commands from descriptor 3 and writes answers to descriptor 4.
_LAUNCH = """
import os, sys
os.dup2(int(sys.argv[1]), 3)
os.dup2(int(sys.argv[2]), 4)
os.execv(sys.argv[3], sys.argv[3:])
"""


def _above_four(descriptor: int) -> int:
    """The same file under a number that nothing is put in the place of."""
    moved = fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, 10)
    os.close(descriptor)
    return moved
