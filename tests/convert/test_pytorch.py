import numpy as np
import pytest
from flax import traverse_util
from safetensors.numpy import save_file

from effdet_jax.convert.pytorch import effdet_rules, load_any_effdet
from effdet_jax.convert.rules import ConversionError, abstract_shapes
from effdet_jax.variants import list_models, model_spec
from tests.conftest import shared

SPEC = model_spec("efficientdet-d0")


@pytest.mark.parametrize("name", list_models())
def test_rules_fill_every_variable_once(name):
    spec = model_spec(name)
    rules = list(effdet_rules(spec))
    paths, names = [rule.ours for rule in rules], {rule.theirs for rule in rules}
    assert sorted(paths) == sorted(abstract_shapes(spec)) and len(names) == len(rules)


def test_weights_of_any_class_count_are_read():
    path = shared("goldens/tf_efficientdet_d0/weights.safetensors")
    variables = load_any_effdet(str(path), model_spec("efficientdet-d0", num_classes=3))
    head = variables["params"]["class_head"]["predict"]["pointwise"]["bias"]
    assert head.shape == (9 * 90,)


def test_weights_of_another_variant_are_refused():
    path = shared("goldens/tf_efficientdet_lite0/weights.safetensors")
    with pytest.raises(ConversionError, match="tensors don't fit this model"):
        load_any_effdet(str(path), SPEC)


def test_files_that_are_no_weights(tmp_path):
    (tmp_path / "text.safetensors").write_text("no")
    with pytest.raises(ConversionError, match="can't read '.*text.safetensors' as safetensors"):
        load_any_effdet(str(tmp_path / "text.safetensors"), SPEC)
    with pytest.raises(ConversionError, match="can't read"):
        load_any_effdet(str(tmp_path / "missing.safetensors"), SPEC)
    save_file({"x": np.ones(2)}, tmp_path / "other.safetensors")
    with pytest.raises(ConversionError, match="no effdet state dict: it has no class_net.predict"):
        load_any_effdet(str(tmp_path / "other.safetensors"), SPEC)


def test_written_by_the_rules_and_read_again_is_the_same(tmp_path):
    rng = np.random.default_rng(0)
    spec = model_spec("efficientdet-lite0", num_classes=4)
    ours = {
        path: rng.normal(size=leaf.shape).astype(np.float32)
        for path, leaf in abstract_shapes(spec).items()
    }
    theirs = {
        rule.theirs: np.ascontiguousarray(
            array.transpose(3, 2, 0, 1) if (array := ours[rule.ours]).ndim == 4 else array
        )
        for rule in effdet_rules(spec)
    }
    save_file(theirs, tmp_path / "w.safetensors")
    loaded = load_any_effdet(str(tmp_path / "w.safetensors"), spec)
    flat = traverse_util.flatten_dict(loaded, sep="/")
    for path, array in ours.items():
        np.testing.assert_array_equal(flat[path], array, err_msg=path)
