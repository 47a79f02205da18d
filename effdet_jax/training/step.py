"""One training step: a pure function of state and batch."""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn
from jax import lax
from jax.sharding import Mesh

from effdet_jax.detection.objective import Objective
from effdet_jax.distributed.mesh import replicated, state_sharding
from effdet_jax.model.detector import Detector
from effdet_jax.model.initialize import Path
from effdet_jax.training.freeze import frozen_parameters, run_as_in_inference
from effdet_jax.training.optimizer import ema_decay
from effdet_jax.training.state import TrainState
from effdet_jax.training.statistics import warm_up

Batch = Mapping[str, jax.Array]
Step = Callable[[TrainState, Batch], tuple[TrainState, dict[str, jax.Array]]]


def create_train_step(
    model: Detector,
    objective: Objective,
    optimizer: optax.GradientTransformation,
    learning_rate: optax.Schedule,
    mesh: Mesh,
    *,
    seed: int = 0,
    ema: float = 0.9998,
    microbatches: int = 1,
    momentum: Any = None,
    frozen: frozenset[Path] = frozenset(),
) -> Step:
    """The jitted step over a mesh; arrays come and go as `distributed.mesh` places them.

    The state is donated.

    Args:
      model: the detector.
      objective: targets and loss, from `detection.objective.create_objective`.
      optimizer: from `optimizer.create_optimizer`.
      learning_rate: step → rate.
      seed: of drop-connect's random numbers.
      ema: decay of the moving averages, 0 for none.
      microbatches: equal parts a batch is computed in, one after the other, for as little memory as
        one takes. Gradients are those of the whole batch but for batch normalisation: it
        normalises each part by the part's own statistics, and their mean joins the running ones.
      momentum: of the running statistics, from `statistics.statistics_momentum`, to warm them up and
        average the batches' own; if None they move as the layers move them, and their averages
        follow them, as in the reference.
      frozen: from `freeze.frozen_modules`.
    """

    compute = functools.partial(
        gradients, model, objective, microbatches=microbatches, frozen=frozen
    )

    def step(state: TrainState, batch: Batch) -> tuple[TrainState, dict[str, jax.Array]]:
        with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
            key = jax.random.fold_in(jax.random.key(seed), state.step)
            targets = objective.targets(batch)
            # What 'fsdp' splits is gathered once, here; its gradient is summed and split again.
            variables = jax.lax.with_sharding_constraint(state.variables, replicated(mesh))
            grads, batch_stats, parts = compute(variables, batch, targets, key)
            rate = jnp.asarray(learning_rate(state.step), jnp.float32)
            new_state, grad_norm = apply_gradients(
                state, grads, batch_stats, optimizer, rate, ema, momentum
            )
            finite = jnp.isfinite(parts["loss/total"]) & jnp.isfinite(grad_norm)
            metrics = {"optim/learning_rate": rate, "optim/grad_norm": grad_norm, "finite": finite}
            metrics = {**parts, **metrics}
            new_state = keep_if(finite, new_state, state)
            shardings = (state_sharding(new_state, mesh), replicated(mesh))
            return jax.lax.with_sharding_constraint((new_state, metrics), shardings)

    return jax.jit(step, donate_argnums=0)


def gradients(
    model: Detector,
    objective: Objective,
    variables: Mapping[str, Any],
    batch: Batch,
    targets: Any,
    key: jax.Array,
    *,
    microbatches: int = 1,
    frozen: frozenset[Path] = frozenset(),
) -> tuple[Any, Any, dict[str, jax.Array]]:
    """(gradients, updated batch statistics, parts of the loss) of a batch in `microbatches` parts.

    Parameters of `frozen` modules have zeros for gradients, which aren't computed.
    """
    normalizer = objective.normalizer(targets)
    fixed = frozen_parameters(model, frozen)

    def loss_of(params, inputs, targets, key):
        params = jax.tree.map(lambda x, fix: lax.stop_gradient(x) if fix else x, params, fixed)
        with nn.intercept_methods(run_as_in_inference(frozen)):
            outputs, updated = model.apply(
                {**variables, "params": params},
                model.preprocess(inputs),
                train=True,
                mutable=["batch_stats"],
                rngs={"drop_connect": key},
            )
        loss, parts = objective.loss(outputs, targets, normalizer)
        return loss, (updated["batch_stats"], parts)

    def one_part(index, part):
        grads, (batch_stats, parts) = jax.grad(loss_of, has_aux=True)(
            variables["params"], *part, jax.random.fold_in(key, index)
        )
        # The running statistics have all moved from the same ones: their mean is one such move.
        return grads, jax.tree.map(lambda leaf: leaf / microbatches, batch_stats), parts

    inputs = {name: batch[name] for name in ("image", "content")}
    return _sum_over_parts(one_part, (inputs, targets), microbatches)


def _sum_over_parts(one_part: Callable[..., Any], whole: Any, parts: int) -> Any:
    """Sum of `one_part(index, part)` over equal parts of `whole`, one after the other."""
    if parts == 1:
        return one_part(0, whole)
    split = jax.tree.map(lambda leaf: _split_batch(leaf, parts), whole)
    zeros = jax.tree.map(
        lambda leaf: jnp.zeros(leaf.shape, leaf.dtype),
        jax.eval_shape(one_part, 0, jax.tree.map(lambda leaf: leaf[0], split)),
    )

    def add_part(total, indexed):
        return jax.tree.map(jnp.add, total, one_part(*indexed)), None

    return jax.lax.scan(add_part, zeros, (jnp.arange(parts), split))[0]


def _split_batch(leaf: jax.Array, parts: int) -> jax.Array:
    """[B, …] → [parts, B / parts, …]; every part has rows of every device."""
    return jnp.swapaxes(leaf.reshape(len(leaf) // parts, parts, *leaf.shape[1:]), 0, 1)


def apply_gradients(
    state: TrainState,
    grads: Any,
    batch_stats: Any,
    optimizer: optax.GradientTransformation,
    rate: jax.Array,
    ema: float,
    momentum: Any = None,
) -> tuple[TrainState, jax.Array]:
    """The state one step on, and the norm of all gradients before decay and clipping."""
    directions, opt_state = optimizer.update(grads, state.opt_state, state.params)
    updates = jax.tree.map(lambda direction: -rate * direction, directions)
    params = optax.apply_updates(state.params, updates)
    step = state.step + 1
    observed = batch_stats
    if momentum is not None:
        batch_stats, observed = warm_up(state.batch_stats, batch_stats, momentum, step)
    average = {"params": params, "batch_stats": observed if ema else batch_stats}
    if ema:  # Written so that what doesn't change has itself for its average, to the bit.
        share = 1.0 - ema_decay(step, ema)
        average = jax.tree.map(lambda old, new: old + share * (new - old), state.ema, average)
    state = TrainState(step, params, batch_stats, opt_state, average)
    return state, optax.tree.norm(grads)


def keep_if(finite: jax.Array, new: TrainState, old: TrainState) -> TrainState:
    """`new`, or `old` with the step counted where a loss or gradient was no finite number."""
    kept = jax.tree.map(lambda a, b: jnp.where(finite, a, b), new, old)
    return kept.replace(step=new.step)
