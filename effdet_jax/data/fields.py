"""Values as annotation files write them: numbers as text, flags as words, ids of any type."""

import math
from collections.abc import Sequence
from typing import Any


def number(value: Any) -> float | None:
    """The number that a value is or spells ('48.0'); None if it is none, NaN and infinities too."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        found = float(value)
    except ValueError:
        return None
    return found if math.isfinite(found) else None


def numbers(values: Any) -> list[float] | None:
    """The numbers of a list, a tuple or a text such as '[1, 2]'; None if it isn't all numbers."""
    if isinstance(values, str):
        values = values.strip(" []()").replace(",", " ").split()
    if not isinstance(values, Sequence):
        return None
    found = [number(value) for value in values]
    return None if None in found else found


def flag(value: Any) -> bool | None:
    """Whether a value says yes: 1, '1', 'true'; no: 0, '0', 'false', 0.0, nothing; None if neither."""
    text = str(value).strip().lower()
    if text in ("0", "0.0", "false", "no", "none", ""):
        return False
    return True if text in ("1", "1.0", "true", "yes") else None


def identity(value: Any) -> int | str | None:
    """An id as a whole number or text; None if the value can be neither."""
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value if isinstance(value, int | str) and not isinstance(value, bool) else None
