from effdet_jax.config import coco, finetune, get_config, plain
from effdet_jax.run.decisions import Decision
from effdet_jax.run.recipes import Difference, nearest_recipe
from tests.tiny import changed_config


def test_a_recipe_as_it_is_differs_in_nothing():
    assert nearest_recipe(plain(get_config())) == ("the defaults", [])
    assert nearest_recipe(plain(finetune())) == ("finetune", [])
    expected = ("d3, the reference's for COCO", [])
    assert nearest_recipe(plain(coco("efficientdet-d3"))) == expected


def test_what_data_decided_is_told_from_what_was_changed():
    config = finetune()
    config.augment.colour = 0.0
    changed = Difference("augment.colour", 0.0, 0.2)
    decided = Difference("batch_size", 16, None, "205 images")
    decisions = [Decision("batch_size", 16, "205 images")]
    assert nearest_recipe(plain(config), decisions) == ("finetune", [changed, decided])
    config.batch_size = 16  # As it comes out of a checkpoint.
    stored = Difference("batch_size", 16, None)
    assert nearest_recipe(plain(config)) == ("finetune", [changed, stored])


def test_where_data_lie_says_nothing_of_the_recipe():
    config = changed_config(**{"data.dir": "x", "data.threads": 8, "seed": 3, "init": "w"})
    name, found = nearest_recipe(plain(config))
    assert name == "the defaults"
    assert [one.knob for one in found] == ["data.dir", "data.threads", "init", "seed"]
