"""The paper's comparisons, trained small: pyramids, fusions and scalings on rendered scenes."""
