import dataclasses
import json
import time

import numpy as np
import pytest

from effdet_jax.detection.anchor_fit import aspect_factors, best_iou, fit_anchors, k_means
from effdet_jax.spec import model_spec

D0 = model_spec("efficientdet-d0")
SMALL = model_spec("efficientdet-d0", image_size=(128, 192))


def boxes_of(sides, rng, size=512, ratios=(0.5, 2.0)):
    """Boxes of these sides (square roots of their areas) anywhere within an image."""
    ratio = np.exp(rng.uniform(*np.log(ratios), len(sides)))
    height, width = (
        np.minimum(sides / np.sqrt(ratio), size),
        np.minimum(sides * np.sqrt(ratio), size),
    )
    y, x = rng.uniform(0, size - height), rng.uniform(0, size - width)
    return np.stack([y, x, y + height, x + width], 1).astype(np.float32)


def coco_like(rng, count=4000):
    """Sizes as COCO's at 512 px: 41 % below 32 px, 34 % to 96 px, 24 % beyond, before resizing."""
    low, high = np.array([[4, 26], [26, 77], [77, 480]]).T
    kind = rng.choice(3, count, p=(0.41, 0.35, 0.24))
    sides = np.exp(rng.uniform(np.log(low[kind]), np.log(high[kind])))
    return boxes_of(sides, rng), rng.integers(0, 80, count)


NAMES_80 = [f"class {number}" for number in range(80)]


def test_the_best_iou_is_that_of_all_anchors(rng):
    corner = rng.uniform(-10, 120, (50, 2))
    boxes = np.concatenate([corner, corner + rng.uniform(2, 120, (50, 2))], 1).astype(np.float32)
    anchors = np.concatenate([level.reshape(-1, 4) for level in SMALL.anchors().values()])
    low = np.maximum(boxes[:, None, :2], anchors[:, :2])
    high = np.minimum(boxes[:, None, 2:], anchors[:, 2:])
    shared = np.prod(np.maximum(high - low, 0), -1)
    area = np.prod(boxes[:, 2:] - boxes[:, :2], 1)
    areas = np.prod(anchors[:, 2:] - anchors[:, :2], 1)
    expected = (shared / (area[:, None] + areas - shared)).max(1)
    np.testing.assert_allclose(best_iou(boxes, SMALL), expected, rtol=1e-5, atol=1e-6)


def test_an_anchor_reaches_itself():
    # The smallest anchor of D0 about the first cell's centre, 32 px at 4 strides of 8.
    np.testing.assert_allclose(best_iou(np.array([[-12, -12, 20, 20]]), D0), 1.0)
    # 16×16 within one of 22.4×44.8, whose area is a little smaller than 32×32.
    found = best_iou(np.array([[4, 4, 20, 20]]), D0)
    np.testing.assert_allclose(found, 256 / (22.4 * 44.8), rtol=1e-6)


def test_smaller_anchors_for_smaller_objects(rng):
    sides = np.concatenate([np.full(900, 60.0), np.full(100, 17.0)])
    labels = np.repeat([0, 1], [900, 100])
    fit = fit_anchors(boxes_of(sides, rng, ratios=(0.9, 1.1)), labels, ("cell", "platelet"), D0)
    # 17² / 32² = 0.28: the smallest anchor at scale 4 is too large for all of them.
    assert fit.unmatched_of_class() == {"cell": 0.0, "platelet": 1.0}
    assert fit.unmatched() == pytest.approx(0.1)
    assert 1.5 <= fit.anchor_scale <= 2.5 and not fit.keeps_defaults
    after = 100 * fit.unmatched(fit.anchor_scale)
    assert after < 2
    assert fit.reason == (
        f"10 % of boxes (platelet 100 %) reach no anchor at scale 4; {after:.0f} % at "
        f"{fit.anchor_scale:g}"
    )
    assert fit.banner() == [f"{fit.reason}: --config.model.anchor_scale={fit.anchor_scale:g}"]
    assert fit.unmatched_of_size() == {"small": 1.0, "medium": 0.0}
    assert any(line.startswith("unmatched: platelet 100 % (at ") for line in fit.lines())


def test_what_a_spec_has_already_is_kept(rng):
    sides, labels = np.full(200, 18.0), np.zeros(200, int)
    spec = dataclasses.replace(D0, anchor_scale=2.0)
    fit = fit_anchors(boxes_of(sides, rng, ratios=(0.9, 1.1)), labels, ("cell",), spec)
    assert fit.anchor_scale == 2.0 and fit.keeps_defaults and fit.banner() == []
    assert fit.reason.endswith("reach no anchor at scale 2: the model's own anchors fit")


def test_sizes_like_cocos_keep_the_published_anchors(rng):
    boxes, labels = coco_like(rng)
    fit = fit_anchors(boxes, labels, NAMES_80, D0)
    assert fit.unmatched() > 0.25  # They do miss small objects, and smaller ones would others.
    assert fit.keeps_defaults and fit.keeps_aspects
    assert fit.reason.endswith(" at 2: no scale mends that, the model's own stays")
    assert "keep the defaults" in "\n".join(fit.lines())
    assert fit.as_json()["keep_defaults"]


def test_objects_too_small_for_any_anchor_want_larger_images(rng):
    sides, labels = np.repeat([60.0, 5.0], 100), np.repeat([0, 1], 100)
    fit = fit_anchors(boxes_of(sides, rng, ratios=(0.9, 1.1)), labels, ("cell", "dust"), D0)
    assert fit.keeps_defaults and list(fit.too_small) == ["dust"]
    assert fit.banner()[-1].startswith("median sides at 512×512: dust 5 px: too small for any")


def test_long_objects_want_other_aspects(rng):
    boxes = boxes_of(np.full(300, 60.0), rng, ratios=(4.8, 5.2))
    fit = fit_anchors(boxes, np.zeros(300, int), ("ship",), D0)
    assert fit.unmatched() > 0.9 and fit.keeps_defaults and "no scale mends that" in fit.reason
    np.testing.assert_allclose(fit.aspects, 5.0, atol=0.3)
    assert not fit.keeps_aspects and np.mean(fit.aspects_iou < 0.5) < 0.05
    ratios = ", ".join(f"{ratio:g}" for ratio in fit.aspects)
    assert fit.banner()[-1].endswith(f'--config.model.aspects="({ratios})"')


def test_a_class_with_few_boxes_decides_nothing(rng):
    sides, labels = np.repeat([60.0, 17.0], (200, 9)), np.repeat([0, 1], (200, 9))
    fit = fit_anchors(boxes_of(sides, rng, ratios=(0.9, 1.1)), labels, ("cell", "rare"), D0)
    assert fit.unmatched_of_class()["rare"] == 1.0 and fit.keeps_defaults


def test_the_json_has_shares_before_and_after(rng):
    sides, labels = np.repeat([60.0, 17.0], (90, 10)), np.repeat([0, 1], (90, 10))
    fit = fit_anchors(boxes_of(sides, rng, ratios=(0.9, 1.1)), labels, ("cell", "platelet"), D0)
    found = json.loads(json.dumps(fit.as_json()))
    assert found["boxes"] == 100 and found["image_size"] == [512, 512]
    assert found["anchor_scale"] == 4.0 and found["best_anchor_scale"] == fit.anchor_scale
    assert found["unmatched"]["4"] == pytest.approx(0.1)
    assert found["classes"]["platelet"]["now"] == 1.0 > found["classes"]["platelet"]["best"]
    assert found["sizes"]["small"]["now"] == 1.0 and not found["keep_defaults"]
    assert len(found["kmeans_aspects"]) == 3 and found["reason"] == fit.reason


def test_k_means_finds_the_sizes_there_are():
    sizes = np.repeat([[10.0, 10.0], [10.0, 40.0], [100.0, 90.0]], (5, 7, 3), axis=0)
    np.testing.assert_allclose(k_means(sizes, 3), [[10, 10], [10, 40], [100, 90]])
    assert k_means(sizes[:2], 9).tolist() == [[10, 10]]


def test_aspects_keep_the_area():
    assert aspect_factors((4.0, 1.0, 0.25)) == ((2.0, 0.5), (1.0, 1.0), (0.5, 2.0))
    with pytest.raises(ValueError, match="aspects 1, -2 must be above 0"):
        aspect_factors((1.0, -2.0))


def test_no_boxes():
    with pytest.raises(ValueError, match="no boxes"):
        fit_anchors(np.zeros((0, 4)), np.zeros(0, int), ("cell",), D0)


def test_a_large_set_takes_seconds(rng):
    boxes, labels = coco_like(rng, 120_000)
    started = time.process_time()
    fit = fit_anchors(boxes, labels, NAMES_80, D0)
    assert len(fit.labels) == 100_000 and time.process_time() - started < 10
