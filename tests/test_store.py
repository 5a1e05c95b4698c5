"""The store: an artifact read back is the artifact that was made; a file damaged in between is made again."""

import copy
import errno
import hashlib
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

from sa_lib import store
from sa_lib.store import archive as archives
from sa_lib.store import artifacts, cache_root, write_atomically

TENSORS = {"b": torch.arange(6.0).reshape(2, 3), "a": torch.tensor(7), "c": torch.zeros(0, 4).bool()}
INFO = {"log": {"step": [0, 50], "loss": [1.5, 0.1 + 0.2]}, "name": "née 9 → gray", "nothing": None}
RECIPE = {"config": {"epochs": 2, "hidden": [5, 3]}, "seed": 0, "data": "d1", "code": "c1", "without": []}


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("SA_CACHE", str(tmp_path))
    return tmp_path


class Maker:
    """Makes TENSORS and INFO, and counts its calls."""

    calls = 0

    def __call__(self):
        self.calls += 1
        return TENSORS, INFO


@pytest.fixture
def make():
    return Maker()


def assert_whole(artifact):
    assert artifact.tensors.keys() == TENSORS.keys()
    for name, tensor in TENSORS.items():
        assert artifact.tensors[name].dtype == tensor.dtype, name
        assert torch.equal(artifact.tensors[name], tensor)
    assert {key: artifact.info[key] for key in INFO} == INFO
    assert artifact.info["digest"] == store.tensor_digest(TENSORS)


def files(folder):
    return [path for path in folder.rglob("*") if path.is_file()]


def test_round_trip(tmp_path):
    path = tmp_path / "deep" / "er" / "x.safetensors"
    digest = store.save(path, TENSORS, INFO)
    artifact = store.load(str(path))
    assert_whole(artifact)
    assert artifact.path == path
    assert digest == artifact.info["digest"]
    assert files(tmp_path) == [path]


def test_views_and_trained_tensors_are_saved_by_value(tmp_path):
    tensors = {"t": TENSORS["b"].T, "p": torch.nn.Parameter(torch.ones(2))}
    store.save(tmp_path / "x", tensors, {})
    loaded = store.load(tmp_path / "x").tensors
    assert torch.equal(loaded["t"], TENSORS["b"].T)
    assert not loaded["p"].requires_grad


def test_an_artifact_is_made_once_and_loaded_after_that(make, cache):
    first = store.get_or_make("cvae", RECIPE, make)
    second = store.get_or_make("cvae", dict(reversed(RECIPE.items())), make)
    assert make.calls == 1
    assert first.path == second.path
    for artifact in (first, second):
        assert_whole(artifact)
        assert artifact.info["recipe"] == {"kind": "cvae", **RECIPE}
        assert artifact.info["seconds"] >= 0
    assert files(cache) == [first.path]


@pytest.mark.parametrize("change", [
    lambda recipe: recipe["config"].update(epochs=3), lambda recipe: recipe["config"].update(epochs=2.5),
    lambda recipe: recipe["config"].update(hidden=[3, 5]), lambda recipe: recipe.update(seed=1),
    lambda recipe: recipe.update(data="d2"), lambda recipe: recipe.update(code="c2"),
    lambda recipe: recipe.update(without=[9]), lambda recipe: recipe.update(more=None),
    lambda recipe: recipe.pop("without")])
def test_a_changed_recipe_is_a_miss(make, change):
    before = store.get_or_make("cvae", RECIPE, make)
    recipe = copy.deepcopy(RECIPE)
    change(recipe)
    after = store.get_or_make("cvae", recipe, make)
    assert make.calls == 2
    assert before.path != after.path
    store.get_or_make("cvae", RECIPE, make)
    assert make.calls == 2


def test_another_kind_is_a_miss(make):
    assert store.get_or_make("cvae", RECIPE, make).path != store.get_or_make("judge", RECIPE, make).path
    assert make.calls == 2


def foreign(path):
    save_file({"embedding": torch.zeros(3)}, path, metadata={"format": "pt"})


def header(text):
    """A file with our tensors and this header, as an attacker may write it."""
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
def test_a_path_without_a_file_is_named(tmp_path, name):
    with pytest.raises(FileNotFoundError, match=f"^no file at {re.escape(str(tmp_path / name))}$"):
        store.load(tmp_path / name)


WRITER = """
import os, sys, time
from pathlib import Path
import torch
from sa_lib import store

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
    monkeypatch.setattr(artifacts, "PATIENCE", 2.0)


@pytest.mark.parametrize("moment", ["half written", "written but not yet renamed"])
def test_an_unfinished_file_of_a_killed_writer_is_never_read(make, cache, moment, impatient):
    writer = subprocess.Popen([sys.executable, "-c", WRITER, moment], stdout=subprocess.PIPE, text=True)
    assert writer.stdout.readline() == "now\n"
    writer.send_signal(signal.SIGKILL)
    assert writer.wait() == -signal.SIGKILL
    writer.stdout.close()
    (unfinished,) = [path for path in files(cache) if path.suffix != ".claim"]
    assert unfinished.stat().st_size > 0, "the writer was killed before it wrote"
    with warnings.catch_warnings(action="error"):
        artifact = store.get_or_make("cvae", {"seed": 0}, make)
    assert make.calls == 1
    assert artifact.path != unfinished
    assert_whole(artifact)


def test_a_failed_training_leaves_no_file(make, cache):
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
        assert temporary.parent == path.parent
        assert temporary != path
        temporary.write_text("half")
        raise error
    assert files(tmp_path) == [path]
    assert path.read_text() == "old"
    with write_atomically(path) as temporary:
        temporary.write_text("new")
        assert path.read_text() == "old"
    assert files(tmp_path) == [path]
    assert path.read_text() == "new"


def test_the_cache_is_sa_cache_or_the_folder_of_the_user(tmp_path, monkeypatch):
    assert cache_root() == tmp_path
    monkeypatch.delenv("SA_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME" if os.name == "posix" else "LOCALAPPDATA", str(tmp_path / "user"))
    assert cache_root().name == "sa_lib"


@pytest.mark.parametrize("bad", [{"data": torch.zeros(1)}, {"rate": float("nan")}, {"tuple": {(1, 2): 3}}])
def test_a_recipe_must_be_json(make, cache, bad):
    with pytest.raises(ValueError, match="^recipe must be a mapping of names to JSON values, got "):
        store.get_or_make("cvae", bad, make)
    assert make.calls == 0
    assert files(cache) == []


def test_a_part_holds_a_state_until_its_artifact_is_made(make, cache):
    part = store.part("cvae", RECIPE)
    assert part.load() is None
    part.save(TENSORS, {"seconds": 1.5})
    assert part.load().info["seconds"] == 1.5
    assert torch.equal(part.load().tensors["b"], TENSORS["b"])
    artifact = store.get_or_make("cvae", RECIPE, make)
    assert part.load() is None
    assert files(cache) == [artifact.path]


@pytest.mark.parametrize("info", [{}, {"seconds": "1"}])
def test_a_part_without_its_seconds_does_not_count(info):
    part = store.part("cvae", RECIPE)
    part.save(TENSORS, info)
    assert part.load() is None


@pytest.mark.parametrize("kind", ["", "../cvae", "a b", None])
def test_a_kind_must_be_a_plain_name(make, kind):
    with pytest.raises(ValueError, match=f"^kind must be of letters, digits and _, got {kind!r}$"):
        store.get_or_make(kind, RECIPE, make)


MAKER = """
import sys, time
from pathlib import Path
import torch
from sa_lib import store
from sa_lib.store import artifacts

artifacts.PATIENCE = 3.0

def make():
    with open(sys.argv[1], "a") as file:
        file.write("made\\n")
    time.sleep(float(sys.argv[2]))
    return {"x": torch.arange(3)}, {}

print(store.get_or_make("claimed", {"n": 1}, make).info["digest"])
"""


def start_maker(tmp_path, seconds):
    return subprocess.Popen([sys.executable, "-c", MAKER, tmp_path / "log", str(seconds)], text=True,
                            stdout=subprocess.PIPE, env={**os.environ, "SA_CACHE": str(tmp_path / "cache")})


def test_of_several_processes_one_makes_and_the_others_wait(tmp_path):
    processes = [start_maker(tmp_path, 1.5) for _ in range(4)]
    assert len({process.communicate(timeout=120)[0] for process in processes}) == 1
    assert [process.returncode for process in processes] == [0] * 4
    assert (tmp_path / "log").read_text() == "made\n"


def test_after_a_kill_another_process_takes_over(tmp_path):
    killed = start_maker(tmp_path, 600)
    while not (tmp_path / "log").is_file():
        time.sleep(0.05)
    killed.kill()
    killed.wait()
    assert list((tmp_path / "cache").rglob(".*.claim"))
    assert start_maker(tmp_path, 0).communicate(timeout=120)[0]
    assert (tmp_path / "log").read_text() == "made\nmade\n"
    assert not list((tmp_path / "cache").rglob(".*"))


def test_temporary_files_of_killed_writers_are_removed_a_day_later_and_no_others(make, cache):
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
    artifact = store.get_or_make("cvae", RECIPE, make)
    assert set(files(cache)) == {artifact.path, *recent, *(folder / name for name in others)}


def test_a_failed_write_names_the_file_that_should_have_been_written(tmp_path):
    path = tmp_path / "metrics.json"
    with pytest.raises(OSError, match=re.escape(f"[Errno 28] No space left on device: '{path}'")):
        with write_atomically(path):
            raise OSError(errno.ENOSPC, "No space left on device")


@pytest.fixture
def archive(make, cache, tmp_path_factory, monkeypatch):
    """The address of an archive with one artifact; the store is empty."""
    path = store.get_or_make("cvae", RECIPE, make).path
    address = store.pack([f"cvae/{path.name}"], tmp_path_factory.mktemp("release") / "models.zip")
    path.unlink()
    monkeypatch.setenv("SA_MODELS", address)
    return address


def hostile_archive(path, members):
    """The address of an archive with these members, and with the right digest."""
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return f"{path}#sha256={hashlib.sha256(path.read_bytes()).hexdigest()}"


def test_an_artifact_that_the_store_lacks_is_taken_from_the_archive(make, archive):
    artifact = store.get_or_make("cvae", RECIPE, make)
    assert_whole(artifact)
    assert make.calls == 1
    assert artifact.path.is_file()


def test_an_artifact_that_the_archive_lacks_is_made(make, archive):
    assert_whole(store.get_or_make("cvae", {**RECIPE, "seed": 1}, make))
    assert make.calls == 2


def test_a_damaged_artifact_is_taken_from_the_archive_again(make, archive):
    flip(store.get_or_make("cvae", RECIPE, make).path, -1)
    with pytest.warns(UserWarning, match="is damaged"):
        assert_whole(store.get_or_make("cvae", RECIPE, make))
    assert make.calls == 1


@pytest.fixture
def two(make):
    """Path by name of two artifacts in the store."""
    paths = [store.get_or_make(kind, RECIPE, make).path for kind in ("cvae", "judge")]
    return {f"{path.parent.name}/{path.name}": path for path in paths}


def test_requested_artifacts_are_known_and_can_be_packed_in_any_order(two, tmp_path):
    assert two.keys() <= store.requested.keys()
    path = tmp_path / "models.zip"
    first, second = (store.pack(order, path) for order in (list(two), sorted(two, reverse=True)))
    assert first == second
    assert set(zipfile.ZipFile(path).namelist()) == two.keys()


def test_a_failed_packing_keeps_the_old_archive(two, tmp_path):
    path = tmp_path / "models.zip"
    address = store.pack(two, path)
    missing = f"cvae/{'0' * 24}.safetensors"
    with pytest.raises(FileNotFoundError, match=f"no file at .*{missing}"):
        store.pack([*two, missing], path)
    flip(next(iter(two.values())), -1)
    with pytest.raises(ValueError, match="is damaged"):
        store.pack(two, path)
    assert address.endswith(hashlib.sha256(path.read_bytes()).hexdigest())


@pytest.mark.parametrize("name", ["../evil", "cvae/short.safetensors", 3])
def test_a_name_that_no_artifact_has_cannot_be_packed(tmp_path, name):
    with pytest.raises(ValueError, match=f"^names must be as in store.requested, got {name!r}$"):
        store.pack([name], tmp_path / "models.zip")


@pytest.mark.parametrize("damage", ["a bit", "the end", "another file"])
def test_a_damaged_archive_is_one_sentence(make, archive, damage):
    path = Path(archive.partition("#")[0])
    content = path.read_bytes()
    path.write_bytes({"a bit": content[:99] + bytes([content[99] ^ 1]) + content[100:], "the end": content[:-1],
                      "another file": b"<html>404</html>"}[damage])
    with pytest.raises(ValueError, match=r"^SA_MODELS='.*' is damaged or another file: its SHA-256 is \w{64}$"):
        store.get_or_make("cvae", RECIPE, make)
    assert make.calls == 1


def test_a_file_that_is_no_archive_is_one_sentence(make, archive, tmp_path, monkeypatch):
    page = tmp_path / "page.zip"
    page.write_text("<html></html>")
    monkeypatch.setenv("SA_MODELS", f"{page}#sha256={hashlib.sha256(page.read_bytes()).hexdigest()}")
    with pytest.raises(ValueError, match="^SA_MODELS must be an archive of models, got '.*': [^\n]*$"):
        store.get_or_make("cvae", RECIPE, make)


def test_another_artifact_under_this_name_is_not_taken(make, archive, tmp_path, monkeypatch):
    (name,) = zipfile.ZipFile(archive.partition("#")[0]).namelist()
    monkeypatch.delenv("SA_MODELS")
    another = store.get_or_make("judge", RECIPE, make)
    monkeypatch.setenv("SA_MODELS", hostile_archive(tmp_path / "swapped.zip", {name: another.path.read_bytes()}))
    with pytest.warns(UserWarning, match="has a recipe that does not fit its name; it is made again"):
        assert_whole(store.get_or_make("cvae", RECIPE, make))
    assert make.calls == 3


def test_members_of_an_archive_cannot_leave_the_store(make, cache, archive, monkeypatch):
    (name,) = zipfile.ZipFile(archive.partition("#")[0]).namelist()
    outside = cache.parent / "outside.zip"
    evil = {f"../../{name}": b"x", f"/tmp/{name}": b"x", "../../../evil": b"x"}
    monkeypatch.setenv("SA_MODELS", hostile_archive(outside, evil))
    before = {path for path in cache.parent.rglob("*") if cache not in path.parents}
    artifact = store.get_or_make("cvae", RECIPE, make)
    assert make.calls == 2
    assert files(cache) == [artifact.path]
    assert {path for path in cache.parent.rglob("*") if cache not in path.parents} == before


@pytest.mark.parametrize("address", ["models.zip", "models.zip#sha256=12", "#sha256=" + 64 * "0",
                                     "http://example.org/models.zip#sha256=" + 64 * "0",
                                     "file:///models.zip#sha256=" + 64 * "0"])
def test_another_form_of_address_is_refused(make, monkeypatch, address):
    monkeypatch.setenv("SA_MODELS", address)
    with pytest.raises(ValueError, match=f"^SA_MODELS must be the path or https address .*, got '{address}'$"):
        store.get_or_make("cvae", RECIPE, make)
    assert make.calls == 0


def test_a_missing_archive_is_one_sentence(make, monkeypatch):
    monkeypatch.setenv("SA_MODELS", "none.zip#sha256=" + 64 * "0")
    with pytest.raises(OSError, match="^SA_MODELS='none.zip.*' cannot be read: .*No such file"):
        store.get_or_make("cvae", RECIPE, make)


def test_a_remote_archive_is_fetched_once_and_never_kept_damaged(make, cache, archive, monkeypatch):
    path, _, digest = archive.partition("#sha256=")
    requests = []

    def answer(url, timeout):
        requests.append(url)
        return open(path if len(requests) > 1 else __file__, "rb")

    monkeypatch.setattr(archives, "urlopen", answer)
    url = "https://example.org/models.zip"
    monkeypatch.setenv("SA_MODELS", f"{url}#sha256={digest}")
    with pytest.raises(ValueError, match="is damaged or another file"):
        store.get_or_make("cvae", RECIPE, make)
    assert files(cache) == []
    store.get_or_make("cvae", RECIPE, make).path.unlink()
    assert_whole(store.get_or_make("cvae", RECIPE, make))
    assert make.calls == 1
    assert requests == [url, url]
    assert (cache / "archives" / f"{digest}.zip").is_file()
