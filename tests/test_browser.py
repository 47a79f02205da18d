"""Every page, opened from a file in a browser: it draws its charts, says no error, asks no network."""

import re
import shutil
import subprocess

import numpy as np
import pytest
from PIL import Image

from effdet_jax.report.compare_page import write_compare_page
from effdet_jax.report.data_page import write_data_page
from effdet_jax.report.run_page import RunPage
from tests.doubles import Images
from tests.reports import make_evaluation, result, write_metrics

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="needs chromium"),
]
QUIET = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-sync",
    "--disable-background-networking",
    "--disable-component-update",
    "--enable-logging=stderr",
    "--virtual-time-budget=10000",
    "--dump-dom",
] + ["--host-resolver-rules=MAP * ~NOTFOUND"]
CHARTS = re.compile(r'<figure class="card chart">.*?</figure>', re.DOTALL)
MARKS = re.compile(r'<g[^>]*class="mark-(?:line|rect)[^>]*>\s*<path[^>]* d="M[^"]+"', re.DOTALL)


@pytest.fixture
def browse(tmp_path):
    """Opens a page: its DOM once the scripts are done; errors and requests fail."""

    def open_page(path):
        log = tmp_path / "requests.json"
        flags = [f"--user-data-dir={tmp_path / 'profile'}", f"--log-net-log={log}"]
        done = subprocess.run(
            [CHROMIUM, *QUIET, *flags, path.as_uri()],
            capture_output=True,
            text=True,
            check=True,
            timeout=300,
        )
        said = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
        # The browser asks its maker, whatever the page.
        asked = set(re.findall(r'"url":"(?:https?|wss?)://([^/"]+)', log.read_text()))
        return done.stdout, said, {host for host in asked if not host.endswith(".google.com")}

    return open_page


def drawn(browsed):
    """{title of a chart: whether it has marks} of a page without errors and requests."""
    page, said, asked = browsed
    assert said == [] and asked == set()
    figures = CHARTS.findall(page)
    return {re.search("<h3>(.*?)</h3>", one)[1]: bool(MARKS.search(one)) for one in figures}


@pytest.mark.parametrize("names", [("cat", "</script><b>"), [f"class {n}" for n in range(12)]])
def test_the_page_of_a_run(browse, tmp_path, names):
    pytest.importorskip("altair")
    pytest.importorskip("vl_convert")
    write_metrics(tmp_path / "metrics.jsonl")
    Image.fromarray(np.zeros((20, 30, 3), np.uint8)).save(tmp_path / "train_batch.jpg")
    source, path = Images(4), tmp_path / "report.html"
    page = RunPage(str(path), "mine", source, {"val": source}, "finetune", [], run=str(tmp_path))
    page.write(100, make_evaluation([result("0.png", (5.0, 10.0, 25.0, 30.0))], names))
    assert drawn(browse(path)) == dict.fromkeys(
        [
            "Loss",
            "Average precision",
            "Precision by recall",
            "F1 by score",
            "Confusion matrix",
            "Images per second",
            "Waiting for data",
        ],
        True,
    )


def test_runs_beside_each_other(browse, tmp_path):
    pytest.importorskip("altair")
    pytest.importorskip("vl_convert")
    for name in "ab":
        (tmp_path / name).mkdir()
        write_metrics(tmp_path / name / "metrics.jsonl")
    write_compare_page(str(tmp_path / "compare.html"), [str(tmp_path / name) for name in "ab"])
    titles = ["AP", "Validation loss", "Training loss", "Images per second"]
    assert drawn(browse(tmp_path / "compare.html")) == dict.fromkeys(titles, True)


def test_a_data_set(browse, tmp_path):
    source = Images(3)
    source.report.classes = {"cat": 3}
    write_data_page(
        str(tmp_path / "data.html"), "cats", {"train": source.report}, {"train": source}
    )
    page = browse(tmp_path / "data.html")
    assert "Boxes by class" in page[0] and drawn(page) == {}


def test_errors_and_requests_would_be_seen(browse, tmp_path):
    page = tmp_path / "page.html"
    page.write_text('<img src="https://example.org/a.png"><script>undefined_name()</script>')
    _, said, asked = browse(page)
    assert any("undefined_name" in line for line in said) and asked == {"example.org"}
