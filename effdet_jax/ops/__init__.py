"""Pure array functions of detection: boxes, anchors, matching, NMS, resampling."""
