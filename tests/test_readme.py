"""What README.md and docs/ tell people to type exists."""

import ast
import re
import tomllib

import jax
import numpy as np
import pytest
from PIL import Image

import effdet_jax
from effdet_jax.__main__ import COMMANDS
from effdet_jax.classes import ClassNames
from effdet_jax.cli import find_config
from effdet_jax.config import flatten, get_config
from effdet_jax.model.detector import Detector
from tests.conftest import ROOT
from tests.test_spec import MULTIPLY_ADDS, RELEASED, TABLE
from tests.tiny import random_variables, tiny_spec

README = ROOT / "README.md"
TEXT = {
    path.name: path.read_text("utf-8").replace("\\\n", "")  # A command is one line.
    for path in (README, *sorted(ROOT.glob("docs/*.md")))
}
PACKAGE = ROOT / "effdet_jax"


def everywhere(pattern: str, flags: re.RegexFlag = re.NOFLAG) -> list:
    """pytest parameters (page, match) of all that matches, once per page."""
    found = [
        (page, match)
        for page, text in TEXT.items()
        for match in sorted(set(re.findall(pattern, text, flags)))
    ]
    assert found, f"no page matches {pattern}"
    return [pytest.param(*pair, id=" ".join(map(str, pair))) for pair in found]


def blocks(language: str) -> list[tuple[str, str]]:
    """(page, code) of the fenced blocks."""
    return [
        (page, block)
        for page, text in TEXT.items()
        for block in re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)
    ]


def command_files(command: str) -> list:
    """Files that `python -m effdet_jax.COMMAND` may take flags from."""
    folder = PACKAGE / command
    files = list(folder.rglob("*.py")) if folder.is_dir() else [PACKAGE / f"{command}.py"]
    return [*files, PACKAGE / "cli.py"]


@pytest.mark.parametrize(("page", "command"), everywhere(r"python -m effdet_jax[. ](\w+)"))
def test_commands_exist(page, command):
    assert command in COMMANDS, f"{page}: python -m effdet_jax doesn't list {command}"
    main, *_ = command_files(command)
    if (PACKAGE / command).is_dir():
        main = PACKAGE / command / "__main__.py"
    assert main.exists(), f"{page}: there is no {main}"
    assert '__name__ == "__main__"' in main.read_text("utf-8"), f"{page}: {command} does nothing"


@pytest.mark.parametrize(
    ("page", "line"), everywhere(r"python -m effdet_jax[. ]\w+[^`\n]* --[^`\n]*")
)
def test_flags_exist(page, line):
    command = re.match(r"python -m effdet_jax[. ](\w+)", line)[1]
    known = {
        node.value
        for path in command_files(command)
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    }
    for flag in re.findall(r" --([a-z][\w-]*)", line):
        name = flag.replace("-", "_")
        assert {name, name.removeprefix("no")} & known, f"{page}: {command} has no --{flag}"


@pytest.mark.parametrize(("page", "flag"), everywhere(r"`--([a-z][\w-]*)(?![\w.-])"))
def test_flags_without_a_command_exist(page, flag):
    sources = [*PACKAGE.rglob("*.py"), *(ROOT / "launch").glob("*.sh")]
    name = flag.replace("-", "_")
    spelt = {f'"{name}"', f'"{name.removeprefix("no")}"', f"--{flag} "}
    text = "\n".join(path.read_text("utf-8") for path in sources)
    assert any(spelling in text for spelling in spelt), f"{page}: there is no --{flag}"


@pytest.mark.parametrize(("page", "value"), everywhere(r"--config=([\w:./]*\w)"))
def test_configs_exist(page, value, monkeypatch):
    if value.startswith("FOLDER/"):
        return  # Somebody's own.
    monkeypatch.chdir(ROOT)
    assert find_config(value), f"{page}: there is no --config={value}"


def test_pages_that_add_parts_import_them():
    commands = [
        line
        for page, block in blocks("bash")
        if page == "extending.md"
        for line in block.splitlines()
    ]
    assert commands and all("--import=my_parts " in line for line in commands)
    assert "`my_parts.py`" in TEXT["extending.md"] and "`--import=my_parts`" in TEXT["README.md"]


@pytest.mark.parametrize(("page", "marker"), everywhere(r"pytest -m (\w+)"))
def test_markers_of_tests_exist(page, marker):
    options = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["tool"]["pytest"]
    known = {line.partition(":")[0] for line in options["ini_options"]["markers"]}
    assert marker in known, f"{page}: no tests are marked {marker}"


def test_the_readme_has_the_commands_people_start_with():
    commands = set(re.findall(r"python -m (effdet_jax\.\w+)", TEXT["README.md"]))
    for command in ("train", "evaluate", "predict", "export"):
        assert f"effdet_jax.{command}" in commands
    assert "`python -m effdet_jax` lists the commands" in TEXT["README.md"]


@pytest.mark.parametrize(
    ("page", "path"), everywhere(r"(?<![\w/.])(?:configs|launch|docs|tests|effdet_jax)/[\w./]*\w")
)
def test_files_exist(page, path):
    assert (ROOT / path).exists(), f"{page}: there is no {path}"


@pytest.mark.parametrize(("page", "target"), everywhere(r"\]\((?!https?:)([^)#]+)"))
def test_links_lead_somewhere(page, target):
    folder = ROOT if page == "README.md" else ROOT / "docs"
    assert (folder / target).exists(), f"{page}: there is no {target}"


@pytest.mark.parametrize(("page", "knob"), everywhere(r"--config\.([\w.]+\w)"))
def test_knobs_exist(page, knob):
    assert knob in flatten(get_config()), f"{page}: there is no --config.{knob}"


@pytest.mark.parametrize(("page", "name"), everywhere(r"\bed\.(\w+)"))
def test_public_names_exist(page, name):
    assert name in effdet_jax.__all__, f"{page}: there is no ed.{name}"


@pytest.mark.parametrize(("page", "test"), everywhere(r"`(test_\w+)`"))
def test_tests_exist(page, test):
    files = (ROOT / "tests").rglob("test_*.py")
    assert any(f"def {test}(" in path.read_text("utf-8") for path in files), f"{page}: no {test}"


@pytest.mark.parametrize(("page", "extra"), everywhere(r"(?:effdet_jax|\.)\[([\w,]+)\]'"))
def test_extras_exist(page, extra):
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    assert set(extra.split(",")) <= project["optional-dependencies"].keys(), f"{page}: [{extra}]"


def test_python_blocks_are_python():
    assert len(blocks("python")) >= 2
    for page, block in blocks("python"):
        compile(block, page, "exec")


@pytest.fixture
def tiny_detector():
    model = Detector(tiny_spec("efficientdet-d0"), ClassNames.from_names(["cat", "dog"]))
    return model, random_variables(model)


def test_the_readmes_python_does_what_it_says(monkeypatch, tiny_detector, rng, tmp_path):
    monkeypatch.chdir(tmp_path)
    ((_, block),) = [pair for pair in blocks("python") if pair[0] == "README.md"]
    images = [rng.integers(0, 256, (*size, 3)).astype(np.uint8) for size in ((40, 60), (64, 64))]
    names = {"images": images, "x": np.zeros((1, 64, 64, 3), np.float32)}
    monkeypatch.setattr(effdet_jax, "load", lambda path: tiny_detector)
    monkeypatch.setattr(Detector, "apply", jax.jit(Detector.apply, static_argnums=0))
    exec(compile(block, "README.md", "exec"), names)  # noqa: S102
    found, outputs = names["found"], names["outputs"]
    assert [one.image_size for one in found] == [(40, 60), (64, 64)]
    with Image.open(tmp_path / "found.jpg") as picture:
        assert picture.size == (60, 40)
    assert outputs.class_logits[3].shape == (1, 8, 8, 9, 2)  # [B, H/8, W/8, A, K]
    assert outputs.box_deltas[3].shape == (1, 8, 8, 9, 4)
    assert names["weights"].keys() == {"params"}  # No statistics are left.


def test_the_page_on_predicting_does_what_it_says(monkeypatch, tiny_detector, tmp_path, capsys):
    ((_, block),) = [pair for pair in blocks("python") if pair[0] == "predict.md"]
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(effdet_jax, "load", lambda path: tiny_detector)
    (tmp_path / "photos").mkdir()
    for name in ("photo.jpg", "photos/a.jpg"):
        Image.new("RGB", (60, 40), (200, 90, 0)).save(name)
    low = block.replace("score_threshold=0.4", "score_threshold=0, batch_size=1")
    exec(compile(low, "predict.md", "exec"), {})  # noqa: S102
    said = capsys.readouterr().out.splitlines()
    assert len(said) == 101 and said[0].split()[0] in ("cat", "dog")
    assert said[-1].startswith("photos/a.jpg ['") and (tmp_path / "found.jpg").exists()


def test_the_readme_is_short_and_leads_to_every_page():
    assert len(TEXT["README.md"].splitlines()) <= 130
    for page in TEXT.keys() - {"README.md"}:
        assert f"(docs/{page})" in TEXT["README.md"], f"README.md doesn't mention docs/{page}"


def test_ci_calls_the_test_command():
    (command,) = [
        block.strip() for page, block in blocks("bash") if page == "README.md" and "pytest" in block
    ]
    assert command in (ROOT / ".ci" / "run").read_text().splitlines()


def test_the_table_of_models_is_right():
    rows = re.findall(
        r"^\| `(\w+)` \| (\d+) \| ([\d,]+) \| ([\d.]+) G \| ([\d,]+) \|",
        TEXT["README.md"],
        re.MULTILINE,
    )
    assert len(rows) == len(RELEASED)
    for config, size, parameters, billions, anchors in rows:
        name = f"efficientdet-{config}"
        counts = (int(parameters.replace(",", "")), int(anchors.replace(",", "")))
        assert counts == RELEASED[name] and int(size) == TABLE[name][0]
        assert abs(float(billions) - MULTIPLY_ADDS[name] / 1e9) < 0.06
