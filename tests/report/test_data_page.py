import re

from effdet_jax.report.data_page import write_data_page
from tests.doubles import Images


def test_the_page_is_one_file_that_needs_no_network(tmp_path):
    source = Images(3, broken=(1,))
    source.report.images, source.report.classes = 3, {"<cat>": 3}
    for number in range(300):
        source.report.drop("box & fault", f"case {number}")
    source.report.stops.append("too many")
    path = tmp_path / "data.html"
    write_data_page(str(path), "my <set>", {"train": source.report}, {"train": source})
    page = path.read_text("utf-8")
    assert "<h1>my &lt;set&gt;</h1>" in page and '<td class="text">&lt;cat&gt;</td>' in page
    assert "300 × box &amp; fault" in page and "and 100 more" in page and "case 200" not in page
    assert "Training would refuse this: too many" in page
    assert page.count("data:image/jpeg;base64,") == 2  # The broken one is left out.
    assert "16 … 32 px" in page  # Boxes of 20×20, sides of 40.
    assert not re.search(r"https?://|vegaEmbed=", page) and len(page) < 100_000
