import jax
import jax.numpy as jnp
import numpy as np
import pytest

from effdet_jax.detection.mask_head import MaskHead


def features_of(size, levels, width, make=jax.ShapeDtypeStruct):
    return {
        n: make((1, -(-size[0] // 2**n), -(-size[1] // 2**n), width), jnp.float32) for n in levels
    }


def test_d0_has_the_references_parameters():
    """4 × 'up' of 64 channels (the first sees 64, the others 128), 4 BN, 3 classes with a bias."""
    head = MaskHead(3, 64, (128, 128))
    features = features_of((512, 512), range(3, 8), 64)
    shapes = jax.eval_shape(lambda f: head.init(jax.random.key(0), f), features)
    counted = sum(leaf.size for leaf in jax.tree.leaves(shapes["params"]))
    assert counted == 9 * 64**2 + 3 * 9 * 128 * 64 + 4 * 128 + 9 * 128 * 3 + 3 == 262_019
    assert jax.eval_shape(head.apply, shapes, features).shape == (1, 128, 128, 3)


@pytest.mark.parametrize("size", [(130, 97), (64, 200)])
def test_sizes_that_levels_round_up_come_out_at_stride_4(size):
    rounded = tuple(-(-side // 4) for side in size)
    head, features = MaskHead(2, 8, rounded), features_of(size, (3, 4, 5), 8)
    shapes = jax.eval_shape(lambda f: head.init(jax.random.key(0), f), features)
    assert jax.eval_shape(head.apply, shapes, features).shape == (1, *rounded, 2)


def test_every_level_reaches_the_result():
    head, ones = MaskHead(2, 4, (8, 8)), features_of((32, 32), (3, 4), 4, make=jnp.ones)
    variables = head.init(jax.random.key(0), ones)
    base = head.apply(variables, ones)
    for level in ones:
        changed = head.apply(variables, {**ones, level: 2 * ones[level]})
        assert np.abs(changed - base).max() > 1e-3
