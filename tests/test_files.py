import pytest

from effdet_jax.files import DestinationError, put_in_place, text_in_place


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


def test_text_stands_in_the_place_of_an_earlier_one_only_when_it_is_whole(tmp_path):
    target = tmp_path / "new" / "t.txt"
    for text in ("erst", "größer\r\n"):
        with text_in_place(str(target), newline="") as file:
            file.write(text)
    with pytest.raises(RuntimeError), text_in_place(str(target)) as file:
        file.write("half")
        raise RuntimeError
    assert target.read_bytes() == "größer\r\n".encode()
    assert list((tmp_path / "new").iterdir()) == [target]
