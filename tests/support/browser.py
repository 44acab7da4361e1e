"""A real browser for tests: Chromium within Qt WebEngine, without a screen and without network.

Pointer and keyboard events are Qt's own, as a user's would be. Only tests import this file.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

os.environ.setdefault("QT_QPA_PLATFORM", "offscreen")
os.environ.setdefault("QTWEBENGINE_CHROMIUM_FLAGS", "--no-sandbox --disable-gpu")  # Chromium's sandbox refuses root

from PyQt6 import sip
from PyQt6.QtCore import QPoint, Qt, QUrl
from PyQt6.QtTest import QTest
from PyQt6.QtWebEngineCore import QWebEnginePage, QWebEngineProfile, QWebEngineUrlRequestInterceptor
from PyQt6.QtWebEngineWidgets import QWebEngineView
from PyQt6.QtWidgets import QApplication

KEYS = {"left": Qt.Key.Key_Left, "right": Qt.Key.Key_Right, "home": Qt.Key.Key_Home, "end": Qt.Key.Key_End}


class _Page(QWebEnginePage):
    def __init__(self, profile, view):
        super().__init__(profile, view)
        self.console = []

    def javaScriptConsoleMessage(self, level, message, line, source):
        self.console.append(f"{level.name}, line {line}: {message}")


class _Watch(QWebEngineUrlRequestInterceptor):
    def __init__(self):
        super().__init__()
        self.urls = []

    def interceptRequest(self, info):
        self.urls.append(info.requestUrl().toString())
        info.block(info.requestUrl().scheme() != "file")


class Browser:
    """One window. `console` holds what the page logged, errors included; `requests` every address that it asked for."""

    def __init__(self, width: int = 1200, height: int = 900) -> None:
        self._app = QApplication.instance() or QApplication(["tests"])
        self._watch, self._profile, self._view = _Watch(), QWebEngineProfile(), QWebEngineView()
        self._profile.setUrlRequestInterceptor(self._watch)
        self._page = _Page(self._profile, self._view)
        self._view.setPage(self._page)
        self._view.resize(width, height)
        self._view.show()

    @property
    def console(self) -> list[str]:
        return self._page.console

    @property
    def requests(self) -> list[str]:
        return self._watch.urls

    def open(self, path: Path) -> None:
        self.console.clear()
        self.requests.clear()
        loaded = []
        self._page.loadFinished.connect(loaded.append)
        self._page.load(QUrl.fromLocalFile(str(path)))
        self._wait(lambda: loaded, f"{path} to load")
        assert loaded == [True]

    def js(self, code: str):
        """The value of an expression on the page, as JSON would carry it."""
        result = []
        self._page.runJavaScript(code, lambda value: result.append(value))
        self._wait(lambda: result, code)
        return result[0]

    def until(self, code: str) -> None:
        """Wait until the expression is true."""
        self._wait(lambda: self.js(code), code)

    def point_at(self, element: str) -> None:
        """Move the pointer onto the element that the expression gives."""
        place = (
            f"(() => {{ const e = {element}; e.scrollIntoView({{block: 'center'}}); return e.getClientRects()[0] }})()"
        )
        box = self.js(f"(({{x, y, width, height}}) => [x + width / 2, y + height / 2])({place})")
        QTest.mouseMove(self._view.focusProxy(), QPoint(*map(round, box)))

    def click(self, element: str) -> None:
        box = self.js(
            f"(({{x, y, width, height}}) => [x + width / 2, y + height / 2])({element}.getBoundingClientRect())"
        )
        QTest.mouseClick(self._view.focusProxy(), Qt.MouseButton.LeftButton, pos=QPoint(*map(round, box)))

    def resize(self, width: int, height: int) -> None:
        self._view.resize(width, height)

    def press(self, key: str) -> None:
        QTest.keyClick(self._view.focusProxy(), KEYS[key])

    def close(self) -> None:
        self._view.setPage(None)
        sip.delete(self._page)  # before its profile, which Qt asks for
        sip.delete(self._view)

    def _wait(self, done, what: str, seconds: float = 30) -> None:
        end = time.monotonic() + seconds
        while not done():
            if time.monotonic() > end:
                raise TimeoutError(f"waited {seconds} s for {what}; console: {self.console}")
            self._app.processEvents()
            time.sleep(0.002)
