"""The floors of the house: an import goes down, or sideways inside its own room."""

import ast
import subprocess
import sys

import pytest

from tests.conftest import ROOT

PACKAGE = ROOT / "effdet_jax"
FLOORS = (
    {"errors", "classes", "compilation", "libtpu", "protocols", "classifiers"},
    {"distributed", "config", "families", "files", "synonyms"},
    {"kernels"},
    {"ops"},
    {"data", "spec", "layers"},
    {"detection"},
    {"model"},
    {"checkpoint"},
    {"convert"},
    {"inference", "training"},
    {"evaluation", "export"},
    {"run", "knobs"},
    {"report"},
    {"experiment_data"},
    {"cli", "experiment", "__main__"},
    {"plan"},
    {"advice", "paper"},
    {"train", "evaluate", "predict", "summary", "check_data", "plan.__main__", "convert.__main__"}
    | {"export.__main__"},
    {"benchmark", "benchmark.__main__"},  # It trains.
)
FLOOR_OF = {room: floor for floor, rooms in enumerate(FLOORS, 1) for room in rooms}
FILES = sorted(path for path in PACKAGE.rglob("*.py") if path != PACKAGE / "__init__.py")


def room_of(path) -> str:
    """A file's room; a room's command (`__main__`) stands above it, with the other commands."""
    room = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    return f"{room}.__main__" if path.name == "__main__.py" and path.parent != PACKAGE else room


def imports(path):
    """Full names of all that a file imports, anywhere in it."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def name_of(path) -> str:
    return str(path.relative_to(PACKAGE))


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_imports_go_down(path):
    room = room_of(path)
    for name in imports(path):
        if not name.startswith("effdet_jax."):
            continue
        other = name.split(".")[1]
        assert other == room.split(".")[0] or FLOOR_OF[other] < FLOOR_OF[room], (
            f"{name_of(path)} (floor {FLOOR_OF[room]}) imports {name} (floor {FLOOR_OF[other]})"
        )


def test_every_room_has_a_floor():
    assert {room_of(path) for path in FILES} == set(FLOOR_OF)


# Who may read a config: the knobs, the flags, the one maker of objects, and the commands.
READS_CONFIG = {"advice", "config", "cli", "experiment", "train", "evaluate", "predict", "summary"}
READS_CONFIG |= {"check_data"}
READS_CONFIG |= {"experiment_data", "plan", "plan.__main__", "benchmark", "benchmark.__main__"}
# What compares with other programs, where they are installed.
COMPARES = ("convert/verify.py", "convert/torchvision_live.py", "benchmark/race/torch_peer.py")


@pytest.mark.parametrize(
    ("rooms", "banned"),
    [
        # Worker processes import it, and mustn't start a device.
        ({"data", "classes"}, {"jax", "flax", "optax"}),
        (set(FLOOR_OF) - READS_CONFIG, {"ml_collections"}),
        (set(FLOOR_OF), {"tensorflow", "torch", "torchvision", "effdet", "timm", "keras"}),
    ],
)
def test_rooms_keep_to_their_libraries(rooms, banned):
    for path in FILES:
        if room_of(path) in rooms:
            found = {name.split(".")[0] for name in imports(path)} & banned
            if name_of(path) in COMPARES:
                found -= {"torch", "torchvision", "effdet", "timm"}
            assert not found, f"{name_of(path)} imports {found}"


MOST_LINES = {"file": 350, "function": 40}
TABLES = {"get_config"}  # A list of knobs may be as long as there are knobs.


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_files_and_functions_stay_readable(path):
    text = path.read_text(encoding="utf-8")
    tree = ast.parse(text)
    assert ast.get_docstring(tree), "it doesn't say what it is"
    assert len(text.splitlines()) <= MOST_LINES["file"]
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef) and node.name not in TABLES:
            documentation = (ast.get_docstring(node, clean=False) or "").splitlines()
            lines = node.end_lineno - node.lineno + 1 - len(documentation)
            assert lines <= MOST_LINES["function"], f"{node.name} has {lines} lines of code"


# Tests of more than one module.
WHOLE = {
    "architecture",
    "browser",
    "classify",
    "configs",
    "doors",
    "goldens",
    "launch",
    "old_formats",
    "parity",
}
WHOLE |= {"notebook", "readme", "scale_out", "wheel"}


def test_every_module_has_its_test_file_and_every_test_file_its_module():
    expected = set()
    for path in FILES:
        module = path.relative_to(PACKAGE)
        if module.name == "__main__.py":  # A room's command.
            expected.add(module.with_name(f"test_{module.parent.name or '__main__'}.py"))
        elif module.name != "__init__.py":
            expected.add(module.with_name(f"test_{module.name}"))
    found = {path.relative_to(ROOT / "tests") for path in (ROOT / "tests").rglob("test_*.py")}
    about_one = {path for path in found if path.stem.removeprefix("test_") not in WHOLE}
    assert {str(path) for path in expected - about_one} == set(), "without a test file"
    assert {str(path) for path in about_one - expected} == set(), "tests of no module"


def test_importing_the_package_loads_nothing_heavy_and_starts_no_device():
    program = """
import sys
import effdet_jax
heavy = {"tensorflow", "torch", "grain", "tensorflow_datasets", "pycocotools", "jax", "cv2"}
assert not heavy & set(sys.modules), heavy & set(sys.modules)
assert set(effdet_jax.__all__) <= set(dir(effdet_jax))
effdet_jax.Detector, effdet_jax.load, effdet_jax.Predictor
heavy = {"tensorflow", "torch", "grain", "tensorflow_datasets", "pycocotools"}
assert not heavy & set(sys.modules), heavy & set(sys.modules)
import jax
assert not jax._src.xla_bridge._backends, "a device was started"
"""
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
