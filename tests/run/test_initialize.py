import dataclasses

import jax
import numpy as np
import pytest

from effdet_jax.checkpoint import (
    BEST,
    LAST,
    CheckpointError,
    Checkpoints,
    Metadata,
)
from effdet_jax.classes import ClassNames
from effdet_jax.distributed.mesh import create_mesh
from effdet_jax.model.detector import Detector
from effdet_jax.model.initialize import abstract_variables, initial_variables, parameter_masks
from effdet_jax.run.initialize import (
    checkpoint_parts,
    create_initial_state,
    keep_class_rows,
    load_state,
)
from effdet_jax.spec import model_spec
from effdet_jax.training.optimizer import create_optimizer
from effdet_jax.training.state import state_of
from tests.tiny import random_variables, tiny_spec

SPEC = tiny_spec()
LABELS = ClassNames(("cat", "dog"), (1, 2))
OPTIMIZER = create_optimizer(**parameter_masks(Detector(SPEC)))


@pytest.fixture
def mesh():
    return create_mesh(8)


def test_a_state_comes_back_on_the_mesh_and_changes_are_said(tmp_path, mesh, capsys):
    model = Detector(SPEC, LABELS)
    state = state_of(random_variables(model), OPTIMIZER)
    saved = Metadata(SPEC, LABELS, {"optim": {"learning_rate": 0.08}, "batch_size": 8}, step=5)
    with_changes = dataclasses.replace(
        saved, config={"optim": {"learning_rate": 0.02}, "batch_size": 8}
    )
    checkpoints = Checkpoints(tmp_path / LAST)
    checkpoints.save(saved, **checkpoint_parts(state))
    checkpoints.close()
    checkpoints = Checkpoints(tmp_path / LAST)
    again = load_state(model, OPTIMIZER, mesh, checkpoints, with_changes)
    jax.tree.map(np.testing.assert_array_equal, again, state)
    assert {len(leaf.devices()) for leaf in jax.tree.leaves(again)} == {8}
    assert "from step 5; changed: optim.learning_rate 0.08 → 0.02\n" in capsys.readouterr().out


def test_another_model_is_refused_with_the_difference_and_what_to_do(tmp_path, mesh):
    checkpoints = Checkpoints(tmp_path / LAST)
    checkpoints.save(Metadata(SPEC, LABELS, {}), {"w": np.ones(1)}, {"w": np.ones(1)})
    checkpoints.close()
    wider = dataclasses.replace(SPEC, pyramid_width=88)
    with pytest.raises(CheckpointError, match=r"width is 88 against 64\..*--config.init="):
        load_state(
            Detector(wider),
            OPTIMIZER,
            mesh,
            Checkpoints(tmp_path / LAST),
            Metadata(wider, LABELS, {}),
        )


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"name": "adamw"}, r"\(optim.name sgd → adamw\)"),
        ({"clip_norm": 0.0}, r"\(optim.clip_norm 10.0 → 0.0\)"),
    ],
)
def test_another_optimizer_is_one_clear_sentence(tmp_path, mesh, changes, said):
    model = Detector(SPEC, LABELS)
    optim = {"name": "sgd", "clip_norm": 10.0}
    checkpoints = Checkpoints(tmp_path / LAST)
    state = state_of(random_variables(model), OPTIMIZER)
    checkpoints.save(Metadata(SPEC, LABELS, {"optim": optim}, step=5), **checkpoint_parts(state))
    checkpoints.close()
    optim = optim | changes
    other = create_optimizer(**parameter_masks(model), **optim)
    metadata = Metadata(SPEC, LABELS, {"optim": optim})
    with pytest.raises(CheckpointError, match=said) as caught:
        load_state(model, other, mesh, Checkpoints(tmp_path / LAST), metadata)
    assert str(caught.value).endswith(f"in a new --workdir=NEW: --config.init={tmp_path}")
    assert len(str(caught.value)) < 500


def test_class_rows_are_matched_by_name_whatever_the_count_and_case(capsys):
    given_model = Detector(tiny_spec(num_classes=3))
    given = jax.device_get(random_variables(given_model))
    model = Detector(tiny_spec(num_classes=3), ClassNames.from_names(["horse", "Person", "car"]))
    fresh = initial_variables(model, seed=3)
    names = ClassNames.from_names(["person", "car", "dog"])
    found = keep_class_rows(fresh, given, model, names)
    printed = capsys.readouterr().out
    assert "class rows kept: Person, car; new: horse\n" in printed

    def rows(tree, index):  # Of nine anchors, three classes each.
        head = tree["params"]["class_head"]["predict"]["pointwise"]
        return [np.asarray(head[name])[..., index::3] for name in ("kernel", "bias")]

    for (tree, old), new in (((fresh, 0), 0), ((given, 0), 1), ((given, 1), 2)):
        jax.tree.map(np.testing.assert_array_equal, rows(found, new), rows(tree, old))
    assert keep_class_rows(fresh, given, model, None) is given
    assert keep_class_rows(fresh, given, model, model.class_names) is given


def test_weights_of_another_class_list_are_taken_but_for_the_class_head(tmp_path, mesh, capsys):
    given = random_variables(Detector(SPEC))
    checkpoints = Checkpoints(tmp_path / BEST)
    checkpoints.save(Metadata(SPEC, LABELS, {}), {"w": np.ones(1)}, given)
    checkpoints.close()
    other = Detector(dataclasses.replace(SPEC, num_classes=5))
    fresh = initial_variables(other, seed=3)
    state = create_initial_state(other, OPTIMIZER, mesh, seed=3, init=str(tmp_path))
    output = capsys.readouterr().out
    total = len(jax.tree.leaves(abstract_variables(other)))
    assert f"loaded {total - 2} of {total} tensors" in output and "unused 0" in output
    for part in ("bias (18,) → (45,)", "kernel (1, 1, 64, 18) → (1, 1, 64, 45)"):
        assert f"params/class_head/predict/pointwise/{part}" in output

    def head(tree):
        return np.asarray(tree["params"]["class_head"]["predict"]["pointwise"]["kernel"])

    def stem(tree):
        return np.asarray(tree["params"]["backbone"]["stem_conv"]["kernel"])

    np.testing.assert_array_equal(head(state.ema), head(fresh))
    np.testing.assert_array_equal(stem(state.ema), stem(given))
    np.testing.assert_array_equal(stem({"params": state.params}), stem(given))


def test_rows_of_a_classifiers_classes_are_kept_by_name(capsys):
    def named(*names):
        spec = model_spec("efficientnet-b0", num_classes=len(names))
        return Detector(spec, ClassNames.from_names(names))

    def variables(columns):
        kernel, bias = np.array(columns, np.float32)[None], np.array(columns, np.float32)
        return {"params": {"classifier": {"predict": {"kernel": kernel, "bias": bias}}}}

    given, fresh = variables([1, 2]), variables([7, 8, 9])
    kept = keep_class_rows(
        fresh, given, named("cow", "Dog", "cat"), ClassNames.from_names(("cat", "dog"))
    )
    assert kept["params"]["classifier"]["predict"]["kernel"].tolist() == [[7, 2, 1]]
    assert "class rows kept: Dog, cat; new: cow" in capsys.readouterr().out
