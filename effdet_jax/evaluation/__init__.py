"""Detections against ground truth: COCO's metrics, every image once."""
