"""Mistakes at the command line: a message with what to type, status 2, no traceback."""

import os
import re
import subprocess
import sys

import pytest

from effdet_jax import cli
from effdet_jax.cli import find_config, list_configs, load_config
from effdet_jax.config import ConfigError
from tests.conftest import ROOT


def run(*arguments, cwd=ROOT):
    done = subprocess.run(
        [sys.executable, "-m", *arguments],
        cwd=cwd,
        env=os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])},
        capture_output=True,
        text=True,
        check=False,
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
            f"there is no config file 'configs/d33.py' in {ROOT}. Did you mean --config=d3?",
        ),
        (["--config=shape", "--workdir=x"], "no config 'shape'. Did you mean --config=shapes?"),
        (
            ["--config", "d0", "--config.learning_rate=1", "--workdir=x"],
            "unknown config key 'learning_rate'. Did you mean --config.optim.learning_rate?",
        ),
        (["--config=configs/d0.py:smok", "--workdir=x"], "unknown config mode 'smok'"),
        (["--config=configs/d0.py", "--config.batch_size=big", "--workdir=x"], "big"),
        (["--config=configs/d0.py"], "workdir"),
        (["--config=configs/d0.py", "--workdir=x", "stray"], "unexpected arguments: stray"),
        (["--config=d0", "--worksdir=x"], "unknown flag --worksdir. Did you mean --workdir?"),
        (["--config=d0", "--workdir=x", "--batch-size=4"], "Did you mean --config.batch_size?"),
        (["--config=d0", "--workdir=x", "--resume"], "--resume. There is none: the same command"),
        (
            ["--config=d0", "--workdir=x", "epochs=5"],
            "unexpected arguments: epochs=5. Here it is --config.num_epochs=…",
        ),
        (["--config=d0", "--config.num_classes=3", "--workdir=x"], "number come from the data"),
        (["--config=d0", "--config.batch_size=auto", "--workdir=x"], "effdet_jax.plan --config=…"),
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


def test_a_flag_of_a_config_needs_one(tmp_path):
    status, error = run("effdet_jax.evaluate", f"--checkpoint={tmp_path}", "--config.data.dir=x")
    assert status == 2 and "unknown flag --config.data.dir. It needs --config=NAME, too" in error
    assert error.endswith("another data folder is --data_dir=FOLDER")


def test_configs_have_names_and_files(tmp_path, monkeypatch):
    assert list_configs() == {path.stem: str(path) for path in (ROOT / "configs").glob("*.py")}
    assert find_config("d3") == str(ROOT / "configs" / "d3.py")
    assert find_config("shapes:smoke") == f"{ROOT / 'configs' / 'shapes.py'}:smoke"
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text("")
    assert find_config("mine.py:smoke") == "mine.py:smoke"
    with pytest.raises(ConfigError, match=r"no config 'mine'. Did you mean --config=.*; a file is"):
        find_config("mine")
    with pytest.raises(ConfigError, match=r"'configs/lite3.py' in .*mean --config=lite3\?"):
        find_config("configs/lite3.py")


def test_modules_from_the_current_folder_are_imported_first(tmp_path):
    (tmp_path / "my_format.py").write_text(
        "from effdet_jax.export.formats import FORMATS\nFORMATS['.mine'] = None\n"
    )
    (tmp_path / "broken.py").write_text("\nimport json\njson.nothing\n")
    command = ("effdet_jax.export", "checkpoint", "out.x")
    status, error = run(*command, "--import=my_format", cwd=tmp_path)
    assert status == 2 and "OUT ends in .mine, .stablehlo" in error
    status, error = run(*command, "--import=my_format,your_format", cwd=tmp_path)
    reason = f"--import=your_format: no such module in {tmp_path}, and none is installed"
    assert status == 2 and error.endswith(reason)
    status, error = run(*command, "--import=broken", cwd=tmp_path)
    assert status == 2 and "--import=broken: AttributeError: module 'json' has no" in error
    assert "broken.py, line 3)" in error


def test_help_has_the_flags_of_every_command():
    done = subprocess.run(
        [sys.executable, "-m", "effdet_jax.evaluate", "--help"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    for name in ("--import", "--config", "--checkpoint"):
        assert f"\n  {name}:" in done.stdout
    assert "\n  --config.num_epochs=300.0\n" in done.stdout and done.returncode == 0


def test_a_terminal_that_cannot_print_a_sign_prints_another(tmp_path):
    environment = os.environ | {"PYTHONIOENCODING": "ascii", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-m", "effdet_jax.summary", "--config=d0"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0 and "512?512" in done.stdout


def test_ctrl_c_ends_a_command_with_a_word():
    program = """
import sys
from effdet_jax import cli

def main():
    raise KeyboardInterrupt

sys.argv = ["command"]
cli.run(main, dict)
"""
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (cli.INTERRUPTED, "stopped by Ctrl-C\n")


def test_a_tilde_in_any_argument_is_the_home_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    status, output = run("effdet_jax.predict", "--checkpoint=~/runs/x", __file__)
    assert status == 2 and f"'{tmp_path}/runs/x'" in output
    arguments = ("--config=shapes:smoke", "--config.data.source=coco", "--config.data.dir=~/gone")
    status, output = run("effdet_jax.train", *arguments, "--workdir=~/runs/x", cwd=tmp_path)
    assert status == 2 and f"data folder '{tmp_path}/gone' doesn't exist" in output
    assert not (tmp_path / "~").exists()


def test_a_config_starts_from_another_by_name():
    assert load_config("shapes", "smoke").num_steps == 4
    assert load_config("segment_shapes").model.objective == "segment"
    with pytest.raises(ConfigError, match="there is no config 'shape'. Did you mean --config=shap"):
        load_config("shape")
    with pytest.raises(ConfigError, match="unknown config mode 'smok'"):
        load_config("shapes", "smok")
