"""Where in a PyTorch file a network's tensors are: below which keys, behind which prefix.

Training scripts keep a state dict beside its moving average, and wrappers (data parallelism,
compilation, averaging, training benches, Lightning) put a prefix before every name. The network is
found by a tensor that all of its kind have: what stands before that tensor's name is taken off all.
"""

import dataclasses
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from effdet_jax.convert.rules import ConversionError

_AVERAGES = {"ema", "averaged", "average", "avg", "swa", "shadow", "teacher"}
# Where a file says which network it is: beside the state dict, or among the script's settings.
_SETTINGS = ("args", "hyper_parameters", "config", "cfg", "opt")
_NAMES = ("arch", "architecture", "model_name", "model")


@dataclasses.dataclass(frozen=True)
class _Place:
    """Where the tensors of a network are: in the dict below `keys`, behind `prefix`."""

    keys: tuple[str, ...]
    prefix: str

    @property
    def averaged(self) -> bool:
        words = re.split(r"[\W_]+", f"{'.'.join(self.keys)}.{self.prefix}".lower())
        return not _AVERAGES.isdisjoint(words)

    def __str__(self) -> str:
        return ".".join([*self.keys, self.prefix.removesuffix(".")]).strip(".")


def find_tensors(
    path: str, found: Any, markers: Sequence[str], *, raw: bool, notes: list[str]
) -> dict[str, np.ndarray]:
    """The tensors of the network inside, by the names that its program gives them.

    Args:
      path: of the file, for errors.
      found: dicts within dicts, arrays at some place.
      markers: names of tensors that tell a network, the most telling first.
      raw: the network itself where its moving average is there, too.
      notes: gets a line for each choice.

    Raises:
      ConversionError: there are no tensors by name.
    """
    dicts = dict(_dicts(found))
    if not dicts:
        raise ConversionError(f"'{path}' holds no state dict: no tensors by name")
    places = _places(dicts, markers)
    if not places:  # Whoever knows what it looks like says so.
        return max(dicts.values(), key=len)
    wanted = [place for place in places if place.averaged != raw]
    place = (wanted or places)[0]
    tensors, longer = dicts[place.keys], [other.prefix for other in places if other != place]
    longer = [prefix for prefix in longer if len(prefix) > len(place.prefix)]
    inside = {
        name.removeprefix(place.prefix): array
        for name, array in tensors.items()
        if name.startswith(place.prefix) and not name.startswith(tuple(longer))
    }
    notes.extend(_choices(found, place, places, raw))
    if place.prefix:
        notes.append(f"prefix '{place.prefix}' removed from {len(inside)} names")
        others = tuple(other.prefix for other in places if other.keys == place.keys)
        outside = [name for name in tensors if not name.startswith((*others, "anchor"))]
        if outside:
            shown = ", ".join(outside[:3]) + (", …" if len(outside) > 3 else "")
            notes.append(f"left out: {len(outside)} tensors outside '{place.prefix}' ({shown})")
        # Training benches keep anchors beside the model they wrap.
        inside |= {name: x for name, x in tensors.items() if name.startswith("anchor")}
    return inside


def _dicts(found: Any, keys: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Every dict with arrays in it, the outermost first, with the keys that lead to it."""
    if not isinstance(found, Mapping):
        return
    arrays = {str(name): x for name, x in found.items() if isinstance(x, np.ndarray)}
    if arrays:
        yield keys, arrays
    for key, value in found.items():
        yield from _dicts(value, (*keys, str(key)))


def _places(dicts: Mapping[tuple, Mapping[str, Any]], markers: Sequence[str]) -> list[_Place]:
    """Where networks are that have the first of the markers that anything has."""
    for marker in markers:
        places = [
            _Place(keys, name.removesuffix(marker))
            for keys, tensors in dicts.items()
            for name in tensors
            if name == marker or name.endswith(f".{marker}")
        ]
        if places:
            return places
    return []


def _choices(found: Any, place: _Place, places: Sequence[_Place], raw: bool) -> Iterator[str]:
    """A line on what was taken instead of what."""
    if place.keys:
        beside = sorted(str(name) for name in found if str(name) != place.keys[0])
        yield f"'{'.'.join(place.keys)}' taken" + (f", not {', '.join(beside)}" if beside else "")
    others = [str(other) or "the tensors without a prefix" for other in places if other != place]
    if others:
        kind = "moving averages" if place.averaged else "the network itself"
        hint = "" if raw else " (--raw takes the network itself)" if place.averaged else ""
        yield f"{kind} taken, not {', '.join(others)}{hint}"
    elif raw and place.averaged:
        yield "nothing but moving averages there"


def named_architecture(found: Any) -> str:
    """'tf_efficientdet_d0', where a file says which network it holds; '' where it doesn't."""
    if not isinstance(found, Mapping):
        return ""
    for settings in (found, *(found.get(key) for key in _SETTINGS)):
        if isinstance(settings, Mapping):
            for key in _NAMES:
                value = settings.get(key)
                if isinstance(value, str) and "efficient" in value:
                    return value
    return ""
