"""The pictures of the page in the documentation. `make ui-pictures` takes them again."""

import os
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect
from tests.ui.conftest import OpenPage
from tests.ui.fake import Fake
from tests.ui.png import with_palette

FOLDER = Path(__file__).resolve().parents[2] / "docs" / "images" / "ui"
MOST_BYTES = 120 * 1024
PICTURES: dict[str, tuple[str, dict[str, object]]] = {
    "overview": ("#/", {}),
    "overview_dark": ("#/", {"dark": True}),
    "overview_zh": ("#/", {"locale": "zh-CN"}),
    "overview_phone": ("#/", {"phone": True}),
    "requests": ("#/requests", {}),
    "request": ("#/requests/req-1", {}),
    "failed_request": ("#/requests/req-2", {}),
    "models": ("#/models", {}),
    "doctor": ("#/doctor", {}),
    "sign_in": ("", {}),
}


@pytest.mark.skipif(os.environ.get("UI_PICTURES") != "write", reason="make ui-pictures")
@pytest.mark.parametrize("name", PICTURES)
def test_take(open_page: OpenPage, url: str, fake: Fake, name: str) -> None:
    path, options = PICTURES[name]
    if path:
        fake.sign_in()
    page = open_page(url + path, **options)
    expect(page.locator("h1")).to_have_count(1)
    if name == "doctor":
        page.get_by_role("button", name="Test every hop").click()
        expect(page.get_by_text("1 of 3 steps")).to_be_visible()
    if name.startswith("overview") or name == "requests":
        expect(page.get_by_text("实时" if name.endswith("_zh") else "Live")).to_be_visible()
    page.wait_for_timeout(300)
    FOLDER.mkdir(exist_ok=True)
    (FOLDER / f"{name}.png").write_bytes(with_palette(page.screenshot(full_page=True, clip=shown(page, options))))


def shown(page: Page, options: dict[str, object]) -> dict[str, float]:
    """The part of the page that the picture shows: as far as its content, but not more than a large screen."""
    height = page.locator("main > :visible").last.bounding_box()
    assert height is not None
    assert page.viewport_size is not None
    bottom = min(height["y"] + height["height"] + 32, 844 if options.get("phone") else 1180)
    return {"x": 0, "y": 0, "width": page.viewport_size["width"], "height": bottom}


def test_the_documentation_has_each_picture_and_none_is_large() -> None:
    sizes = {file.stem: file.stat().st_size for file in FOLDER.iterdir()}
    assert set(sizes) == set(PICTURES)
    assert {name: size for name, size in sizes.items() if size > MOST_BYTES} == {}
