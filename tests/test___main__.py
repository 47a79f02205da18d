"""`python -m effdet_jax`: all commands, and each by its name."""

import importlib.util
import subprocess
import sys

from effdet_jax.__main__ import COMMANDS
from tests.conftest import ROOT

PACKAGE = ROOT / "effdet_jax"


def run(*arguments):
    command = [sys.executable, "-m", "effdet_jax", *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout, done.stderr


def test_every_command_has_its_line():
    files = [*PACKAGE.glob("*.py"), *PACKAGE.glob("*/__main__.py")]
    runs = 'if __name__ == "__main__":'
    commands = {path for path in files if runs in path.read_text(encoding="utf-8")}
    commands.remove(PACKAGE / "__main__.py")
    names = {path.stem if path.parent == PACKAGE else path.parent.name for path in commands}
    assert names == set(COMMANDS)
    for name in COMMANDS:
        assert importlib.util.find_spec(f"effdet_jax.{name}")
    status, output, _ = run()
    assert status == 0 and all(f"  {name:10s} {line}" in output for name, line in COMMANDS.items())


def test_a_command_runs_by_its_name():
    status, output, error = run("summary", "--config=lite0")
    assert status == 0, error
    assert output.startswith("efficientdet-lite0: 320×320, 90 classes")
    status, _, error = run("summary", "--config=lite0", "stray")
    assert status == 2 and error == "error: unexpected arguments: stray\n"


def test_an_unknown_command():
    status, _, error = run("trian")
    assert status == 2 and "no command 'trian'. Did you mean python -m effdet_jax train?" in error
