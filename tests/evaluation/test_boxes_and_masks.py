import numpy as np
import pytest

from effdet_jax.data.synthetic import Shapes
from effdet_jax.detection.postprocess import Detections
from effdet_jax.detection.retina_segment import DetectionsAndMasks
from effdet_jax.detection.segment import Masks
from effdet_jax.evaluation.boxes_and_masks import JointScorer


def test_the_truth_found_is_perfect_in_both():
    source = Shapes((64, 64), 3, masks=True)
    scorer, rows = JointScorer(source), []
    for index in range(3):
        truth, mask = source[index].truth, source[index].mask
        count = len(truth.boxes)
        boxes = Detections(truth.boxes, np.ones(count, "f4"), truth.labels, np.ones(count, bool))
        # Cells that aren't judged may show anything.
        masks = Masks(np.where(mask == 255, 1, mask).astype(np.uint8))
        rows += scorer.rows(index, DetectionsAndMasks(boxes, masks))
    result = scorer.evaluation(rows, unreadable=[], first={}, loss={})
    assert result.summary["AP"] == pytest.approx(1.0) and result.summary["mIoU"] == 1.0
    assert all("bbox" in row for row in result.results)
    assert len(result.results) + len(result.masks.results) == len(rows)
    assert "mIoU 1.000" in "\n".join(result.lines())
    assert result.to_dict()["masks"]["summary"]["mIoU"] == 1.0
