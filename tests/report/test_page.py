import io
import re

import numpy as np
import pytest
from PIL import Image

from effdet_jax.report import page


def test_a_page_has_its_sections_and_asks_nobody(tmp_path):
    path = tmp_path / "page.html"
    path.write_text("earlier")
    page.write_page(str(path), "a <b>", "<p>head</p>", {"One & two": "<p>1</p>", "Empty": ""})
    text = path.read_text("utf-8")
    assert "<h1>a &lt;b&gt;</h1>" in text and '<a href="#one-two">One &amp; two</a>' in text
    assert '<section id="one-two"><h2>One &amp; two</h2><p>1</p></section>' in text
    assert "Empty" not in text and "default-src 'none'" in text
    assert not re.search(r"https?://", text) and "vegaEmbed=" not in text
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("value", "digits", "text"),
    [
        (0.4714, 3, "0.471"),
        (1234.5, 0, "1,234"),
        (-1, 3, "–"),
        (float("nan"), 3, "–"),
        (None, 1, "–"),
        (0, 1, "0.0"),
    ],
)
def test_numbers_read_well(value, digits, text):
    assert page.number(value, digits) == text


def test_tables_sort_by_value_and_escape_text():
    html = page.table(["name", "AP"], [["<cat>", page.quality(0.25)]], sortable=True)
    assert '<th class="text">name</th><th class="number">AP</th>' in html
    assert '<td class="text">&lt;cat&gt;</td>' in html
    assert '<td class="number meter" data-value="0.25" style="--share:25.0%">0.250</td>' in html
    assert 'class="sortable"' in html
    assert page.table(["name"], []) == ""


def test_what_there_is_none_of_has_no_bar_and_sorts_last():
    assert page.quality(-1.0).html() == (
        '<td class="number meter" data-value="-1" style="--share:0.0%">–</td>'
    )


def test_bars_are_shares_of_the_largest():
    html = page.bars({"a": 10, "b": 5, "c": 0})
    assert re.findall(r"width:([\d.]+)%", html) == ["100.0", "50.0", "0.0"]
    assert page.bars({"a": 0}).count("width:0.0%") == 1


def test_the_text_of_a_chart_cannot_end_its_script():
    html = page.chart("Loss & more", "note", {"name": "</script><b>"})
    assert html.count("</script>") == 1 and "\\u003c/script>\\u003cb>" in html
    assert "<h3>Loss &amp; more</h3>" in html
    assert page.chart("Loss", "note", None) == ""


def test_thumbnails_keep_their_shape():
    small, factor = page.thumbnail(np.zeros((30, 40, 3), np.uint8), 20)
    assert small.shape == (15, 20, 3) and factor == 0.5
    same, factor = page.thumbnail(np.zeros((30, 40, 3), np.uint8), 80)
    assert same.shape == (30, 40, 3) and factor == 1.0
    large, factor = page.thumbnail(np.zeros((30, 40, 3), np.uint8), 80, enlarge=True)
    assert large.shape == (60, 80, 3) and factor == 2.0
    assert page.thumbnail(np.zeros((3, 4000, 3), np.uint8), 40)[0].shape == (1, 40, 3)


def test_a_picture_lies_in_the_page():
    html = page.picture(np.full((6, 8, 3), 200, np.uint8), 'a "b".png')
    assert 'alt="a &quot;b&quot;.png"' in html and 'width="8" height="6"' in html
    data = re.search(r'base64,([^"]+)"', html)[1]
    image = Image.open(io.BytesIO(page.base64.b64decode(data)))
    assert image.format == "JPEG" and image.size == (8, 6)
