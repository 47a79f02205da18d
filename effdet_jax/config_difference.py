"""How a config differs from the recipe it is nearest to."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

from ml_collections import ConfigDict

from effdet_jax.config import OPEN, coco, finetune, flatten, get_config, plain

# These say what is trained on, not how.
_PLACES = ("data.", "init", "seed", "log.")


@dataclasses.dataclass(frozen=True)
class Difference:
    """A knob that isn't as the recipe has it.

    Attributes:
      knob: its key.
      value: what it is.
      recipe: what the recipe says; None where it leaves the knob open.
    """

    knob: str
    value: Any
    recipe: Any


def nearest_recipe(config: ConfigDict | Mapping[str, Any]) -> tuple[str, list[Difference]]:
    """The name of the recipe with the fewest differing knobs, and those; open knobs don't count.

    Recipes are the defaults, `finetune` and the reference's of the config's model.

    Args:
      config: whole, or as it is stored in a checkpoint.
    """
    flat = flatten(plain(config))
    model = flat.get("model.name", "")
    recipes: dict[str, Callable[[], ConfigDict]] = {
        "finetune": finetune,
        "the defaults": get_config,
        f"{model.removeprefix('efficientdet-')}, the reference's for COCO": lambda: coco(model),
    }
    found = {name: differences(flat, make()) for name, make in recipes.items()}

    def distance(name: str) -> int:
        return sum(
            one.recipe is not None and not one.knob.startswith(_PLACES) for one in found[name]
        )

    nearest = min(found, key=distance)
    return nearest, found[nearest]


def differences(flat: Mapping[str, Any], recipe: ConfigDict) -> list[Difference]:
    """The knobs of a flat config that `recipe` has otherwise or leaves open, in the recipe's order."""
    found = []
    for knob, theirs in flatten(plain(recipe)).items():
        if knob in flat and flat[knob] != theirs:
            left_open = knob in OPEN and theirs == OPEN[knob]
            found.append(Difference(knob, flat[knob], None if left_open else theirs))
    return found
