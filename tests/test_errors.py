"""Every error that a user can cause has the base that the commands print without a traceback."""

import ast
import importlib

import pytest

from effdet_jax.errors import UserError
from tests.conftest import ROOT

PACKAGE = ROOT / "effdet_jax"
CLASSES = [
    (".".join(path.relative_to(ROOT).with_suffix("").parts), node.name)
    for path in sorted(PACKAGE.rglob("*.py"))
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
    if isinstance(node, ast.ClassDef) and node.name.endswith("Error") and node.name != "UserError"
]


@pytest.mark.parametrize(("module", "name"), CLASSES)
def test_it_is_a_user_error(module, name):
    assert issubclass(getattr(importlib.import_module(module), name), UserError)
