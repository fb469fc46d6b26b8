"""Data sets by name: what is loaded, that the test split stays apart, and what is said if not."""

from __future__ import annotations

import gzip
import struct
import wave
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from evaluation.data import folders
from evaluation.data.images import DataError, ImageData
from evaluation.data.partition import by_owner, dirichlet_by_class, iid
from evaluation.data.sources import DEBIAN_FASHION, SOURCES, available, load
from evaluation.data.speech import WORDS, log_mel, read_clip

DataFolder = Callable[[str], Path]

SHAPES = {
    "digits": (1, 8, 8),
    "femnist": (1, 28, 28),
    "openimage": (3, 64, 64),
    "speech": (1, 32, 32),
}


def write_idx(path: Path, array: np.ndarray) -> None:
    head = struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape)
    with gzip.open(path, "wb") as file:
        file.write(head + array.astype(np.uint8).tobytes())


def make_fashion(root: Path) -> Path:
    root.mkdir()
    for split, count in (("train", 20), ("t10k", 10)):
        labels = np.arange(count) % 10
        write_idx(root / f"{split}-images-idx3-ubyte.gz", np.full((count, 28, 28), count))
        write_idx(root / f"{split}-labels-idx1-ubyte.gz", labels)
    return root


def of_name(name: str, data_folder: DataFolder) -> ImageData:
    return load(name, data_folder(name) if name != "digits" else None)


@pytest.mark.parametrize("name", sorted(SHAPES))
def test_every_source_has_its_form(name: str, data_folder: DataFolder) -> None:
    """Images are floats in [0, 1] of the source's shape, labels fit, twice the same."""
    data = of_name(name, data_folder)
    assert (data.name, data.shape) == (name, SHAPES[name])
    for images in (data.images, data.test_images):
        assert images.dtype == np.float32
        assert images.min() >= 0
        assert images.max() <= 1
    again = load(name, data_folder(name) if name != "digits" else None)
    assert np.array_equal(data.images, again.images)


@pytest.mark.parametrize("name", sorted(SHAPES))
def test_no_client_has_a_sample_of_the_test_split(name: str, data_folder: DataFolder) -> None:
    """Partitions number training samples only, and no test image is one of them in memory.

    Fault F3: the original tested on the clients' own training data.
    """
    data = of_name(name, data_folder)
    parts = iid(data.labels, 2, seed=1) + dirichlet_by_class(data.labels, 2, seed=1)
    assert max(int(part.max()) for part in parts) < len(data.labels)
    assert not np.may_share_memory(data.images, data.test_images)


def test_a_test_split_that_is_training_data_is_refused() -> None:
    """Handing the training images over as test images is an error, also as a part of them."""
    images = np.zeros((4, 1, 2, 2), dtype=np.float32)
    labels = np.zeros(4, dtype=np.int64)
    for test in (images, images[2:]):
        with pytest.raises(DataError, match="the test split is training data"):
            ImageData("made", images, labels, test, labels[: len(test)], 2)


def test_a_file_in_both_splits_is_refused(data_folder: DataFolder) -> None:
    """A sample that the tables name for training and for the test ends loading with its name."""
    root = data_folder("femnist")
    table = root / "client_data_mapping" / "test.csv"
    table.write_text(table.read_text().replace("x.png", "a.png"))
    with pytest.raises(DataError, match=r"a\.png is in the training split and in the test split"):
        load("femnist", root)


def test_the_digits_split_is_the_same_in_every_class() -> None:
    """Where a source has no test split, every fifth sample of each class is held out."""
    data = load("digits")
    assert len(data.labels) + len(data.test_labels) == 1_797
    for label in range(10):
        held, kept = (data.test_labels == label).sum(), (data.labels == label).sum()
        assert held == -(-(held + kept) // 5)


def test_mnist5k_is_5_000_digits_of_which_every_fifth_of_a_class_is_held_out() -> None:
    """4,000 to train on and 1,000 to test, as many of each class, and no image is in both."""
    data = load("mnist5k")
    assert (data.shape, data.classes) == ((1, 28, 28), 10)
    assert np.bincount(data.labels).tolist() == [400] * 10
    assert np.bincount(data.test_labels).tolist() == [100] * 10
    trained = {image.tobytes() for image in data.images}
    assert len(trained) == 4_000
    assert not trained & {image.tobytes() for image in data.test_images}


def test_femnist_keeps_writers_and_labels(data_folder: DataFolder) -> None:
    """Writers are numbered in the order of their first rows, labels are those of the table."""
    data = load("femnist", data_folder("femnist"))
    assert data.clients is not None
    assert data.clients.tolist() == [0, 0, 1, 1, 2]
    assert data.labels.tolist() == [0, 1, 2, 3, 4]
    assert data.images[2].max() == pytest.approx(20 / 255)
    assert [part.tolist() for part in by_owner(data.clients, 2)] == [[0, 1], [2, 3]]


def test_openimage_is_rgb_and_scaled_down(data_folder: DataFolder) -> None:
    """Photographs keep their colours; files of the splits may have the same names."""
    data = load("openimage", data_folder("openimage"))
    assert data.images[2].mean(axis=(1, 2)) == pytest.approx([1.0, 0.0, 80 / 255], abs=0.02)
    assert (data.classes, data.labels.max()) == (596, 595)


def test_speech_labels_are_words(data_folder: DataFolder) -> None:
    """The label of a clip is its word's place in alphabetical order, as in the label counts."""
    data = load("speech", data_folder("speech"))
    assert [WORDS[label] for label in data.labels] == ["yes", "no", "zero"]
    assert data.test_labels.tolist() == [0]
    assert list(WORDS) == sorted(WORDS)
    assert data.classes == len(WORDS) == 35


def test_speech_as_google_publishes_it(tmp_path: Path, data_folder: DataFolder) -> None:
    """Folders by word with a testing list are taken too; nobody gets the validation clips."""
    clip = next((data_folder("speech") / "train").glob("*.wav")).read_bytes()
    root = tmp_path / "google"
    for word in WORDS:
        (root / word).mkdir(parents=True)
        for speaker in ("aa", "bb", "cc"):
            (root / word / f"{speaker}_nohash_0.wav").write_bytes(clip)
    (root / "testing_list.txt").write_text("".join(f"{word}/bb_nohash_0.wav\n" for word in WORDS))
    (root / "validation_list.txt").write_text("yes/cc_nohash_0.wav\n")
    data = load("speech", root)
    assert (len(data.labels), len(data.test_labels)) == (69, 35)
    assert data.clients is not None
    assert len(np.unique(data.clients)) == 2
    (root / "tree" / "aa_nohash_0.wav").unlink()
    for path in (root / "tree").iterdir():
        path.unlink()
    (root / "tree").rmdir()
    with pytest.raises(DataError, match="tree is missing"):
        load("speech", root)


@pytest.mark.parametrize("low, high", [(200.0, 400.0), (400.0, 1_000.0), (1_000.0, 3_000.0)])
def test_a_higher_tone_is_in_a_higher_band(low: float, high: float) -> None:
    """The picture of a tone is brightest in the band of its pitch, all of the time."""
    time_s = np.arange(16_000) / 16_000
    pictures = [
        log_mel(np.sin(2 * np.pi * pitch * time_s).astype(np.float32)) for pitch in (low, high)
    ]
    below, above = (picture[:, 8:24].argmax(axis=0) for picture in pictures)
    assert below.max() < above.min()
    assert len(set(below.tolist())) == 1
    assert pictures[0].max() == pytest.approx(1.0)


def test_loudness_does_not_matter_and_silence_is_black() -> None:
    """A clip and the same at a tenth are one picture; a silent one is 0 everywhere."""
    noise = np.random.default_rng(0).normal(size=16_000).astype(np.float32)
    tenth = (noise / 10).astype(np.float32)
    assert log_mel(noise) == pytest.approx(log_mel(tenth), abs=1e-5)
    assert log_mel(np.zeros(16_000, dtype=np.float32)).max() == 0


def test_a_short_clip_is_silent_at_its_end(tmp_path: Path) -> None:
    """Clips of less than a second are filled up, longer ones cut."""
    for frames in (8_000, 20_000):
        path = tmp_path / "clip.wav"
        with wave.open(str(path), "wb") as file:
            file.setparams((1, 2, 16_000, 0, "NONE", ""))
            file.writeframes(np.full(frames, 1_000, dtype="<i2").tobytes())
        clip = read_clip(path)
        assert len(clip) == 16_000
        assert (clip[8_000:].max() == 0) == (frames == 8_000)


def test_fashion_mnist_from_a_folder(tmp_path: Path) -> None:
    """The four published files are read, from the folder or from one of its name in it."""
    make_fashion(tmp_path / "fashion_mnist")
    for folder in (tmp_path, tmp_path / "fashion_mnist"):
        data = load("fashion_mnist", folder)
        assert (data.shape, len(data.labels), len(data.test_labels)) == ((1, 28, 28), 20, 10)
        assert data.test_images.max() == pytest.approx(10 / 255)


@pytest.mark.skipif(not DEBIAN_FASHION.is_dir(), reason="no Debian package dataset-fashion-mnist")
def test_fashion_mnist_of_debian() -> None:
    """The package's files are the whole data set; a folder of other data sets does not hide it."""
    data = load("fashion_mnist", Path("/usr/share"))
    assert (len(data.labels), len(data.test_labels)) == (60_000, 10_000)
    assert np.bincount(data.test_labels).tolist() == [1_000] * 10


def cut(name: str) -> Callable[[Path], None]:
    def spoil(root: Path) -> None:
        path = root / name
        path.write_bytes(path.read_bytes()[:20])

    return spoil


def drop(name: str) -> Callable[[Path], None]:
    return lambda root: (root / name).unlink()


def swap(name: str, old: str, new: str) -> Callable[[Path], None]:
    def spoil(root: Path) -> None:
        path = root / name
        path.write_text(path.read_text().replace(old, new))

    return spoil


def small(root: Path) -> None:
    with wave.open(str(root / "train" / "yes_ab0_nohash_0.wav"), "wb") as file:
        file.setparams((2, 2, 8_000, 0, "NONE", ""))
        file.writeframes(bytes(400))


TABLE = "client_data_mapping/train.csv"


@pytest.mark.parametrize(
    "name, spoil, line",
    [
        ("femnist", drop(TABLE), "train.csv is missing; `datasets/fetch.py femnist"),
        ("femnist", drop("data/c.png"), "c.png is missing"),
        ("femnist", cut("data/c.png"), "c.png: "),
        ("femnist", swap(TABLE, "sample_path", "file"), "row 1: no column sample_path"),
        ("femnist", swap(TABLE, "c,2", "c,two"), "row 4: no such label_id 'two'"),
        ("femnist", swap(TABLE, "c,2", "c,62"), "a training label is not below 62"),
        ("openimage", drop("test/1.jpg"), "test/1.jpg is missing"),
        ("speech", drop("train/no_ab1_nohash_0.wav"), "no_ab1_nohash_0.wav is missing"),
        ("speech", cut("train/no_ab1_nohash_0.wav"), "no_ab1_nohash_0.wav: not a WAV file"),
        ("speech", small, "2 channels of 16 bit at 8000 Hz; it must be 1 of 16 bit at 16000 Hz"),
        ("speech", swap(TABLE, ",no,", ",nope,"), "row 3: no such label_name 'nope'"),
    ],
)
def test_what_lacks_or_is_broken_is_one_line(
    name: str, spoil: Callable[[Path], None], line: str, data_folder: DataFolder
) -> None:
    """A folder that lacks a file, and a file that is not what it should be, are named."""
    root = data_folder(name)
    spoil(root)
    with pytest.raises(DataError) as caught:
        load(name, root)
    assert line in str(caught.value)
    assert str(caught.value).startswith(name)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("split", ["train", "t10k"])
def test_fashion_mnist_lacks_a_file(tmp_path: Path, split: str) -> None:
    """A folder with some of the four files is not made up for from elsewhere."""
    root = make_fashion(tmp_path / "fashion_mnist")
    (root / f"{split}-images-idx3-ubyte.gz").unlink()
    with pytest.raises(DataError, match=f"{split}-images-idx3-ubyte.gz is missing"):
        load("fashion_mnist", root)


@pytest.mark.parametrize("name", ["femnist", "openimage", "speech"])
def test_without_a_folder_it_is_said_how_to_get_the_data(name: str, tmp_path: Path) -> None:
    """Data sets that have files ask for their folder, and know when they are not there."""
    with pytest.raises(DataError, match=rf"data_dir.*fetch\.py {name}"):
        load(name)
    assert not available(name)
    assert not available(name, tmp_path)


@pytest.mark.parametrize("name", ["femnist", "openimage", "speech"])
def test_one_folder_may_hold_several_data_sets(name: str, data_folder: DataFolder) -> None:
    """A data folder has each data set in a folder of its name, or is the data set's own."""
    root = data_folder(name)
    for folder in (root, root.parent):
        assert available(name, folder)
        assert load(name, folder).name == name


@pytest.mark.parametrize("name", ["femnist", "openimage", "speech"])
def test_where_data_are_looked_for_they_are_loaded_from(name: str, data_folder: DataFolder) -> None:
    """An empty folder of the data set's name hides what lies beside it, from both questions."""
    root = data_folder(name)
    (root / name).mkdir()
    assert not available(name, root)
    with pytest.raises(DataError, match="missing"):
        load(name, root)


def test_a_table_may_name_a_file_elsewhere(data_folder: DataFolder, tmp_path: Path) -> None:
    """An absolute path is that file."""
    root = data_folder("femnist")
    [inside] = root.rglob("a.png")
    outside = tmp_path / "outside.png"
    inside.rename(outside)
    table = root / "client_data_mapping" / "train.csv"
    [line] = [line for line in table.read_text().splitlines() if "a.png" in line]
    named = ",".join(str(outside) if "a.png" in cell else cell for cell in line.split(","))
    table.write_text(table.read_text().replace(line, named))
    assert load("femnist", root).labels.tolist() == [0, 1, 2, 3, 4]


def test_too_much_for_memory_is_said_before_it_is_loaded(
    data_folder: DataFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A split that would not fit says how much it needs and how to keep less of it."""
    root = data_folder("openimage")
    monkeypatch.setattr(folders, "BYTES_MAX", 4 * 3 * 64 * 64 * 3)
    with pytest.raises(DataError, match=r"needs 0\.0 GiB of memory.*--cut CLIENTS"):
        load("openimage", root)


def test_unknown_names_are_refused() -> None:
    """A data set that there is not lists those that there are."""
    with pytest.raises(DataError, match="no data set 'mnist'; there are digits, "):
        load("mnist")
    assert not available("mnist")
    assert set(SOURCES) == {"digits", "mnist5k", "fashion_mnist", "femnist", "openimage", "speech"}


def test_pictures_are_png_or_jpeg_only(data_folder: DataFolder) -> None:
    """Other image formats are refused, whatever the file is called."""
    root = data_folder("femnist")
    Image.new("L", (28, 28)).save(root / "data" / "a.png", format="BMP")
    with pytest.raises(DataError, match=r"a\.png"):
        load("femnist", root)
