"""The command, `benchmark/__main__.py`."""

import subprocess
import sys

import pytest

from tests.conftest import ROOT


@pytest.mark.parametrize(
    ("arguments", "flag"),
    [
        ((), "--task"),
        (("peers",), "--against"),
        (("scaling",), "--per_device"),
        (("input",), "--workers"),
        (("fusion",), "--fusion"),
        (("learn",), "--seeds"),
    ],
)
def test_each_topic_has_its_flags(arguments, flag):
    done = subprocess.run(
        [sys.executable, "-m", "effdet_jax.benchmark", *arguments, "--helpfull"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert flag in done.stdout.replace("[no]", ""), done.stderr
