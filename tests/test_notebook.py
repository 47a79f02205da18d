"""`docs/first_detector.ipynb`: from a data folder to a video, on CPU."""

import ast
import importlib
import json
import subprocess
import sys

import nbformat
import pytest
from PIL import Image

from effdet_jax.inference.video import Video
from tests.conftest import ROOT
from tests.processes import ENVIRONMENT
from tests.tiny import TINY_MODEL

# Instead of the cell of parameters: the smallest network, and next to no training.
SMOKE = f"""
NUM_TRAIN, NUM_VAL, SIDE = 8, 6, 64
OPTIONS = [
    "--config={ROOT}/configs/shapes.py:smoke", "--config.data.source=coco",
    "--config.batch_size=4", "--config.num_steps=4",
    *{[f"--config.model.{knob}={value}" for knob, value in TINY_MODEL.items()]!r},
]
SCORE_THRESHOLD = 0.0
NUM_FRAMES = 12
"""


@pytest.fixture(scope="module")
def notebook():
    return nbformat.read(ROOT / "docs" / "first_detector.ipynb", as_version=nbformat.NO_CONVERT)


def code_cells(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def test_it_is_valid_and_holds_no_outputs(notebook):
    nbformat.validate(notebook)
    cells = code_cells(notebook)
    assert not any(cell.outputs or cell.execution_count for cell in cells)
    assert [cell.metadata.get("tags") for cell in cells].count(["parameters"]) == 1


def test_what_it_names_is_there(notebook):
    for cell in code_cells(notebook):
        for node in ast.walk(ast.parse(cell.source)):
            if isinstance(node, ast.ImportFrom):
                module = importlib.import_module(node.module)
                assert all(hasattr(module, alias.name) for alias in node.names)
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            linked = [part.split(")")[0] for part in cell.source.split("](")[1:]]
            assert all((ROOT / "docs" / name).is_file() for name in linked), linked


@pytest.mark.slow
def test_its_cells_run_from_the_data_to_the_video(notebook, tmp_path):
    cells = code_cells(notebook)
    code = [
        SMOKE if "parameters" in cell.metadata.get("tags", ()) else cell.source for cell in cells
    ]
    done = subprocess.run(
        [sys.executable, "-c", "\n\n".join(code)],
        cwd=tmp_path,
        env=ENVIRONMENT | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "12 frames read, 0 missing" in done.stdout
    folder = tmp_path / "first_detector"
    assert json.loads((folder / "results.json").read_text())
    assert Image.open(folder / "picture.png").size == (64, 64)
    assert len(list((folder / "found").rglob("*.jpg"))) == 6
    lines = [
        json.loads(line)
        for line in (folder / "found_video" / "detections.jsonl").read_text().splitlines()
    ]
    assert [line["frame"] for line in lines] == list(range(12))
    assert [line["seconds"] for line in lines] == [round(number / 10, 3) for number in range(12)]
    assert lines[0]["detections"] and "frame 0, 0.0 s: " in done.stdout
    video = Video(folder / "found_video" / "camera.mp4")
    assert len(list(video)) == 12 and video.size == (128, 128)
    assert Image.open(folder / "found_large" / "large.jpg").size == (256, 256)
