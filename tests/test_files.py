import pytest

from effdet_jax.files import DestinationError, put_in_place


def test_nothing_partial_is_left(tmp_path):
    target = tmp_path / "new" / "w.bin"
    with pytest.raises(RuntimeError), put_in_place(str(target), overwrite=False) as aside:
        with open(aside, "w") as file:
            file.write("half")
        raise RuntimeError
    assert list((tmp_path / "new").iterdir()) == []
    for text in ("first", "second"):
        with put_in_place(str(target), overwrite=True) as aside, open(aside, "w") as file:
            file.write(text)
        assert target.read_text() == text
    assert list((tmp_path / "new").iterdir()) == [target]
    with (
        pytest.raises(DestinationError, match="w.bin' exists; give another destination, or --over"),
        put_in_place(str(target), overwrite=False),
    ):
        pass
    assert target.read_text() == "second"
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(DestinationError, match="can't write into"),
        put_in_place(str(tmp_path / "file" / "w"), overwrite=False),
    ):
        pass
