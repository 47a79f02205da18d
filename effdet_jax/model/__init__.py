"""The network in Flax linen: backbone, pyramid, heads. Arrays in, arrays out."""
