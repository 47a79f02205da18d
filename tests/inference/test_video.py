import os
import struct

import numpy as np
import pytest
from PIL import Image

from effdet_jax.files import DestinationError
from effdet_jax.inference.video import Video, VideoError, VideoWriter, predict_frames


def scene(number, size=(48, 64)):
    """A frame that tells its number: red grows by 20, blue is on the right."""
    image = np.zeros((*size, 3), np.uint8)
    image[..., 0] = 20 * (number % 12)
    image[:, size[1] // 2 :, 2] = 250
    return image


def write_video(path, count, rate=10.0, size=(48, 64)):
    with VideoWriter(path, size, rate) as writer:
        for number in range(count):
            writer.write(scene(number, size), number / rate)
    return path


def numbers(frames):
    """The numbers that the frames tell."""
    return [round(float(frame.image[..., 0].mean()) / 20) for frame in frames]


@pytest.mark.parametrize("ending", [".mp4", ".webm"])
def test_what_is_written_is_read_back(tmp_path, ending):
    video = Video(write_video(tmp_path / f"new/a{ending}", 9))
    assert (video.size, video.num_frames) == ((48, 64), 9)
    assert video.frames_per_second == pytest.approx(10)
    for _ in range(2):  # As often as one likes.
        frames = list(video)
        assert [frame.number for frame in frames] == numbers(frames) == list(range(9))
        np.testing.assert_allclose([frame.seconds for frame in frames], np.arange(9) / 10)
        assert (video.num_read, video.num_missing) == (9, 0)
    blue = frames[0].image[..., 2]  # RGB.
    assert blue.dtype == np.uint8 and blue[:, 40:].mean() > 200 and blue[:, :24].mean() < 50


def test_frames_are_read_as_they_are_asked_for(tmp_path):
    video = Video(write_video(tmp_path / "a.mp4", 9))
    calls = []

    def predict(images):
        calls.append(len(images))
        return [round(image[..., 0].mean() / 20) for image in images]

    found = predict_frames(predict, video, batch_size=4)
    assert calls == [] and video.num_read == 0
    frame, what = next(found)
    assert (frame.number, what, calls, video.num_read) == (0, 0, [4], 4)
    assert [(frame.number, what) for frame, what in found] == [(n, n) for n in range(1, 9)]
    assert calls == [4, 4, 1]


def test_a_variable_rate_keeps_its_times(tmp_path):
    # A GIF's frames have durations of their own.
    first, *others = (Image.fromarray(scene(number)) for number in range(5))
    first.save(
        tmp_path / "a.gif", save_all=True, append_images=others, duration=[100, 300, 50, 50, 200]
    )
    video = Video(tmp_path / "a.gif")
    frames = list(video)
    np.testing.assert_allclose([frame.seconds for frame in frames], [0, 0.1, 0.4, 0.45, 0.5])
    assert video.num_missing == 0
    # At 10/s the second is shown at 0.1, 0.2 and 0.3, and 0.4 is shared by two, the later shown.
    with VideoWriter(tmp_path / "a.mp4", video.size, 10.0) as writer:
        for frame in frames:
            writer.write(frame.image, frame.seconds)
    assert numbers(Video(tmp_path / "a.mp4")) == [0, 1, 1, 1, 3, 4]


def test_a_broken_tail_is_counted(tmp_path):
    data = bytearray(write_video(tmp_path / "a.mp4", 40).read_bytes())
    index = data.index(b"moov") - 4
    middle = (data.index(b"mdat") + index) // 2
    data[middle:index] = bytes(index - middle)
    (tmp_path / "broken.mp4").write_bytes(data)
    video = Video(tmp_path / "broken.mp4")
    frames = list(video)
    assert 5 < len(frames) < 35 and video.num_read == len(frames)
    assert video.num_missing == 40 - len(frames)
    (tmp_path / "cut.mp4").write_bytes(data[:middle])  # Without the index nothing can be read.
    with pytest.raises(VideoError, match="cut off before its index"):
        Video(tmp_path / "cut.mp4")


def test_a_rotation_in_the_file_is_applied(tmp_path):
    data = bytearray(write_video(tmp_path / "a.mp4", 3).read_bytes())
    matrix = data.index(b"tkhd") + 4 + 40  # Past version, times, ids, duration and layers.
    assert struct.unpack_from(">9i", data, matrix)[0] == 1 << 16  # The identity.
    turn = (0, 1 << 16, 0, -(1 << 16), 0, 0, 0, 0, 1 << 30)  # By 90° clockwise, as phones write it.
    struct.pack_into(">9i", data, matrix, *turn)
    (tmp_path / "turned.mp4").write_bytes(data)
    video = Video(tmp_path / "turned.mp4")
    assert video.size == (64, 48)
    blue = next(iter(video)).image[..., 2]
    assert blue.shape == (64, 48)
    assert blue[40:].mean() > 200 and blue[:24].mean() < 50  # What was right is below.


def test_what_is_no_video_is_refused(tmp_path):
    (tmp_path / "empty.mp4").write_bytes(b"")
    (tmp_path / "text.mp4").write_text("no video at all " * 50)
    for name, message in {
        "none.mp4": "no such file",
        "empty.mp4": "it is none",
        "text.mp4": "none",
    }.items():
        with pytest.raises(VideoError, match=message):
            Video(tmp_path / name)
    VideoWriter(tmp_path / "nothing.mp4", (48, 64), 10).close()
    with pytest.raises(VideoError, match="opened as a video|no frame that can be read"):
        Video(tmp_path / "nothing.mp4")


def test_nothing_is_written_over(tmp_path):
    path = write_video(tmp_path / "a.mp4", 3)
    before = path.read_bytes()
    os.link(path, tmp_path / "b.mp4")
    for other in ("a.mp4", "b.mp4"):  # By any of its names.
        with pytest.raises(DestinationError, match="is the video itself"):
            VideoWriter(tmp_path / other, (48, 64), 10, source=path, overwrite=True)
    with pytest.raises(DestinationError, match="exists"):
        VideoWriter(path, (48, 64), 10)
    with pytest.raises(VideoError, match=r"ends in \.mp4 or \.webm"):
        VideoWriter(tmp_path / "a.avi", (48, 64), 10)
    (tmp_path / "file").write_text("")
    with pytest.raises(DestinationError, match="can't write"):
        VideoWriter(tmp_path / "file" / "a.mp4", (48, 64), 10)
    assert path.read_bytes() == before
    with VideoWriter(path, (20, 30), 10, overwrite=True) as writer:
        writer.write(scene(0), 0.0)  # Resized: OpenCV would leave it out without a word.
    assert Video(path).size == (20, 30) and len(list(Video(path))) == 1


def test_an_interrupted_video_can_be_watched(tmp_path):
    with pytest.raises(KeyboardInterrupt), VideoWriter(tmp_path / "a.mp4", (48, 64), 10) as writer:
        for number in range(9):
            writer.write(scene(number), number / 10)
            if number == 4:
                raise KeyboardInterrupt
    assert numbers(Video(tmp_path / "a.mp4")) == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("rate", [29.97, 240.0, 0.5])
def test_odd_rates_and_sizes(tmp_path, rate):
    video = Video(write_video(tmp_path / "a.mp4", 5, rate, (77, 131)))
    assert video.size == (76, 130) and numbers(video) == list(range(5))
    assert video.frames_per_second == pytest.approx(rate, rel=1e-3)
