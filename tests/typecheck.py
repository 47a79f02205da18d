"""The checker of annotations under pytest: as PEP 484 says, an int is a fine float."""

from beartype import BeartypeConf, beartype

check = beartype(conf=BeartypeConf(is_pep484_tower=True))
