import jax
import pytest
from flax import traverse_util

from effdet_jax.detection.objective import create_objective
from effdet_jax.distributed.mesh import create_mesh, place_batch
from effdet_jax.model.detector import Detector
from effdet_jax.model.initialize import parameter_masks
from effdet_jax.training.freeze import frozen_modules, frozen_parameters
from effdet_jax.training.optimizer import create_optimizer
from effdet_jax.training.state import state_of
from effdet_jax.training.statistics import statistics_momentum
from effdet_jax.training.step import create_train_step
from tests.quick import QUICK
from tests.tiny import random_variables, tiny_spec
from tests.training.test_step import make_batch

SPEC = tiny_spec("efficientdet-d0", num_classes=3, max_level=5)


def moved_paths(frozen):
    """Which variables differ in a bit after two steps, raw or averaged, as 'params/backbone/…'."""
    model, mesh = Detector(SPEC), create_mesh(8, devices=jax.devices()[:1])
    optimizer = create_optimizer(**parameter_masks(model), weight_decay=0.0)
    step = create_train_step(
        model, create_objective(SPEC), optimizer, lambda step: 0.01, mesh,
        ema=0.9, momentum=statistics_momentum(model), frozen=frozen,
    )  # fmt: skip
    variables = jax.device_get(random_variables(model))
    state, batch = state_of(variables, optimizer), place_batch(make_batch(spec=SPEC), mesh)
    step = step.lower(state, batch).compile(compiler_options=QUICK)
    for _ in range(2):
        state, _ = step(state, batch)
    before = traverse_util.flatten_dict(variables, sep="/")
    raw = {"params": state.params, "batch_stats": state.batch_stats}
    moved = set()
    for tree in (raw, state.ema):
        after = traverse_util.flatten_dict(jax.device_get(tree), sep="/")
        moved |= {path for path in before if (before[path] != after[path]).any()}
    return moved, set(before)


@pytest.fixture(scope="module")
def frozen_backbone_and_norms():
    model = Detector(SPEC)
    return moved_paths(frozen_modules(model, ["backbone"], ["pyramid"]))


def test_a_frozen_part_keeps_every_bit_of_it(frozen_backbone_and_norms):
    moved, paths = frozen_backbone_and_norms
    assert not {path for path in moved if "/backbone/" in path}
    assert {path for path in paths if "/class_head/" in path and "_P3/" in path} <= moved


def test_a_frozen_normalisation_keeps_statistics_and_affine(frozen_backbone_and_norms):
    moved, paths = frozen_backbone_and_norms
    norms = {path for path in paths if "/pyramid/" in path and path.split("/")[-2] == "bn"}
    assert {path.split("/")[-1] for path in norms} == {"mean", "var", "scale", "bias"}
    assert not norms & moved
    kernels = {path for path in paths if path.startswith("params/pyramid/") and "kernel" in path}
    assert kernels <= moved  # The convolutions beside them learn.


def test_what_is_below_a_match_is_frozen_with_it():
    model = Detector(SPEC)
    modules = frozen_modules(model, ["pyramid/cell_0/.*_td", "class_head"])
    parameters = traverse_util.flatten_dict(frozen_parameters(model, modules), sep="/")
    frozen = {path for path, fixed in parameters.items() if fixed}
    assert frozen and all(path.startswith(("pyramid/cell_0/", "class_head/")) for path in frozen)
    assert "pyramid/cell_0/P4_td/fusion/weights" in frozen
    assert "pyramid/cell_0/P4_out/fusion/weights" not in frozen


def test_a_pattern_that_matches_nothing_is_refused_with_the_parts():
    with pytest.raises(ValueError, match="'neck' matches no module .* backbone, box_head, class_h"):
        frozen_modules(Detector(SPEC), ["neck"])


def test_nothing_frozen_is_nothing():
    assert frozen_modules(Detector(SPEC)) == frozenset()
    assert not any(jax.tree.leaves(frozen_parameters(Detector(SPEC), frozenset())))
