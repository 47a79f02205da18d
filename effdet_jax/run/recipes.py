"""How the config of a run differs from the recipe that it is nearest to."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from effdet_jax.config import OPEN, coco, finetune, flatten, get_config, plain
from effdet_jax.run.decisions import Decision

# These say what is trained on and where it is told, not how.
_PLACES = ("data.", "init", "seed", "log.")


@dataclasses.dataclass(frozen=True)
class Difference:
    """A knob that isn't as the recipe has it.

    Attributes:
      knob: its key.
      value: what it is.
      recipe: what the recipe says; None where it leaves the knob open.
      reason: why it was decided so; '' if it was set.
    """

    knob: str
    value: Any
    recipe: Any
    reason: str = ""


def nearest_recipe(
    config: Mapping[str, Any], decisions: Sequence[Decision] = ()
) -> tuple[str, list[Difference]]:
    """The name of the recipe with the fewest differing knobs, and those; open knobs don't count.

    Recipes are the defaults, `finetune` and the reference's of the config's model.

    Args:
      config: plain, as it is stored in a checkpoint.
      decisions: that replace what it leaves open.
    """
    flat = flatten(config) | {made.knob: made.value for made in decisions}
    reasons = {made.knob: made.reason for made in decisions}
    model = flat["model.name"]
    recipes = {
        "finetune": finetune(),
        "the defaults": get_config(),
        f"{model.removeprefix('efficientdet-')}, the reference's for COCO": coco(model),
    }
    found = {
        name: _differences(flat, flatten(plain(recipe)), reasons)
        for name, recipe in recipes.items()
    }

    def distance(name: str) -> int:
        how = (one for one in found[name] if not one.knob.startswith(_PLACES))
        return sum(one.recipe is not None for one in how)

    nearest = min(found, key=distance)
    return nearest, found[nearest]


def _differences(
    flat: Mapping[str, Any], recipe: Mapping[str, Any], reasons: Mapping[str, str]
) -> list[Difference]:
    """The knobs that `recipe` has otherwise or leaves open, by key."""
    found = []
    for knob in sorted(flat.keys() & recipe.keys()):
        value, theirs = flat[knob], recipe[knob]
        if value != theirs:
            is_open = knob in OPEN and theirs == OPEN[knob]
            reason = reasons.get(knob, "")
            found.append(Difference(knob, value, None if is_open else theirs, reason))
    return found
