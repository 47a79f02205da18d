"""What the README tells people to type exists."""

import importlib.util
import re

import pytest

import effdet_jax
from effdet_jax.config import flatten, get_config
from tests.conftest import ROOT
from tests.test_spec import MULTIPLY_ADDS, RELEASED, TABLE

TEXT = (ROOT / "README.md").read_text(encoding="utf-8")
COMMANDS = [
    block.replace("\\\n", " ") for block in re.findall(r"```bash\n(.*?)```", TEXT, flags=re.DOTALL)
]


def test_commands_exist():
    modules = set(re.findall(r"python -m (effdet_jax\.\w+)", TEXT))
    assert {"effdet_jax.train", "effdet_jax.evaluate", "effdet_jax.predict"} <= modules
    for module in modules:
        assert importlib.util.find_spec(module), f"there is no {module}"


def test_files_and_knobs_exist():
    for path in re.findall(r"\b(?:configs|launch|docs|effdet_jax)/[\w./]+\w", TEXT):
        assert (ROOT / path).exists(), f"there is no {path}"
    known = flatten(get_config())
    for knob in re.findall(r"--config\.([\w.]+\w)", TEXT):
        assert knob in known, f"there is no --config.{knob}"


@pytest.mark.parametrize("name", sorted(set(re.findall(r"\bed\.(\w+)", TEXT))))
def test_python_names_exist(name):
    assert name in effdet_jax.__all__


def test_ci_calls_the_test_command():
    (command,) = [block.strip() for block in COMMANDS if "pytest" in block]
    assert command in (ROOT / ".ci" / "run").read_text().splitlines()


def test_the_table_of_models_is_right():
    rows = re.findall(
        r"^\| `(\w+)` \| (\d+) \| ([\d,]+) \| ([\d.]+) G \| ([\d,]+) \|", TEXT, re.MULTILINE
    )
    assert len(rows) == len(RELEASED)
    for config, size, parameters, billions, anchors in rows:
        name = f"efficientdet-{config}"
        counts = (int(parameters.replace(",", "")), int(anchors.replace(",", "")))
        assert counts == RELEASED[name] and int(size) == TABLE[name][0]
        assert abs(float(billions) - MULTIPLY_ADDS[name] / 1e9) < 0.06
