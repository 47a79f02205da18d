from tests import typecheck as typecheck  # Found by name: see pyproject.toml.
