import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from effdet_jax.detection.heads import Outputs
from effdet_jax.detection.postprocess import Detections, detect
from effdet_jax.ops import boxes as box_ops
from effdet_jax.ops.nms import hard_nms, soft_nms, top_k_pairs
from effdet_jax.spec import EXACT_ASPECTS, model_spec
from tests.conftest import shared

SPEC = model_spec("efficientdet-d0", image_size=(128, 128))
ANCHORS = SPEC.anchors()


@functools.cache
def pytorch():
    """Recorded arrays, and the recorded logits as `Outputs`."""
    with np.load(shared("goldens/tf_efficientdet_d0/ref_128.npz")) as file:
        recorded = dict(file)

    def levels(name):
        maps = {level: recorded[f"eval_{name}_P{level}"] for level in SPEC.levels}
        return {
            level: jnp.asarray(x.transpose(0, 2, 3, 1)).reshape(len(x), *x.shape[2:], 9, -1)
            for level, x in maps.items()
        }

    return recorded, Outputs(levels("class"), levels("box"))


def test_top_k_equals_pytorch():
    recorded, outputs = pytorch()
    levels = [x.reshape(4, -1, 90) for x in outputs.class_logits.values()]
    best, anchors, classes = jax.vmap(lambda levels: top_k_pairs(levels, 5000))(levels)
    expected = recorded["pp_cls"][..., 0]
    np.testing.assert_array_equal(best, expected)
    # PyTorch orders equal logits as it likes.
    alone = np.ones_like(expected, bool)
    alone[:, 1:] &= expected[:, 1:] != expected[:, :-1]
    alone[:, :-1] &= expected[:, 1:] != expected[:, :-1]
    np.testing.assert_array_equal(np.asarray(anchors)[alone], recorded["pp_indices"][alone])
    np.testing.assert_array_equal(np.asarray(classes)[alone], recorded["pp_classes"][alone])
    assert alone.mean() > 0.99


@functools.cache
def detected(**options):
    return jax.device_get(
        jax.jit(functools.partial(detect, anchors=ANCHORS, **options))(pytorch()[1])
    )


def assert_equals_pytorch(found: Detections, expected: np.ndarray, *, box_tolerance: float):
    """`expected`: [B, M, 6] x0, y0, x1, y1, score, class from 1."""
    np.testing.assert_allclose(found.scores, expected[..., 4], atol=1e-6)
    np.testing.assert_array_equal(found.labels + 1, expected[..., 5])
    np.testing.assert_allclose(
        found.boxes[..., [1, 0, 3, 2]], expected[..., :4], atol=box_tolerance
    )
    assert found.valid.all()


def test_detections_equal_pytorch():
    assert_equals_pytorch(detected(), pytorch()[0]["pp_detections"], box_tolerance=1e-4)


def test_detections_in_image_pixels_equal_pytorch():
    recorded, outputs = pytorch()
    size = jnp.asarray(recorded["pp_img_size_wh"][:, ::-1].copy())
    scale = jnp.asarray(recorded["pp_img_scale"])
    found = detect(outputs, ANCHORS, clip_to=size / scale[:, None])
    assert_equals_pytorch(
        jax.device_get(found.to_image(scale, size)),
        recorded["pp_detections_scaled"],
        box_tolerance=2e-4,
    )


def test_soft_nms_of_the_300_best_equals_pytorch():
    recorded, _ = pytorch()
    found = detected(method="gaussian", pre_nms_top_k=300)
    expected = recorded["pp_detections_soft_top300"]
    # effdet's soft-NMS takes the class offset into the IoU, so its rounding differs: 1e-4 on scores.
    np.testing.assert_allclose(found.scores, expected[..., 4], atol=1e-4)
    assert (found.labels + 1 == expected[..., 5]).mean() > 0.98


@functools.cache
def official(group: str):
    with np.load(shared("goldens/automl_d0_128/det.npz")) as file:
        return {
            name.removeprefix(f"{group}/"): file[name] for name in file if name.startswith(group)
        }


def test_decode_equals_the_official_one():
    with np.load(shared("goldens/automl_d0_128/ref.npz")) as file:
        deltas = np.concatenate(
            [file[f"box/p{level}"].reshape(2, -1, 4) for level in SPEC.levels], axis=1
        )
    exact = model_spec("efficientdet-d0", image_size=(128, 128), aspects=EXACT_ASPECTS).anchors()
    anchors = np.concatenate([level.reshape(-1, 4) for level in exact.values()])
    found = box_ops.decode(jnp.asarray(deltas), jnp.asarray(anchors))
    expected = official("decode")["boxes"]
    np.testing.assert_allclose(found, expected, atol=1e-4, rtol=1e-5)


# The four ways the official code runs NMS per class; its numpy evaluation counts boxes one pixel
# wider and higher, and is the protocol of the published numbers.
@pytest.mark.parametrize(
    ("name", "function", "options"),
    [
        ("tf_per_class_hard", hard_nms, {}),
        ("tf_per_class_gaussian", soft_nms, {}),
        ("np_hard", hard_nms, {"pixel_offset": 1.0}),
        ("np_gaussian", soft_nms, {"pixel_offset": 1.0}),
    ],
)
def test_nms_equals_the_official_code(name, function, options):
    recorded = official("nms")
    boxes, scores, classes = (recorded[f"top5000/{key}"] for key in ("boxes", "scores", "classes"))
    order = np.argsort(-scores, axis=1, kind="stable")
    boxes = np.take_along_axis(boxes, order[..., None], 1)
    scores = np.take_along_axis(scores, order, 1)
    classes = np.take_along_axis(classes, order, 1).astype(np.int32)
    kept, kept_scores = jax.jit(jax.vmap(functools.partial(function, **options)))(
        boxes, scores, classes
    )
    scale = recorded["image_scales"][:, None, None]
    if name.startswith("np_"):  # [image, x0, y0, x1, y1, score, class], original pixels
        rows = recorded[f"top5000/{name}"]
        expected_boxes, expected_scores = rows[..., [2, 1, 4, 3]] / scale, rows[..., 5]
        expected_classes = rows[..., 6]
    else:
        expected_boxes, expected_scores, expected_classes = (
            recorded[f"top5000/{name}/{key}"] for key in ("boxes", "scores", "classes")
        )
        expected_boxes = expected_boxes / scale
    assert (kept >= 0).all()
    np.testing.assert_allclose(kept_scores, expected_scores, atol=1e-6)
    np.testing.assert_array_equal(np.take_along_axis(classes, kept, 1) + 1, expected_classes)
    found_boxes = np.take_along_axis(boxes, np.asarray(kept)[..., None], 1)
    np.testing.assert_allclose(found_boxes, expected_boxes, atol=1e-4)


def tiny_outputs(logit):
    """One 2×2 level, one anchor shape, two classes; all boxes on their anchors."""
    anchors = {3: np.array([[[[0, 0, 8, 8]], [[0, 8, 8, 16]]], [[[8, 0, 16, 8]], [[8, 8, 16, 16]]]],
                           np.float32)}  # fmt: skip
    logits = jnp.asarray(logit, jnp.float32).reshape(1, 2, 2, 1, 2)
    return Outputs({3: logits}, {3: jnp.zeros((1, 2, 2, 1, 4))}), anchors


def test_detections_by_hand():
    outputs, anchors = tiny_outputs([[2, -9], [-9, -9], [-9, 1], [-9, -9]])
    found = detect(outputs, anchors, score_threshold=0.5, max_detections=3)[0]
    np.testing.assert_array_equal(found.valid, [True, True, False])
    np.testing.assert_array_equal(found.labels, [0, 1, 0])
    np.testing.assert_allclose(found.boxes, [[0, 0, 8, 8], [8, 0, 16, 8], [0, 0, 0, 0]], atol=1e-5)
    np.testing.assert_allclose(found.scores, [1 / (1 + np.exp(-2)), 1 / (1 + np.exp(-1)), 0])


def test_nothing_found_is_all_padding():
    outputs, anchors = tiny_outputs(np.full((4, 2), -9))
    for method in ("hard", "gaussian"):
        found = detect(outputs, anchors, method=method, score_threshold=0.5)
        assert not found.valid.any() and (found.scores == 0).all() and (found.boxes == 0).all()


def test_more_candidates_than_anchors_is_fine():
    outputs, anchors = tiny_outputs(np.zeros((4, 2)))
    found = detect(outputs, anchors, pre_nms_top_k=5000, max_detections=100)
    assert found.boxes.shape == (1, 100, 4) and found.valid.sum() == 8


def test_unknown_nms_method():
    outputs, anchors = tiny_outputs(np.zeros((4, 2)))
    with pytest.raises(ValueError, match="'linear' is unknown; there are hard, gaussian"):
        detect(outputs, anchors, method="linear")


def test_to_image_scales_and_clips():
    boxes = jnp.array([[[-4.0, 2.0, 10.0, 50.0]]])
    found = Detections(
        boxes, jnp.ones((1, 1)), jnp.zeros((1, 1), jnp.int32), jnp.ones((1, 1), bool)
    ).to_image(jnp.array([2.0]), jnp.array([[30.0, 60.0]]))
    np.testing.assert_array_equal(found.boxes[0, 0], [0, 4, 20, 60])
