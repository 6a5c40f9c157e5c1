"""A headless Chromium, driven through a pipe (Chrome DevTools Protocol): what a page shows and runs."""

import contextlib
import json
import os
import select
import shutil
import subprocess
import tempfile
from base64 import b64decode
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
_PATIENCE = 60.0  # seconds for an answer
_OPTIONS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run"),
    *("--disable-extensions", "--disable-background-networking", "--disable-sync"),
    *("--remote-debugging-pipe", "--no-startup-window"),
)


class Browser:
    """One tab. `noted` has what the page said and asked for since it was opened: (method, params)."""

    def __init__(self, commands: int, answers: int) -> None:
        self._commands, self._answers, self._buffer = commands, answers, b""
        self._last, self._session = 0, ""
        self.noted: list[tuple[str, dict[str, Any]]] = []
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        """Calls a method of the protocol, and returns its result."""
        self._last += 1
        message = {"id": self._last, "method": method, "params": params}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._commands, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._read()
            if answer.get("id") == self._last:
                assert "error" not in answer, answer
                result: dict[str, Any] = answer["result"]
                return result

    def _read(self) -> dict[str, Any]:
        """The next answer, or what happened."""
        while b"\0" not in self._buffer:
            ready, _, _ = select.select([self._answers], [], [], _PATIENCE)
            assert ready, "the browser does not answer"
            block = os.read(self._answers, 1 << 16)
            assert block, "the browser has ended"
            self._buffer += block
        message, _, self._buffer = self._buffer.partition(b"\0")
        read: dict[str, Any] = json.loads(message)
        if "method" in read:
            self.noted.append((read["method"], read.get("params", {})))
        return read

    def open(self, url: str) -> None:
        """Opens a page, until it is loaded and its scripts have run."""
        for each in ("about:blank", url):  # else another fragment is no other page
            self.noted.clear()
            self.call("Page.navigate", url=each)
            while "Page.loadEventFired" not in [method for method, _ in self.noted]:
                self._read()

    def evaluate(self, expression: str) -> Any:
        """The value of an expression of JavaScript in the page."""
        found = self.call("Runtime.evaluate", expression=expression, returnByValue=True)
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    def looks(self, width: int = 1280, dark: bool = False) -> None:
        """The width of the page, and the reader's colours."""
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[scheme])
        self.call(
            "Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=False
        )

    def picture(self) -> bytes:
        """The whole page, as PNG."""
        shown = self.call("Page.captureScreenshot", format="png", captureBeyondViewport=True)
        return b64decode(shown["data"])

    @property
    def requests(self) -> list[str]:
        """What the page asked for, itself first."""
        return [
            params["request"]["url"] for method, params in self.noted if method == "Network.requestWillBeSent"
        ]

    @property
    def errors(self) -> list[Any]:
        """What was logged, or thrown."""
        wanted = ("Log.entryAdded", "Runtime.exceptionThrown", "Runtime.consoleAPICalled")
        return [params for method, params in self.noted if method in wanted]


@contextmanager
def browser() -> Iterator[Browser]:
    """Starts one, and ends it."""
    assert CHROMIUM
    ours, theirs = os.pipe(), os.pipe()  # it reads commands from 3, and writes answers to 4
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        command = [CHROMIUM, *_OPTIONS, f"--user-data-dir={profile}"]
        shell = f'exec 3<&{ours[0]} 4>&{theirs[1]}; exec "$@"'
        process = subprocess.Popen(
            ["bash", "-c", shell, "bash", *command],
            pass_fds=(ours[0], theirs[1]),
            stderr=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
        )
        os.close(ours[0])
        os.close(theirs[1])
        try:
            started = Browser(ours[1], theirs[0])
            yield started
            with contextlib.suppress(AssertionError, OSError):
                started._session = ""
                started.call("Browser.close")
            process.wait(30)
        finally:
            process.kill()
            process.wait()
            os.close(ours[1])
            os.close(theirs[0])
