"""Chromium without a window, driven through chromedriver: WebDriver is HTTP with JSON."""

from __future__ import annotations

import contextlib
import json
import shutil
import socket
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path
from types import TracebackType
from typing import Any

CHROMIUM = next(
    (path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None
)
CHROMEDRIVER = shutil.which("chromedriver")
MISSING = ", ".join(name for name, path in (("chromium", CHROMIUM), ("chromedriver", CHROMEDRIVER)) if path is None)
"""What is not installed; empty if a browser can be started."""

_FLAGS = (
    *("headless", "no-sandbox", "disable-gpu", "disable-background-networking", "disable-component-update"),
    *("disable-sync", "no-first-run", "hide-scrollbars", "disable-dev-shm-usage"),
)
_OWN_PAGES = ("chrome:", "chrome-untrusted:")
_ELEMENT = "element-6066-11e4-a52e-4f735466cecf"  # the key of an element in WebDriver


class Browser:
    """A window of Chromium, as a context manager.

    Raises:
        RuntimeError: chromium or chromedriver is not installed, or refuses a command.
    """

    def __init__(self) -> None:
        if CHROMIUM is None or CHROMEDRIVER is None:
            raise RuntimeError(f"{MISSING} is not installed")
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self._profile = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
        self._driver = subprocess.Popen(
            [CHROMEDRIVER, f"--port={port}"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        self._url = f"http://127.0.0.1:{port}"
        self._wait_for_driver()
        flags = [*(f"--{flag}" for flag in _FLAGS), f"--user-data-dir={self._profile.name}"]
        options = {"args": flags, "binary": CHROMIUM}
        wanted = {"goog:chromeOptions": options, "goog:loggingPrefs": {"browser": "ALL", "performance": "ALL"}}
        session = self._call("POST", "/session", {"capabilities": {"alwaysMatch": wanted}})
        self._session = f"/session/{session['sessionId']}"

    def __enter__(self) -> Browser:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self._call("DELETE", self._session)
        finally:
            self._driver.terminate()
            self._driver.wait()
            self._profile.cleanup()

    def open(self, path: Path) -> None:
        """Open a page of `onebit export --to html` from its file, and wait until it answers."""
        self._post("/url", {"url": path.resolve().as_uri()})
        self.script("await onebit.ready")

    def script(self, text: str, *values: Any) -> Any:
        """Run an asynchronous function in the page, with the list `values` as its arguments."""
        body = (
            "const done = arguments[arguments.length - 1]; const values = [...arguments].slice(0, -1);"
            f"(async () => {{ {text} }})()"
            ".then((value) => done({ value }), (error) => done({ error: `${error}` }));"
        )
        found = self._post("/execute/async", {"script": body, "args": list(values)})
        if "error" in found:
            raise RuntimeError(found["error"])
        return found.get("value")

    def wait(self, condition: str, *values: Any, seconds: float = 20) -> Any:
        """Wait until a JavaScript expression is true; its value."""
        stop = time.monotonic() + seconds
        while not (found := self.script(f"return {condition}", *values)):
            if time.monotonic() > stop:
                raise RuntimeError(f"{condition} did not become true in {seconds} s")
            time.sleep(0.05)
        return found

    def keys(self, selector: str, text: str) -> None:
        """Type into an element; for a file input, the path of a file."""
        element = self._post("/element", {"using": "css selector", "value": selector})[_ELEMENT]
        self._post(f"/element/{element}/value", {"text": text})

    def draw(self, strokes: list[list[tuple[float, float]]]) -> None:
        """Press the mouse at the first point of each stroke, move it along the others, and release it.

        Args:
            strokes: points (x, y) in pixels of the window.
        """
        actions: list[dict[str, Any]] = []
        for points in strokes:
            moves = [{"type": "pointerMove", "duration": 0, "x": round(x), "y": round(y)} for x, y in points]
            actions += [moves[0], {"type": "pointerDown", "button": 0}, *moves[1:], {"type": "pointerUp", "button": 0}]
        self._post("/actions", {"actions": [{"type": "pointer", "id": "mouse", "actions": actions}]})

    def resize(self, width: int, height: int) -> None:
        """Give the page a size in pixels of CSS."""
        self._protocol(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False
        )

    def theme(self, name: str) -> None:
        """Prefer "light" or "dark"."""
        self._protocol("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": name}])

    def messages(self) -> list[str]:
        """Messages on the console since the last call, such as errors."""
        return [f"{entry['level']}: {entry['message']}" for entry in self._post("/se/log", {"type": "browser"})]

    def requests(self) -> list[str]:
        """Addresses that the page requested since the last call, without those of the browser's empty tab."""
        events = [json.loads(entry["message"])["message"] for entry in self._post("/se/log", {"type": "performance"})]
        sent = [event["params"] for event in events if event["method"] == "Network.requestWillBeSent"]
        return [each["request"]["url"] for each in sent if not each["documentURL"].startswith(_OWN_PAGES)]

    def _protocol(self, command: str, **values: Any) -> Any:
        return self._post("/goog/cdp/execute", {"cmd": command, "params": values})

    def _post(self, path: str, data: Any) -> Any:
        return self._call("POST", self._session + path, data)

    def _call(self, method: str, path: str, data: Any = None) -> Any:
        body = None if data is None else json.dumps(data).encode()
        request = urllib.request.Request(
            self._url + path, method=method, data=body, headers={"Content-Type": "application/json"}
        )
        try:
            with urllib.request.urlopen(request, timeout=120) as answer:
                return json.load(answer)["value"]
        except urllib.error.HTTPError as error:
            with error:
                raise RuntimeError(json.load(error)["value"]["message"]) from None

    def _wait_for_driver(self) -> None:
        for _ in range(200):
            with contextlib.suppress(OSError):
                self._call("GET", "/status")
                return
            time.sleep(0.05)
        raise RuntimeError("chromedriver does not answer")
