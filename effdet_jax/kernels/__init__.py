"""Speed only: a faster form of an op for one platform. The plain form stands in `ops`."""
