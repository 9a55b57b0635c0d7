import base64
from html.parser import HTMLParser
from pathlib import Path

import pytest

from toolkit.report.page import Section, write_page
from toolkit.report.training import losses_png


class _Reader(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.links: list[str] = []
        self.cells: list[str] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in ("meta", "img"):
            self.open.append(tag)
        self.links += [value or "" for name, value in attrs if name in ("src", "href")]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data
        if self.open and self.open[-1] in ("td", "th"):
            self.cells.append(data)


def test_the_page_holds_everything_and_asks_for_nothing(tmp_path: Path) -> None:
    image = losses_png(tmp_path / "loss.png", [{"step": 1, "loss": 2.0}, {"step": 2, "loss": 1.0}])
    rows = [{"name": "a<b>", "value": 0.123456, "rows": 7}, {"name": "c", "value": float("nan"), "rows": 8}]
    sections = [Section("Scores", ["Rates & <script>alert(1)</script>"], rows), Section("Loss", images=[image])]
    path = write_page(tmp_path / "report.html", 'Probe "x" <1>', sections)
    reader = _Reader()
    reader.feed(path.read_text(encoding="utf-8"))
    assert reader.open == []
    assert reader.cells == ["name", "value", "rows", "a<b>", "0.1235", "7", "c", "nan", "8"]
    assert "<script>alert(1)</script>" in reader.text and "<script" not in path.read_text()
    assert len(reader.links) == 1
    assert base64.b64decode(reader.links[0].removeprefix("data:image/png;base64,")) == image.read_bytes()
    assert "prefers-color-scheme: dark" in path.read_text()


def test_a_missing_image_fails_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        write_page(tmp_path / "report.html", "x", [Section("Loss", images=[tmp_path / "none.png"])])
    assert list(tmp_path.iterdir()) == []
