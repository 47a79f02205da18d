from effdet_jax.config import coco, finetune, get_config, plain
from effdet_jax.config_difference import Difference, nearest_recipe
from tests.tiny import changed_config


def test_a_recipe_as_it_is_differs_in_nothing():
    assert nearest_recipe(get_config()) == ("the defaults", [])
    assert nearest_recipe(finetune()) == ("finetune", [])
    assert nearest_recipe(coco("efficientdet-d3")) == ("d3, the reference's for COCO", [])


def test_what_data_decided_is_told_from_what_was_changed():
    config = finetune()
    config.batch_size, config.augment.colour = 16, 0.0
    expected = [Difference("batch_size", 16, None), Difference("augment.colour", 0.0, 0.2)]
    assert nearest_recipe(config) == ("finetune", expected)
    # As it comes out of a checkpoint.
    assert nearest_recipe(plain(config)) == ("finetune", expected)


def test_where_data_lie_says_nothing_of_the_recipe():
    config = changed_config(**{"data.dir": "x", "data.threads": 8, "seed": 3, "init": "w"})
    name, found = nearest_recipe(config)
    assert name == "the defaults"
    assert [one.knob for one in found] == ["seed", "init", "data.dir", "data.threads"]
