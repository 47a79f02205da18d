"""What heads learn and how predictions become detections: targets, losses, post-processing."""
