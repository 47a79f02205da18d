"""The device mesh, image rows split over it, several processes as one program."""
