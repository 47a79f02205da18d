import pytest

from effdet_jax.classifiers import CLASSIFIERS
from effdet_jax.model.counts import summarize
from effdet_jax.spec import model_spec

# arXiv:1905.11946, Lite by google/automl's README in millions; exactly as other programs count them.
PARAMETERS = {
    "efficientnet-b0": 5_288_548,
    "efficientnet-b1": 7_794_184,
    "efficientnet-b2": 9_109_994,
    "efficientnet-b3": 12_233_232,
    "efficientnet-b4": 19_341_616,
    "efficientnet-b5": 30_389_784,
    "efficientnet-b6": 43_040_704,
    "efficientnet-b7": 66_347_960,
    "efficientnet-lite0": 4_652_008,
    "efficientnet-lite1": 5_416_680,
    "efficientnet-lite2": 6_092_072,
    "efficientnet-lite3": 8_197_096,
    "efficientnet-lite4": 13_006_568,
}
SLOW = {
    "efficientnet-b3",
    "efficientnet-b4",
    "efficientnet-b5",
    "efficientnet-b6",
    "efficientnet-b7",
}
SLOW |= {"efficientnet-b2", "efficientnet-lite3", "efficientnet-lite4"}


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=[pytest.mark.slow] * (name in SLOW)) for name in PARAMETERS],
)
def test_parameters_are_the_published_ones(name):
    summary = summarize(model_spec(name))
    assert summary["parameters"]["total"] == PARAMETERS[name]
    assert summary["parameters"].keys() == {"backbone", "classifier", "total"}
    assert summary["anchors"]["total"] == 0


def test_every_classifier_is_counted():
    assert CLASSIFIERS.keys() == PARAMETERS.keys()
