"""How published results were evaluated: `config.eval.protocol` names one."""

# How detections are made of raw outputs for COCO's metrics: keywords of `postprocess.detect`.
PROTOCOLS = {
    # As PyTorch's effdet, but that it cuts boxes to the image before, not after.
    "default": {
        "method": "hard",
        "iou_threshold": 0.5,
        "sigma": 0.5,
        "score_threshold": 0.0,
        "max_detections": 100,
        "pre_nms_top_k": 5000,
        "pixel_offset": 0.0,
    },
    # Behind the published AP of D0-D7x: google/automl's numpy NMS, its default until 2020-11-19.
    "published": {
        "method": "gaussian",
        "iou_threshold": 0.5,  # Of hard NMS only.
        "sigma": 0.5,
        "score_threshold": 0.0,
        "max_detections": 100,
        "pre_nms_top_k": 5000,
        "pixel_offset": 1.0,  # Sides are counted as in VOC: x2 - x1 + 1.
    },
}
