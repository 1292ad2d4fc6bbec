"""The page in a real browser: a picture dropped on it gets its classes, on a desk and on a phone."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

sys.path.insert(0, str(Path(__file__).parent))

from chromium import Browser, find_chromium
from serving_process import process, quiet_server, wait_ready

from mlopt.image.run import free_port

PROGRAM = find_chromium()
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(PROGRAM is None, reason="no Chromium is installed: the page is not tried in a browser"),
]


@pytest.fixture(scope="module")
def url(model_folder: Path) -> Iterator[str]:
    port = free_port()
    with process(model_folder, port=port) as running:
        wait_ready(port, running)
        yield f"http://127.0.0.1:{port}"


@pytest.mark.parametrize(("width", "height", "dark"), [(1200, 800, False), (360, 740, True)])
def test_a_picture_gets_its_classes(url: str, tmp_path: Path, width: int, height: int, dark: bool) -> None:
    Image.new("RGB", (64, 48), (0, 0, 255)).save(tmp_path / "it's blue.png")
    assert PROGRAM
    browser = Browser(PROGRAM, width=width, height=height, dark=dark)
    try:
        browser.open(url)
        assert browser.value("document.title") == "colours"
        browser.choose_file("#file", tmp_path / "it's blue.png")
        browser.wait("document.querySelectorAll('#classes li').length === 3")
        # The name of a class is text, whatever it holds.
        assert browser.value("document.querySelector('#classes li span').textContent") == "</script><b>blue"
        assert browser.value("document.querySelectorAll('#classes b').length") == 0
        widths = "[...document.querySelectorAll('#classes .bar')].map((bar) => bar.getBoundingClientRect().width)"
        bars = browser.value(widths)
        assert bars[0] > 10 * bars[1] > 0
        assert "inference" in browser.value("document.querySelector('#status').textContent")
        assert "@'it'\\''s blue.png'" in browser.value("document.querySelector('#curl').textContent")
        assert browser.value("document.documentElement.scrollWidth <= innerWidth"), "it scrolls sideways"
        ground = browser.value("getComputedStyle(document.body).backgroundColor")
        assert (ground == "rgb(16, 18, 22)") is dark
        assert [problem for problem in browser.problems if "favicon" not in problem] == []
    finally:
        browser.close()


def test_what_is_no_picture_is_said(url: str, tmp_path: Path) -> None:
    (tmp_path / "x.png").write_bytes(b"no picture")
    assert PROGRAM
    browser = Browser(PROGRAM, width=800, height=600, dark=False)
    try:
        browser.open(url)
        browser.choose_file("#file", tmp_path / "x.png")
        browser.wait("document.querySelector('#status').className === 'bad'")
        assert "not a picture" in browser.value("document.querySelector('#status').textContent")
    finally:
        browser.close()


def test_who_has_no_key_is_asked_for_it(model_folder: Path, tmp_path: Path) -> None:
    Image.new("RGB", (64, 48), (255, 0, 0)).save(tmp_path / "red.png")
    assert PROGRAM
    with quiet_server(model_folder, environment={"MLOPT_SERVE_API_KEYS": "a-key-of-16-chars"}) as port:
        browser = Browser(PROGRAM, width=800, height=600, dark=False)
        try:
            browser.open(f"http://127.0.0.1:{port}")
            browser.choose_file("#file", tmp_path / "red.png")
            browser.wait("!document.querySelector('#ask').hidden")
            browser.value("document.querySelector('#key').value = 'a-key-of-16-chars'")
            browser.value("document.querySelector('#key').dispatchEvent(new Event('change'))")
            browser.wait("document.querySelectorAll('#classes li').length === 3")
            assert browser.value("document.querySelector('#ask').hidden")
        finally:
            browser.close()
