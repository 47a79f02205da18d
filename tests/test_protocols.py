from effdet_jax.protocols import PROTOCOLS


def test_protocols_differ_in_the_way_of_suppression_alone():
    default, published = PROTOCOLS["default"], PROTOCOLS["published"]
    differing = {knob for knob, value in default.items() if published[knob] != value}
    assert default.keys() == published.keys() and differing == {"method", "pixel_offset"}
