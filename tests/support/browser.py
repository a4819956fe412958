"""A headless Chromium over the WebDriver protocol (W3C), which its chromedriver speaks: enough to test a static page.

The client is ours because the one use is this page, and the usual package brings ten others along.
"""

from __future__ import annotations

import base64
import json
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

SECONDS = 60.0
ARGUMENTS = (
    *("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-extensions"),
    *("--disable-dev-shm-usage", "--no-first-run", "--hide-scrollbars", "--disable-component-update"),
    "--host-resolver-rules=MAP * ~NOTFOUND",  # no name is ever looked up
)
PAINTED = "return performance.getEntriesByType('paint').length > 0"
KEYS = {"tab": "\ue004", "enter": "\ue007", "space": " "}


class Browser:
    """One window. Errors of the page's script are raised by what runs in it, and kept in its console."""

    def __init__(self, address: str, session: str) -> None:
        self.base = f"{address}/session/{session}"

    def open(self, page: Path) -> None:
        """Until it is painted, which may be after its load event: Chromium drops keys that come earlier."""
        self.post("/url", {"url": page.as_uri()})
        wait_until(lambda: self.run(PAINTED), SECONDS)

    def run(self, script: str, *arguments: Any) -> Any:
        """The value of a function's body."""
        return self.post("/execute/sync", {"script": script, "args": list(arguments)})

    def resize(self, width: int, height: int) -> None:
        """The viewport; `window/rect` would be clamped to a smallest width of windows."""
        metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        self.devtools("Emulation.setDeviceMetricsOverride", metrics)

    def prefer(self, scheme: str) -> None:
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        self.devtools("Emulation.setEmulatedMedia", {"features": features})

    def devtools(self, command: str, parameters: dict[str, Any]) -> Any:
        return self.post("/goog/cdp/execute", {"cmd": command, "params": parameters})

    def type(self, selector: str, text: str) -> None:
        """Keys, as a person would press them."""
        self.post(f"/element/{self.find(selector)}/value", {"text": text})

    def click(self, selector: str) -> None:
        self.post(f"/element/{self.find(selector)}/click", {})

    def press(self, *keys: str) -> None:
        actions = [{"type": kind, "value": KEYS[key]} for key in keys for kind in ("keyDown", "keyUp")]
        self.post("/actions", {"actions": [{"type": "key", "id": "keyboard", "actions": actions}]})

    def find(self, selector: str) -> str:
        (value,) = self.post("/element", {"using": "css selector", "value": selector}).values()
        return str(value)

    def dialog(self) -> str | None:
        """The text of an open dialog; None without one."""
        try:
            return str(self.get("/alert/text"))
        except RuntimeError:
            return None

    def console(self) -> list[str]:
        """Warnings and errors since the last call."""
        return [entry["message"] for entry in self.post("/se/log", {"type": "browser"})]

    def requests(self) -> list[str]:
        """Addresses that were requested since the last call."""
        events = [json.loads(entry["message"])["message"] for entry in self.post("/se/log", {"type": "performance"})]
        sent = [
            event for event in events if event["method"] in ("Network.requestWillBeSent", "Network.webSocketCreated")
        ]
        return [event["params"].get("request", event["params"])["url"] for event in sent]

    def shoot(self, path: Path) -> None:
        path.write_bytes(base64.b64decode(self.get("/screenshot")))

    def get(self, path: str) -> Any:
        return _call("GET", self.base + path)

    def post(self, path: str, body: dict[str, Any]) -> Any:
        return _call("POST", self.base + path, body)


@contextmanager
def chromium() -> Iterator[Browser]:
    """A browser in a process of its own; the test is skipped where none is installed."""
    driver, browser = shutil.which("chromedriver"), shutil.which("chromium") or shutil.which("google-chrome")
    if not (driver and browser):
        pytest.skip("needs chromium and chromedriver (apt-get install chromium chromium-driver)")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    process = subprocess.Popen([driver, f"--port={port}"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        address = f"http://127.0.0.1:{port}"
        _wait_for(address)
        options = {"binary": browser, "args": list(ARGUMENTS)}
        wanted = {
            "goog:chromeOptions": options,
            "goog:loggingPrefs": {"browser": "ALL", "performance": "ALL"},
            "unhandledPromptBehavior": "ignore",
        }
        session = _call("POST", f"{address}/session", {"capabilities": {"alwaysMatch": wanted}})["sessionId"]
        yield Browser(address, session)
        _call("DELETE", f"{address}/session/{session}")
    finally:
        process.terminate()
        process.wait(SECONDS)


def wait_until(check, seconds=120.0):
    """Filters wait a moment for more keys, so what follows is awaited."""
    end = time.monotonic() + seconds
    while not check() and time.monotonic() < end:
        time.sleep(0.05)
    assert check()


def contrast(one, other):
    """Of WCAG 2.1, for colours as browsers write them: "rgb(28, 28, 30)"."""
    light, dark = sorted((luminance(one), luminance(other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def luminance(colour):
    channels = [int(part) / 255 for part in colour[colour.index("(") + 1 : -1].split(",")[:3]]
    red, green, blue = (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def _wait_for(address: str) -> None:
    end = time.monotonic() + SECONDS
    while time.monotonic() < end:
        try:
            if _call("GET", f"{address}/status")["ready"]:
                return
        except OSError:
            time.sleep(0.1)
    raise TimeoutError("chromedriver did not start")


def _call(method: str, url: str, body: dict[str, Any] | None = None) -> Any:
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"Content-Type": "application/json"}, method=method)
    try:
        with urllib.request.urlopen(request, timeout=SECONDS) as answer:
            return json.load(answer)["value"]
    except urllib.error.HTTPError as error:
        told = json.load(error)["value"]
        raise RuntimeError(f"{told['error']}: {told['message'].splitlines()[0]}") from error
