import jax
import numpy as np
import pytest

import effdet_jax as ed
from effdet_jax.benchmark.step import CompiledStep
from effdet_jax.data.pipeline import train_batches
from effdet_jax.data.sample import AugmentSettings
from effdet_jax.data.synthetic import Shapes
from effdet_jax.detection.objective import create_objective
from effdet_jax.distributed.mesh import create_mesh, place_batch
from effdet_jax.model.initialize import parameter_masks
from effdet_jax.training.optimizer import create_optimizer
from effdet_jax.training.step import create_train_step
from tests.tiny import random_variables, tiny_spec


@pytest.mark.slow  # It compiles a step of its own.
def test_each_call_trains_from_where_the_last_ended_and_leaves_the_variables():
    model = ed.Detector(tiny_spec(num_classes=6), Shapes((64, 64), 1).class_names)
    variables = random_variables(model)
    before = jax.device_get(jax.tree.map(np.array, variables))
    settings = AugmentSettings((64, 64))
    batch = next(train_batches(Shapes((64, 64), 4), settings, batch_size=2, max_boxes=8))
    mesh = create_mesh(2, devices=jax.devices()[:1])
    optimizer = create_optimizer(**parameter_masks(model))
    jitted = create_train_step(
        model, create_objective(model.spec), optimizer, lambda step: 1e-3, mesh
    )
    step = CompiledStep(jitted, optimizer, variables, batch, mesh)
    placed = place_batch(batch, mesh)
    losses = [float(step(placed)["loss/total"]) for _ in range(3)]
    assert losses[2] < losses[1] < losses[0]
    again = CompiledStep(jitted, optimizer, variables, batch, mesh)  # From the same variables.
    assert float(again(placed)["loss/total"]) == losses[0]
    jax.tree.map(np.testing.assert_array_equal, variables, before)
    assert step.compile_seconds > 0 and step.compiled.memory_analysis()
