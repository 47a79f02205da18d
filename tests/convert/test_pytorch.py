import pytest

from effdet_jax.convert.pytorch import effdet_rules
from effdet_jax.convert.rules import abstract_shapes
from effdet_jax.spec import PYTORCH, model_spec


# Each part of the family once: the others differ in numbers of blocks, cells and convolutions.
@pytest.mark.parametrize("name", ["efficientdet-d1", "efficientdet-d7x", "efficientdet-lite3"])
def test_rules_fill_every_variable_once(name):
    spec = model_spec(name)
    rules = list(effdet_rules(spec))
    paths = [rule.path for rule in rules]
    names = {name for rule in rules for name in rule.names}
    assert sorted(paths) == sorted(abstract_shapes(spec)) and len(names) == len(rules)


@pytest.mark.parametrize("name", ["efficientdet-d0"])
def test_rules_without_redundant_biases(name):
    spec = model_spec(name, **PYTORCH)
    paths = [rule.path for rule in effdet_rules(spec)]
    assert sorted(paths) == sorted(abstract_shapes(spec))
    dropped = {rule.path for rule in effdet_rules(model_spec(name))} - set(paths)
    # One bias per resampling, per fusion node and per convolution of the two heads.
    nodes = spec.pyramid_cells * 8
    assert len(dropped) == 6 + nodes + 2 * spec.head_depth
    assert all(path.endswith("/bias") for path in dropped)
