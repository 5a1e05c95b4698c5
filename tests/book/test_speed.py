"""The library is as fast beside other tools as results/bench.json says, and the page on speed shows that table."""

import importlib.util
import json
import re
from functools import partial
from unittest import mock

import pytest
import torch

from runs import PROJECT
from sa_lib.book import pages
from sa_lib.book.execution import machine
from sa_lib.book.work import Task
from sa_lib.evidence import RESULTS
from sa_lib.model import ARCHITECTURES, build

# A ratio may be worse by a third, or twice as bad on another kind of processor, which shifts the balance of arithmetic
# and overhead.
ROOM, ELSEWHERE = 4 / 3, 2


def load(name):
    spec = importlib.util.spec_from_file_location(f"bench_{name}", PROJECT / "tests" / "bench" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def bench():
    if not (RESULTS / "bench.json").is_file():
        pytest.skip("there is no results/bench.json; make bench makes it")
    return json.loads((RESULTS / "bench.json").read_text())


@pytest.fixture
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def sample(count, latent_dim):
    return torch.rand(count, 1, 28, 28), torch.randint(10, (count,)), torch.randn(count, latent_dim)


def fisher():
    tools, model = load("test_fisher"), build(ARCHITECTURES["mlp"], 0).eval()
    images = sample(2048, model.config.latent_dim)
    return {"floor": partial(tools.floor, model, images), "ours": partial(tools.ours, model, images)}


def training():
    loops = load("test_training")
    images = sample(loops.STEPS * loops.BATCH, 8)
    return {"products": loops.products(images), "ours": loops.ours(images)}


def attacks():
    once, loop = load("test_attacks").attacks(sample).items()
    # In reverse: the second job is compared with the record, and a larger ratio is worse.
    return dict([loop, once])


@pytest.mark.parametrize("group, jobs", [("Fisher, mlp", fisher), ("Training step, mlp", training),
                                         ("Attack, mlp", attacks)])
def test_the_library_is_not_slower_beside_the_other_tool_than_the_record_says(bench, one_thread, group, jobs):
    recorded = {row["name"]: row["seconds"] for row in bench["groups"].get(group, {}).get("rows", [])}
    timing, (floor, ours), jobs = load("timing"), jobs(), jobs()
    if not {floor, ours} <= recorded.keys():
        pytest.skip(f"results/bench.json has no {group}; make bench measures it")
    timing.timed(jobs)
    _, row = timing.rows([timing.timed(jobs) for _ in range(5)], dict.fromkeys(jobs, 1))
    room = ROOM if bench["machine"]["processor"] == machine()["processor"] else ELSEWHERE
    allowed = room * recorded[ours] / recorded[floor]
    assert row["ratio"] <= allowed, (f"{group}: {ours} takes {row['ratio']:.2f} times {floor}; "
                                     f"results/bench.json allows {allowed:.2f}")


def test_a_ratio_is_that_of_the_same_round():
    rows = load("timing").rows([{"floor": 1, "ours": 2}, {"floor": 10, "ours": 20}, {"floor": 4, "ours": 40}],
                               {"floor": 1, "ours": 2})
    assert [(row["name"], row["seconds"], row["ratio"]) for row in rows] == [("floor", 4, 1), ("ours", 10, 1)]


# The page ----------------------------------------------------------------------------------

def page(bench, folder, figure=lambda figure, name, *_: name, **seconds):
    """The parts of the page; its figures are drawn only by their own function, for that takes time."""
    (folder / "bench.json").write_text(json.dumps(bench))
    tasks = [Task("a", "cvae", (), (), 60.0), Task("b", "attack", (), ("a",), 120.0),
             Task("05_attacks", "05_attacks", (), ("b",), 0.0), Task("10_one_page", "10_one_page", (), (), 0.0)]
    with mock.patch.object(pages, "_figure", figure):
        return pages.speed(folder / "bench.json", folder, seconds or {"01_baseline": 10.0, "02_other": 30.0}, tasks)


def test_the_page_shows_the_measurements(bench, tmp_path):
    parts = page(bench, tmp_path, pages._figure)
    text = (PROJECT / "book" / "speed.md").read_text()
    assert set(re.findall(r"{{speed of (\w+)}}", text)) == parts.keys()
    assert re.findall(r"\d+\.\d", text) == [], "no measured number is typed by hand"
    assert bench["groups"]["t-SNE"]["unit"] == "embedding of 10,000 points", "the goal is stated for these"
    for text in ("40 s", "[](../notebooks/02_other)", "30 s"):
        assert text in parts["book"]
    pictures = dict(re.findall(r"../figures/(\S+)\n:alt: (.+)\n", "".join(parts.values())))
    assert len(pictures) == 2
    assert [name for name in pictures if not (tmp_path / name).is_file()] == []
    assert [alt for alt in pictures.values() if len(alt) <= 50] == []


def test_a_work_on_a_gpu_stands_beside_the_same_on_a_core(bench, tmp_path):
    assert page(bench, tmp_path)["gpu"] == "Not measured yet."
    about = {"date": "2026-01-02", "gpu": "A GPU", "machine": bench["machine"]}
    found = {**about, "seconds": {"gpu": {"train": 0.5, "many": 3.0}, "core": {"train": 20.0}}}
    (tmp_path / "gpu.json").write_text(json.dumps(found))
    text = page(bench, tmp_path)["gpu"]
    assert "2026-01-02" in text and "| A GPU |" in text
    assert "| train | 20 s | 500 ms |" in text and "| many |  | 3 s |" in text


@pytest.mark.parametrize("part, group", [("fisher", "Fisher, mlp"), ("fisher", "Fisher, conv"),
                                         ("training", "Training step, mlp"), ("unlearning", "Unlearning, mlp"),
                                         ("embedding", "t-SNE")])
def test_every_time_of_a_group_is_shown_in_its_unit(bench, tmp_path, part, group):
    bench = json.loads(json.dumps(bench))
    rows, written = bench["groups"][group]["rows"], ["12.3 µs", "4.56 ms", "7.89 s"]
    for row, seconds in zip(rows, (12.3e-6, 4.56e-3, 7.89), strict=False):  # the other rows keep their times
        row["seconds"] = seconds
    text = page(bench, tmp_path)[part]
    assert [time for time in written[:len(rows)] if time not in text] == []


def test_half_precision_is_compared_with_the_noise_of_the_seed(bench, tmp_path):
    bench = json.loads(json.dumps(bench))
    steps = [{"name": "float32", "seconds": 0.02, "ratio": 1.0}, {"name": "bfloat16", "seconds": 0.01, "ratio": 0.5}]
    bench["groups"]["bfloat16"] = {"rows": steps, "half": [80.0, 81.0], "full": [80.2, 80.4]}
    text = page(bench, tmp_path)["half"]
    for number in ("10 ms", "0.50 times", "+0.20", " 0.20."):
        assert number in text


@pytest.mark.parametrize("value, verdict", [
    (0.25, "25.0% | reached"), (0.2501, "just above 25.0% | **missed**"), (0.26, "26.0% | **missed**")])
def test_a_goal_that_is_missed_is_marked(bench, tmp_path, value, verdict):
    bench = json.loads(json.dumps(bench))
    bench["groups"]["Unlearning, mlp"]["share"] = value
    line, = (line for line in page(bench, tmp_path)["goals"].splitlines() if line.startswith("| Unlearning"))
    assert line.endswith(f"| at most 25.0% | {verdict} |")


@pytest.mark.parametrize("group, part, text", [
    ("Sweep", "goals", "at least 1.80 × | not measured |"), ("Memory of the Fisher", "growth", "not measured"),
    ("t-SNE", "embedding", "openTSNE"), ("bfloat16", "half", "not measured")])
def test_a_group_that_was_not_measured_is_named(bench, tmp_path, group, part, text):
    bench = json.loads(json.dumps(bench))
    bench["groups"].pop(group, None)
    assert text in page(bench, tmp_path)[part]


def test_a_group_that_is_needed_and_missing_is_an_error(bench, tmp_path):
    bench = json.loads(json.dumps(bench))
    del bench["groups"]["Attack, mlp"]
    with pytest.raises(KeyError, match="Attack, mlp"):
        page(bench, tmp_path)


def test_the_page_says_what_more_cores_would_take(bench, tmp_path):
    text = page(bench, tmp_path)["cores"]
    assert "| 8 | 3.0 | at most 5: reached |" in text
    assert "3.0 minutes: cvae, attack, 05_attacks." in text
    assert "attack (67%)" in text
    assert "[](../notebooks/05_attacks) takes the longest, 3.0 minutes from an empty store" in text
    assert text.endswith("The goal is at most 8 for each: reached.")
