import numpy as np
import pytest

from effdet_jax.convert.rules import ConversionError, Rule, flatten, to_tensors, to_variables

RULES = [
    Rule("params/a", ("x.weight",), axes=(1, 0)),
    Rule("params/b", ("x.bias",)),
    Rule("params/c", ("w", "w_1")),
]
EXPECTED = {"params/a": np.zeros((2, 3)), "params/b": np.zeros(3), "params/c": np.zeros(2)}
TENSORS = {
    "x.weight": np.arange(6, dtype=np.float32).reshape(3, 2),
    "x.bias": np.ones(3, np.float32),
    "w": np.array(4, np.float32),
    "w_1": np.array(5, np.float32),
}


def test_every_tensor_is_laid_out_and_contiguous():
    variables = to_variables(TENSORS, RULES, EXPECTED)
    assert variables["params"]["a"].tolist() == [[0, 2, 4], [1, 3, 5]]
    assert variables["params"]["c"].tolist() == [4, 5]
    for array in variables["params"].values():
        assert array.flags.c_contiguous and array.dtype == np.float32


def test_there_and_back_is_the_same_and_contiguous():
    again = to_tensors(to_variables(TENSORS, RULES, EXPECTED), RULES)
    assert again.keys() == TENSORS.keys()
    for name, array in TENSORS.items():
        np.testing.assert_array_equal(again[name], array)
        assert again[name].flags.c_contiguous and again[name].shape == array.shape


@pytest.mark.parametrize(
    ("tensors", "rules", "message"),
    [
        (
            {name: TENSORS[name] for name in ("x.weight", "w", "w_1")},
            RULES,
            r"missing in the source: x.bias \(for params/b",
        ),
        (TENSORS | {"y": np.ones(4)}, RULES, r"not in this model: y \(4,\)"),
        (TENSORS, [RULES[0], RULES[2]], "no rule fills: params/b"),
        (TENSORS | {"x.bias": np.ones(5)}, RULES, r"x.bias is \(5,\), params/b needs \(3,\)"),
    ],
)
def test_anything_that_does_not_fit_is_named(tensors, rules, message):
    with pytest.raises(ConversionError, match=message):
        to_variables(tensors, rules, EXPECTED)


def test_variables_without_a_counterpart_are_named():
    variables = to_variables(TENSORS, RULES, EXPECTED)
    with pytest.raises(ConversionError, match="1 variables have no counterpart there:\n  params/b"):
        to_tensors(variables, [RULES[0], RULES[2]])
    assert flatten(variables).keys() == EXPECTED.keys()


def test_long_lists_are_cut():
    tensors = {f"extra{number}": np.ones(1) for number in range(30)}
    with pytest.raises(ConversionError, match="… and 14 more"):  # 4 missing + 30 left over - 20
        to_variables(tensors, RULES, EXPECTED)
