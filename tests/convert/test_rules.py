import numpy as np
import pytest

from effdet_jax.convert.rules import ConversionError, Rule, apply_rules

RULES = [Rule("params/a", "x.weight", lambda array: array.T), Rule("params/b", "x.bias")]
EXPECTED = {"params/a": np.zeros((2, 3)), "params/b": np.zeros(3)}
TENSORS = {"x.weight": np.arange(6.0).reshape(3, 2), "x.bias": np.ones(3)}


def test_every_tensor_is_laid_out_and_contiguous():
    variables = apply_rules(TENSORS, RULES, EXPECTED)
    assert variables["params"]["a"].tolist() == [[0, 2, 4], [1, 3, 5]]
    assert variables["params"]["a"].flags.c_contiguous
    assert variables["params"]["a"].dtype == np.float32


def test_names_that_carry_nothing_are_passed_over():
    tensors = TENSORS | {"x.num_batches_tracked": np.array(5)}
    variables = apply_rules(
        tensors, RULES, EXPECTED, unneeded=lambda name: name.endswith("tracked")
    )
    assert variables["params"].keys() == {"a", "b"}


@pytest.mark.parametrize(
    ("tensors", "rules", "message"),
    [
        ({"x.weight": TENSORS["x.weight"]}, RULES, r"missing in the source: x.bias \(for params/b"),
        (TENSORS | {"y": np.ones(4)}, RULES, r"not in this model: y \(4,\)"),
        (TENSORS, RULES[:1], "no rule fills: params/b"),
        (TENSORS | {"x.bias": np.ones(5)}, RULES, r"x.bias is \(5,\), params/b needs \(3,\)"),
    ],
)
def test_anything_that_does_not_fit_is_named(tensors, rules, message):
    with pytest.raises(ConversionError, match=message):
        apply_rules(tensors, rules, EXPECTED)


def test_long_lists_are_cut():
    tensors = {f"extra{number}": np.ones(1) for number in range(30)}
    with pytest.raises(ConversionError, match="… and 12 more"):  # 2 missing + 30 left over - 20
        apply_rules(tensors, RULES, EXPECTED)
