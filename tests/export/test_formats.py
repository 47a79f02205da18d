import pytest

from effdet_jax.export.formats import FORMATS, Format, format_of
from effdet_jax.export.verify import ExportError


def test_the_ending_chooses(monkeypatch):
    assert format_of("a.b/c.stablehlo") is FORMATS[".stablehlo"]
    toy = Format(lambda *arguments: {}, lambda *arguments: [])
    monkeypatch.setitem(FORMATS, ".toy", toy)
    assert format_of("c.toy") is toy
    with pytest.raises(ExportError, match="no format '.onx'; OUT ends in .stablehlo, .toy$"):
        format_of("c.onx")
    with pytest.raises(ExportError, match="'stablehlo': there is no format ''; OUT ends in"):
        format_of("stablehlo")
