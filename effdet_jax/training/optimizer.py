"""Learning rate, optimizer and EMA decay as the reference trains (google/automl, TF1 path)."""

import jax
import jax.numpy as jnp
import optax

SCHEDULES = ("cosine", "stepwise", "exponential", "polynomial", "constant")
OPTIMIZERS = ("sgd", "adamw", "rmsprop")

# RMSProp as EfficientNet was trained: the decay of the mean squares, and what is added to them.
RMS_DECAY, RMS_EPSILON = 0.9, 1e-3


def learning_rate_schedule(
    name: str,
    *,
    peak: float,
    warmup_init: float,
    warmup_steps: int,
    total_steps: int,
    drop_steps: tuple[int, int] = (0, 0),
    decay_steps: float = 0.0,
    decay_rate: float = 0.97,
    power: float = 0.9,
) -> optax.Schedule:
    """Step → learning rate: a linear warm-up, then one of `SCHEDULES`.

    The schedule after the warm-up sees the step itself, not the steps since: the reference's cosine
    starts a little below `peak`, and ends `warmup_steps` early, to rise again by next to nothing.
    'constant' has no warm-up.

    Args:
      peak: after the warm-up, for the batch size in use.
      warmup_init: at step 0.
      drop_steps: where 'stepwise' goes to a tenth and to a hundredth.
      decay_steps, decay_rate: 'exponential' is multiplied by the rate once in so many steps, which
        may be a fraction.
      power: of 'polynomial'.

    Raises:
      ValueError: an unknown name.
    """
    if name not in SCHEDULES:
        raise ValueError(f"schedule '{name}' is unknown; there are {', '.join(SCHEDULES)}")
    if name == "constant":
        return optax.constant_schedule(peak)
    warmup = optax.linear_schedule(warmup_init, peak, max(warmup_steps, 1))
    if name == "cosine":
        length = max(total_steps - warmup_steps, 1)

        def after(step):
            return 0.5 * peak * (1 + jnp.cos(jnp.pi * step / length))

    elif name == "stepwise":
        after = optax.piecewise_constant_schedule(peak, {step: 0.1 for step in drop_steps})
    elif name == "exponential":

        def after(step):
            return peak * decay_rate ** jnp.floor(step / max(decay_steps, 1.0))

    else:

        def after(step):  # optax's polynomial is not a number at its last step: 0⁻ to a power.
            return peak * jnp.maximum(1 - step / max(total_steps, 1), 0.0) ** power

    def rate(step):
        step = jnp.asarray(step, jnp.float32)
        return jnp.where(step < warmup_steps, warmup(step), after(step))

    return rate


def create_optimizer(
    name: str = "sgd",
    *,
    decayed: optax.Params,
    separate: optax.Params,
    momentum: float = 0.9,
    weight_decay: float = 4e-5,
    clip_norm: float = 10.0,
) -> optax.GradientTransformation:
    """Gradients → update directions, before the learning rate (`apply_gradients` multiplies it).

    'sgd' is the reference: L2 on kernels joins the gradient, each tensor's gradient is clipped to
    `clip_norm`, then all of them together; momentum without Nesterov. 'adamw' clips the same way
    and decays kernels apart from the gradient (arXiv:1711.05101). 'rmsprop' is EfficientNet's, of
    TensorFlow 1: L2 joins the gradient, mean squares start at 1 and have ε within the root, then
    momentum. There the rate goes into the momentum, here it multiplies it, which is the same but for
    some ten steps after the rate has changed.

    Args:
      decayed: a tree like the parameters, True for what weight decay touches.
      separate: a tree like the parameters, True for those whose rows are clipped one by one.
      clip_norm: 0 turns clipping off.

    Raises:
      ValueError: an unknown name.
    """
    decay = optax.add_decayed_weights(weight_decay, mask=decayed)
    clip = [clip_by_norms(clip_norm, separate)] if clip_norm else []
    if name == "sgd":
        return optax.chain(decay, *clip, optax.trace(momentum))
    if name == "adamw":
        return optax.chain(*clip, optax.scale_by_adam(b1=momentum), decay)
    if name == "rmsprop":
        rms = optax.scale_by_rms(RMS_DECAY, RMS_EPSILON, initial_scale=1.0, eps_in_sqrt=True)
        return optax.chain(decay, *clip, rms, optax.trace(momentum))
    raise ValueError(f"optimizer '{name}' is unknown; there are {', '.join(OPTIMIZERS)}")


def clip_by_norms(max_norm: float, separate: optax.Params) -> optax.GradientTransformation:
    """Scales each tensor down to `max_norm` if its own norm is above, then all of them together.

    Args:
      separate: a tree like the parameters, True for those whose rows (a vector's elements) count
        as tensors of their own, such as fusion weights: the reference has a variable for each.
    """

    def update(updates, params=None):
        squares = jax.tree.map(
            lambda leaf, apart: _square_of_rows(leaf) if apart else jnp.sum(jnp.square(leaf)),
            updates,
            separate,
        )
        norms = jnp.sqrt(jnp.concatenate([jnp.ravel(leaf) for leaf in jax.tree.leaves(squares)]))
        factor = max_norm / jnp.maximum(jnp.linalg.norm(jnp.minimum(norms, max_norm)), max_norm)
        # Scalars, not one vector: a vector's elements each have a position of their own, which
        # doubles the time to compile the update on a CPU.
        clipped = jax.tree.map(
            lambda leaf, square: (
                leaf * (factor * max_norm / jnp.maximum(jnp.sqrt(square), max_norm))
            ),
            updates,
            squares,
        )
        return clipped

    return optax.stateless(update)


def _square_of_rows(leaf: jax.Array) -> jax.Array:
    """The squared norm of each row, broadcastable to `leaf`; of a vector, each element's square."""
    axes = tuple(range(1, leaf.ndim))
    return jnp.sum(jnp.square(leaf), axes, keepdims=True) if axes else jnp.square(leaf)


def ema_decay(step: jax.Array, decay: float) -> jax.Array:
    """Decay of the moving average after update number `step` = 1, 2, …: min(d, (1 + t) / (10 + t))."""
    step = jnp.asarray(step, jnp.float32)
    return jnp.minimum(decay, (1.0 + step) / (10.0 + step))
