"""The store: what is read back is what was made, whatever happens to the file in between."""

import copy
import errno
import hashlib
import importlib
import os
import re
import signal
import subprocess
import sys
import time
import warnings
import zipfile
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from sa_lib import archive as archive_module
from sa_lib import store
from sa_lib.files import cache_root, write_atomically

TENSORS = {"b": torch.arange(6.0).reshape(2, 3), "a": torch.tensor(7), "c": torch.zeros(0, 4).bool()}
INFO = {"log": {"step": [0, 50], "loss": [1.5, 0.1 + 0.2]}, "name": "née 9 → gray", "nothing": None}
RECIPE = {"config": {"epochs": 2, "hidden": [5, 3]}, "seed": 0, "data": "d1", "code": "c1", "without": []}


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("SA_CACHE", str(tmp_path))
    return tmp_path


class Maker:
    """Makes TENSORS and INFO, and counts how often it was asked to."""

    calls = 0

    def __call__(self):
        self.calls += 1
        return TENSORS, INFO


@pytest.fixture
def make():
    return Maker()


def assert_whole(artefact):
    assert artefact.tensors.keys() == TENSORS.keys()
    for name, tensor in TENSORS.items():
        assert artefact.tensors[name].dtype == tensor.dtype and torch.equal(artefact.tensors[name], tensor)
    assert {key: artefact.info[key] for key in INFO} == INFO
    assert artefact.info["digest"] == store.tensor_digest(TENSORS)


def files(folder):
    return [path for path in folder.rglob("*") if path.is_file()]


def test_round_trip(tmp_path):
    path = tmp_path / "deep" / "er" / "x.safetensors"
    digest = store.save(path, TENSORS, INFO)
    artefact = store.load(str(path))
    assert_whole(artefact)
    assert artefact.path == path and digest == artefact.info["digest"]
    assert files(tmp_path) == [path]


def test_views_and_trained_tensors_are_saved_by_value(tmp_path):
    tensors = {"t": TENSORS["b"].T, "p": torch.nn.Parameter(torch.ones(2))}
    store.save(tmp_path / "x", tensors, {})
    loaded = store.load(tmp_path / "x").tensors
    assert torch.equal(loaded["t"], TENSORS["b"].T) and not loaded["p"].requires_grad


def test_it_is_made_once_then_loaded(make, cache):
    made = store.get_or_make("cvae", RECIPE, make)
    loaded = store.get_or_make("cvae", dict(reversed(RECIPE.items())), make)
    assert make.calls == 1 and made.path == loaded.path
    for artefact in (made, loaded):
        assert_whole(artefact)
        assert artefact.info["recipe"] == {"kind": "cvae", **RECIPE} and artefact.info["seconds"] >= 0
    assert files(cache) == [made.path] and cache in made.path.parents


@pytest.mark.parametrize("change", [
    lambda recipe: recipe["config"].update(epochs=3), lambda recipe: recipe["config"].update(epochs=2.5),
    lambda recipe: recipe["config"].update(hidden=[3, 5]), lambda recipe: recipe.update(seed=1),
    lambda recipe: recipe.update(data="d2"), lambda recipe: recipe.update(code="c2"),
    lambda recipe: recipe.update(without=[9]), lambda recipe: recipe.update(more=None),
    lambda recipe: recipe.pop("without")])
def test_a_changed_recipe_is_a_miss(make, change):
    first = store.get_or_make("cvae", RECIPE, make)
    recipe = copy.deepcopy(RECIPE)
    change(recipe)
    second = store.get_or_make("cvae", recipe, make)
    assert make.calls == 2 and first.path != second.path
    store.get_or_make("cvae", RECIPE, make)
    assert make.calls == 2


def test_another_kind_is_a_miss(make):
    assert store.get_or_make("cvae", RECIPE, make).path != store.get_or_make("judge", RECIPE, make).path
    assert make.calls == 2


def foreign(path):
    save_file({"embedding": torch.zeros(3)}, path, metadata={"format": "pt"})


def header(text):
    """A file with our tensors and this for a header, as someone may make it who knows the format."""
    metadata = {"sa_lib": text, "sha256": hashlib.sha256(text.encode()).hexdigest()}
    return lambda path: save_file(TENSORS, path, metadata=metadata)


def another_recipe(path):
    path.write_bytes(store.get_or_make("cvae", {**RECIPE, "seed": 1}, Maker()).path.read_bytes())


def flip(path, position):
    content = bytearray(path.read_bytes())
    content[position] ^= 1
    path.write_bytes(content)


DAMAGE = {
    "empty": lambda path: path.write_bytes(b""),
    "truncated": lambda path: path.write_bytes(path.read_bytes()[:-4]),
    "half": lambda path: path.write_bytes(path.read_bytes()[:len(path.read_bytes()) // 2]),
    "lengthened": lambda path: path.write_bytes(path.read_bytes() + b"\0"),
    "zeros, as after a power cut": lambda path: path.write_bytes(bytes(path.stat().st_size)),
    "a bit of a tensor": lambda path: flip(path, -1),
    "a web page": lambda path: path.write_text("<html>404</html>"),
    "huge header length": lambda path: path.write_bytes((1 << 62).to_bytes(8, "little") + b"{}"),
    "foreign safetensors": foreign,
    "a list for a header": header("[1, 2]"),
    "no JSON for a header": header("{"),
    "a deeply nested header": header("[" * 100_000),
    "no digest": header("{}"),
    "no digest of the header": lambda path: save_file(TENSORS, path, metadata={"sa_lib": "{}"}),
    "another recipe": another_recipe,
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
def test_a_bad_file_is_reported_and_made_again(make, damage):
    path = store.get_or_make("cvae", RECIPE, make).path
    damage(path)
    with pytest.warns(UserWarning, match=rf"^[^\n]*{path.name}[^\n]*; it is made again$"):
        assert_whole(store.get_or_make("cvae", RECIPE, make))
    assert make.calls == 2
    with warnings.catch_warnings(action="error"):
        assert_whole(store.get_or_make("cvae", RECIPE, make))
    assert make.calls == 2


def test_every_flipped_bit_is_noticed(tmp_path):
    path = tmp_path / "x"
    store.save(path, TENSORS, INFO)
    whole = path.read_bytes()
    for position in range(len(whole)):
        flip(path, position)
        with pytest.raises(ValueError, match="is (not a model file|damaged)"):
            store.load(path)
        path.write_bytes(whole)
    assert_whole(store.load(path))


def test_every_truncation_is_noticed(tmp_path):
    path = tmp_path / "x"
    store.save(path, TENSORS, INFO)
    whole = path.read_bytes()
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        with pytest.raises(ValueError, match="is not a model file"):
            store.load(path)


@pytest.mark.parametrize("name", ["none", "."])
def test_no_file(tmp_path, name):
    with pytest.raises(FileNotFoundError, match="^no file at "):
        store.load(tmp_path / name)


WRITER = """
import os, sys, time
from pathlib import Path
import torch
from sa_lib import archive as archive_module
from sa_lib import store
from sa_lib.files import cache_root, write_atomically

def wait():
    print("now", flush=True)
    time.sleep(600)

def half(path, content):
    with open(path, "wb") as file:
        file.write(content[:len(content) // 2])
    wait()

if sys.argv[1] == "half written":
    Path.write_bytes = half
else:
    os.replace = lambda *_: wait()
store.get_or_make("cvae", {"seed": 0}, lambda: ({"w": torch.ones(100_000)}, {}))
"""


@pytest.fixture
def impatient(monkeypatch):
    monkeypatch.setattr(store, "PATIENCE", 2.0)


@pytest.mark.parametrize("moment", ["half written", "written but not yet renamed"])
def test_a_killed_writer_leaves_nothing_that_is_read_back(make, cache, moment, impatient):
    writer = subprocess.Popen([sys.executable, "-c", WRITER, moment], stdout=subprocess.PIPE, text=True)
    assert writer.stdout.readline() == "now\n"
    writer.send_signal(signal.SIGKILL)
    assert writer.wait() == -signal.SIGKILL
    writer.stdout.close()
    left, = [path for path in files(cache) if path.suffix != ".claim"]
    assert left.stat().st_size > 0, "the writer was killed before it wrote"
    with warnings.catch_warnings(action="error"):
        made = store.get_or_make("cvae", {"seed": 0}, make)
    assert make.calls == 1 and made.path != left
    assert_whole(made)


def test_a_failed_making_leaves_nothing(make, cache):
    def fail():
        raise FloatingPointError("the loss is nan")
    with pytest.raises(FloatingPointError):
        store.get_or_make("cvae", RECIPE, fail)
    assert files(cache) == []
    assert_whole(store.get_or_make("cvae", RECIPE, make))


@pytest.mark.parametrize("error", [OSError("no space left on device"), KeyboardInterrupt()])
def test_an_interrupted_write_keeps_the_old_file_and_cleans_up(tmp_path, error):
    path = tmp_path / "metrics.json"
    path.write_text("old")
    with pytest.raises(type(error)), write_atomically(path) as temporary:
        assert temporary.parent == path.parent and temporary != path
        temporary.write_text("half")
        raise error
    assert files(tmp_path) == [path] and path.read_text() == "old"
    with write_atomically(path) as temporary:
        temporary.write_text("new")
        assert path.read_text() == "old"
    assert files(tmp_path) == [path] and path.read_text() == "new"


@pytest.mark.parametrize("other", [
    {"x": torch.zeros(2, 3), "y": torch.zeros(1)}, {"x": torch.zeros(6), "z": torch.zeros(1)},
    {"x": torch.zeros(6).int(), "y": torch.zeros(1)}, {"x": torch.zeros(6), "y": torch.full((1,), 1e-45)},
    {"x": torch.zeros(6), "y": -torch.zeros(1)}, {"x": torch.zeros(6)},
    {"y": torch.zeros(6), "x": torch.zeros(1)}])
def test_the_digest_tells_names_types_shapes_and_values_apart(other):
    tensors = {"x": torch.zeros(6), "y": torch.zeros(1)}
    assert store.tensor_digest(tensors) == store.tensor_digest(dict(reversed(tensors.items())))
    assert store.tensor_digest(tensors) != store.tensor_digest(other)


def test_the_code_digest_changes_with_any_of_the_sources(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    for name in ("part_one", "part_two"):
        (tmp_path / f"{name}.py").write_text("x = 1\n")
    modules = [importlib.import_module(name) for name in ("part_one", "part_two")]
    digests = [store.code_digest(*modules), store.code_digest(*modules)]
    for name in ("part_one", "part_two"):
        (tmp_path / f"{name}.py").write_text("x = 2\n")
        digests.append(store.code_digest(*modules))
    assert digests[0] == digests[1] and len(set(digests)) == 3


def test_the_cache_is_where_it_is_said_to_be(tmp_path, monkeypatch):
    assert cache_root() == tmp_path
    monkeypatch.delenv("SA_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME" if os.name == "posix" else "LOCALAPPDATA", str(tmp_path / "user"))
    assert cache_root().name == "sa_lib"


def test_a_recipe_must_be_json(make, cache):
    with pytest.raises(ValueError, match="^recipe=.* is not allowed; use .*not JSON serializable"):
        store.get_or_make("cvae", {"data": torch.zeros(1)}, make)
    assert make.calls == 0 and files(cache) == []


MAKER = """
import sys, time
from pathlib import Path
import torch
from sa_lib import archive as archive_module
from sa_lib import store
from sa_lib.files import cache_root, write_atomically

store.PATIENCE = 3.0

def make():
    with open(sys.argv[1], "a") as file:
        file.write("made\\n")
    time.sleep(float(sys.argv[2]))
    return {"x": torch.arange(3)}, {}

print(store.get_or_make("claimed", {"n": 1}, make).info["digest"])
"""


def maker(tmp_path, seconds):
    return subprocess.Popen([sys.executable, "-c", MAKER, tmp_path / "log", str(seconds)], text=True,
                            stdout=subprocess.PIPE, env={**os.environ, "SA_CACHE": str(tmp_path / "cache")})


def test_of_several_processes_one_makes_and_the_others_wait(tmp_path):
    processes = [maker(tmp_path, 1.5) for _ in range(4)]
    assert len({process.communicate(timeout=120)[0] for process in processes}) == 1
    assert [process.returncode for process in processes] == [0] * 4
    assert (tmp_path / "log").read_text() == "made\n"


def test_a_killed_maker_keeps_no_one_waiting_for_ever(tmp_path):
    killed = maker(tmp_path, 600)
    while not (tmp_path / "log").is_file():
        time.sleep(0.05)
    killed.kill()
    killed.wait()
    assert list((tmp_path / "cache").rglob(".*.claim"))
    assert maker(tmp_path, 0).communicate(timeout=120)[0]
    assert (tmp_path / "log").read_text() == "made\nmade\n"
    assert not list((tmp_path / "cache").rglob(".*"))


def test_what_killed_writers_left_is_removed_a_day_later_and_nothing_else(make, cache):
    folder = cache / "models" / "cvae"
    folder.mkdir(parents=True)
    ours = [f".{name}{end}" for name in ("a.safetensors", "b.safetensors") for end in (f".{'0f' * 16}", ".claim")]
    others = [".nfs0001", ".keep", ".x.claims", f".x.{'0' * 31}", "kept.safetensors"]
    for name in ours + others:
        (folder / name).touch()
        os.utime(folder / name, (0, 0))
    recent = [folder / f".c{end}" for end in (".claim", f".{'ab' * 16}")]
    for path in recent:
        path.touch()
    made = store.get_or_make("cvae", RECIPE, make)
    assert set(files(cache)) == {made.path, *recent, *(folder / name for name in others)}


def test_a_write_that_fails_names_the_file_that_was_to_be(tmp_path):
    path = tmp_path / "metrics.json"
    with pytest.raises(OSError, match=re.escape(f"[Errno 28] No space left on device: '{path}'")):
        with write_atomically(path):
            raise OSError(errno.ENOSPC, "No space left on device")


@pytest.fixture
def archive(make, cache, tmp_path_factory, monkeypatch):
    """An archive of one artefact, and an empty store."""
    made = store.get_or_make("cvae", RECIPE, make)
    address = store.pack([f"cvae/{made.path.name}"], tmp_path_factory.mktemp("release") / "models.zip")
    made.path.unlink()
    monkeypatch.setenv("SA_MODELS", address)
    return address


def zipped(path, members):
    """An archive of these members with its right digest, as someone may make it who means harm."""
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return f"{path}#sha256={hashlib.sha256(path.read_bytes()).hexdigest()}"


def test_what_the_store_lacks_is_taken_from_the_archive(make, archive):
    taken = store.get_or_make("cvae", RECIPE, make)
    assert_whole(taken)
    assert make.calls == 1 and taken.path.is_file()
    store.get_or_make("cvae", {**RECIPE, "seed": 1}, make)
    assert make.calls == 2, "what the archive lacks is made"
    flip(taken.path, -1)
    with pytest.warns(UserWarning, match="is damaged"):
        assert_whole(store.get_or_make("cvae", RECIPE, make))
    assert make.calls == 2


def test_what_a_process_asked_for_is_known_and_can_be_packed(make, cache, tmp_path):
    paths = [store.get_or_make(kind, RECIPE, make).path for kind in ("cvae", "judge")]
    names = {f"{path.parent.name}/{path.name}" for path in paths}
    assert names <= store.used
    first, second = (store.pack(order, tmp_path / "models.zip") for order in (names, sorted(names, reverse=True)))
    assert first == second and set(zipfile.ZipFile(tmp_path / "models.zip").namelist()) == names
    with pytest.raises(FileNotFoundError, match=f"no file at .*{'0' * 24}.safetensors"):
        store.pack({*names, f"cvae/{'0' * 24}.safetensors"}, tmp_path / "models.zip")
    flip(paths[0], -1)
    with pytest.raises(ValueError, match="is damaged"):
        store.pack(names, tmp_path / "models.zip")
    assert zipfile.ZipFile(tmp_path / "models.zip").testzip() is None, "the archive that was there is kept"


@pytest.mark.parametrize("damage", ["a bit", "the end", "another file"])
def test_a_damaged_archive_is_one_sentence(make, archive, damage):
    path = Path(archive.partition("#")[0])
    content = path.read_bytes()
    path.write_bytes({"a bit": content[:99] + bytes([content[99] ^ 1]) + content[100:], "the end": content[:-1],
                      "another file": b"<html>404</html>"}[damage])
    with pytest.raises(ValueError, match=r"^SA_MODELS='.*' is damaged or another file: its SHA-256 is \w{64}$"):
        store.get_or_make("cvae", RECIPE, make)
    assert make.calls == 1


def test_a_foreign_archive_is_one_sentence_or_made_again(make, archive, tmp_path, monkeypatch):
    name = zipfile.ZipFile(archive.partition("#")[0]).namelist()[0]
    page = tmp_path / "page.zip"
    page.write_text("<html></html>")
    monkeypatch.setenv("SA_MODELS", f"{page}#sha256={hashlib.sha256(page.read_bytes()).hexdigest()}")
    with pytest.raises(ValueError, match="^SA_MODELS='.*' is not an archive of models: [^\n]*$"):
        store.get_or_make("cvae", RECIPE, make)
    monkeypatch.delenv("SA_MODELS")
    another = store.get_or_make("judge", RECIPE, make)
    monkeypatch.setenv("SA_MODELS", zipped(tmp_path / "swapped.zip", {name: another.path.read_bytes()}))
    with pytest.warns(UserWarning, match="holds another recipe than its name says; it is made again"):
        assert_whole(store.get_or_make("cvae", RECIPE, make))
    assert make.calls == 3


def test_members_of_an_archive_cannot_leave_the_store(make, cache, archive, monkeypatch):
    name = zipfile.ZipFile(archive.partition("#")[0]).namelist()[0]
    outside = cache.parent / "outside.zip"
    evil = {f"../../{name}": b"x", f"/tmp/{name}": b"x", "../../../evil": b"x"}
    monkeypatch.setenv("SA_MODELS", zipped(outside, evil))
    before = {path for path in cache.parent.rglob("*") if cache not in path.parents}
    made = store.get_or_make("cvae", RECIPE, make)
    assert make.calls == 2 and files(cache) == [made.path]
    assert {path for path in cache.parent.rglob("*") if cache not in path.parents} == before


@pytest.mark.parametrize("address", ["models.zip", "models.zip#sha256=12", "#sha256=" + 64 * "0",
                                     "http://example.org/models.zip#sha256=" + 64 * "0",
                                     "file:///models.zip#sha256=" + 64 * "0"])
def test_an_address_that_is_not_allowed(make, monkeypatch, address):
    monkeypatch.setenv("SA_MODELS", address)
    with pytest.raises(ValueError, match="^SA_MODELS='.*' is not allowed; use the path or the https address of "
                                         "a file that make models made, with #sha256= and its digest behind it$"):
        store.get_or_make("cvae", RECIPE, make)
    assert make.calls == 0


def test_no_archive_where_the_address_leads(make, monkeypatch):
    monkeypatch.setenv("SA_MODELS", "none.zip#sha256=" + 64 * "0")
    with pytest.raises(OSError, match="^SA_MODELS='none.zip.*' cannot be read: .*No such file"):
        store.get_or_make("cvae", RECIPE, make)


def test_a_remote_archive_is_fetched_once_and_never_kept_damaged(make, cache, archive, monkeypatch):
    path, _, digest = archive.partition("#sha256=")
    asked = []

    def answer(url, timeout):
        asked.append(url)
        return open(path if asked[1:] else __file__, "rb")

    monkeypatch.setattr(archive_module, "urlopen", answer)
    url = "https://example.org/models.zip"
    monkeypatch.setenv("SA_MODELS", f"{url}#sha256={digest}")
    with pytest.raises(ValueError, match="is damaged or another file"):
        store.get_or_make("cvae", RECIPE, make)
    assert files(cache) == []
    taken = store.get_or_make("cvae", RECIPE, make)
    taken.path.unlink()
    assert_whole(store.get_or_make("cvae", RECIPE, make))
    assert make.calls == 1 and asked == [url, url]
    assert (cache / "archives" / f"{digest}.zip").is_file()
