"""A real Chromium that looks at pages, for tests: what it drew, what it fetched, what it complained about."""

from __future__ import annotations

import json
import shutil
import tempfile
import time
from pathlib import Path

import pytest

FLAGS = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync"
)
PROGRAMS = ("chromium", "chromium-browser", "google-chrome")


class Browser:
    """One Chromium with a profile of its own; `open` gives it a page."""

    def __init__(self):
        from selenium import webdriver
        from selenium.webdriver.chrome.service import Service

        self._profile = tempfile.mkdtemp(prefix="chromium-")
        options = webdriver.ChromeOptions()
        options.binary_location = _find(PROGRAMS)
        for flag in [*FLAGS.split(), f"--user-data-dir={self._profile}"]:
            options.add_argument(flag)
        options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
        self.driver = webdriver.Chrome(options=options, service=Service(_find(("chromedriver",))))

    def open(self, page: Path, *, width: int = 1280, dark: bool = False, scripts: bool = True) -> None:
        """Shows a page, and waits until its charts are drawn."""
        height = 800
        self.driver.get("about:blank")
        self._logs("browser"), self._logs("performance")
        self._tell("Emulation.setScriptExecutionDisabled", value=not scripts)
        self._tell(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=width < 600,
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self._tell("Emulation.setEmulatedMedia", features=[scheme])
        self.driver.get(page.absolute().as_uri())
        if scripts:
            self.wait("document.documentElement.dataset.drawn")

    def ask(self, expression: str, *arguments):
        """The value of a JavaScript expression on the page."""
        return self.driver.execute_script(f"return {expression}", *arguments)

    def wait(self, expression: str, *arguments, seconds: float = 30):
        """Polls an expression until it is true; returns it."""
        ends = time.monotonic() + seconds
        while not (value := self.ask(expression, *arguments)):
            assert time.monotonic() < ends, f"never became true: {expression}"
            time.sleep(0.05)
        return value

    def complaints(self) -> list[str]:
        """What the console said since the page was opened."""
        return [entry["message"] for entry in self._logs("browser")]

    def fetched(self) -> list[str]:
        """Every address that was asked for since the page was opened, but for what lies in the page itself."""
        messages = (json.loads(entry["message"])["message"] for entry in self._logs("performance"))
        asked = [
            m["params"]["request"]["url"] for m in messages if m["method"] == "Network.requestWillBeSent"
        ]
        return [address for address in asked if not address.startswith(("data:", "about:"))]

    def violations(self) -> list[str]:
        """What axe-core finds serious or critical."""
        from axe_core_python.selenium import Axe

        found = Axe().run(self.driver)["violations"]
        serious = [each for each in found if each["impact"] in ("serious", "critical")]
        return [f"{each['id']}: {node['html'][:200]}" for each in serious for node in each["nodes"]]

    def close(self) -> None:
        self.driver.quit()
        shutil.rmtree(self._profile, ignore_errors=True)

    def _tell(self, command: str, **arguments) -> None:
        self.driver.execute_cdp_cmd(command, arguments)

    def _logs(self, kind: str) -> list[dict]:
        return self.driver.get_log(kind)


def need_browser() -> None:
    """Skips where there is none."""
    if not _find(PROGRAMS) or not _find(("chromedriver",)):
        pytest.skip("no Chromium to look at the page with: apt-get install chromium chromium-driver")


def _find(names: tuple[str, ...]) -> str:
    return next(filter(None, map(shutil.which, names)), "")
