"""Mistakes at the command line: a message with what to type, status 2, no traceback."""

import re
import subprocess
import sys

import pytest

from tests.conftest import ROOT


def run(*arguments):
    done = subprocess.run(
        [sys.executable, "-m", *arguments], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert "Traceback" not in done.stderr
    return done.returncode, done.stderr.strip()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["--config=configs/d0.py", "--config.optim.learning_rat=1", "--workdir=x"],
            "unknown config key 'optim.learning_rat'. Did you mean --config.optim.learning_rate?",
        ),
        (
            ["--config=configs/d33.py", "--workdir=x"],
            f"there is no config file 'configs/d33.py' in {ROOT}; try configs/shapes.py",
        ),
        (["--config=configs/d0.py:smok", "--workdir=x"], "unknown config mode 'smok'"),
        (["--config=configs/d0.py", "--config.batch_size=big", "--workdir=x"], "big"),
        (["--config=configs/d0.py"], "workdir"),
        (["--config=configs/d0.py", "--workdir=x", "stray"], "unexpected arguments: stray"),
        (["--config=configs/d0.py", "--worksdir=x"], "Unknown command line flag 'worksdir'"),
    ],
)
def test_mistyped_commands(arguments, message):
    status, error = run("effdet_jax.train", *arguments)
    (said,) = re.findall(r"^error: (.*)", error, flags=re.MULTILINE | re.DOTALL)
    assert status == 2 and message in said


def test_predict_without_images_or_checkpoint(tmp_path):
    status, error = run("effdet_jax.predict", f"--checkpoint={tmp_path}")
    assert status == 2 and "no images given: python -m effdet_jax.predict IMAGES…" in error
    (tmp_path / "a.png").write_bytes(b"")
    status, error = run("effdet_jax.predict", str(tmp_path), f"--checkpoint={tmp_path}")
    assert status == 2 and "holds no checkpoint" in error
    status, error = run("effdet_jax.predict", "nothing*.jpg", f"--checkpoint={tmp_path}")
    assert status == 2 and "no image 'nothing*.jpg'" in error
