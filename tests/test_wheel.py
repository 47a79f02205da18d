"""The built wheel, installed in a fresh environment and used from another folder.

Its dependencies are those of the environment that runs the tests.
"""

import os
import pathlib
import shutil
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from tests.conftest import ROOT
from tests.quick import QUICK_FLAGS


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Where a user works: far from the clone."""
    return tmp_path_factory.mktemp("elsewhere")


@pytest.fixture(scope="module")
def python(tmp_path_factory):
    """Runs `python ARGUMENTS` of an environment with the wheel, in a folder: its output."""
    place = tmp_path_factory.mktemp("wheel")
    source = place / "source"
    # A copy: building leaves files behind, and what an earlier build left would be packed too.
    for name in ("effdet_jax", "configs"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "setup.py", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source / name)
    pip = (sys.executable, "-m", "pip")
    call(place, *pip, "wheel", "--quiet", "--no-deps", "--wheel-dir", place, source)
    (wheel,) = place.glob("*.whl")
    environment = place / "environment"
    call(place, sys.executable, "-m", "venv", environment)
    python = environment / "bin" / "python"
    call(place, python, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", wheel)
    (packages,) = environment.glob("lib/python*/site-packages")
    folders = {pathlib.Path(path).resolve() for path in sys.path if os.path.isdir(path)}
    libraries = [str(path) for path in folders - {ROOT, pathlib.Path.cwd()}]
    (packages / "libraries.pth").write_text("\n".join(libraries) + "\n")
    return lambda folder, *arguments: call(folder, python, *arguments)


def call(folder, *command):
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        [str(part) for part in command],
        cwd=folder,
        env=environment | {"XLA_FLAGS": QUICK_FLAGS},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


@pytest.mark.slow
def test_everything_works_away_from_the_clone(python, folder):
    where = python(folder, "-c", "import effdet_jax; print(effdet_jax.__file__)")
    assert "/environment/lib/" in where
    assert "train " in python(folder, "-m", "effdet_jax")
    assert "efficientdet-d3: 896×896" in python(folder, "-m", "effdet_jax.summary", "--config=d3")
    config = "--config=shapes:smoke"
    output = python(folder, "-m", "effdet_jax.train", config, "--workdir=run")
    assert "step 4/4" in output
    output = python(folder, "-m", "effdet_jax.evaluate", config, "--checkpoint=run")
    assert "8 images, 800 detections" in output
    Image.fromarray(np.full((90, 120, 3), 128, np.uint8)).save(folder / "photo.png")
    predict = ("-m", "effdet_jax", "predict", "photo.png", "--checkpoint=run", "--output=found")
    assert "photo.png: 100 detections" in python(folder, *predict, "--score_threshold=0")
    written = {"detections.json", "detections.jsonl", "photo.jpg", "written_by_predict.txt"}
    assert set(os.listdir(folder / "found")) == written
    output = python(folder, "-m", "effdet_jax.export", "run", "run.stablehlo")
    assert "400 of 400 detections equal" in output
    assert (folder / "run.stablehlo.json").stat().st_size > 500
