"""The work of a run: tasks in the right order, each once, a plan that lacks nothing, and times for the next run."""

import json
import os
import pty
import re
import shutil
import subprocess
import sys
import termios
import time
from dataclasses import replace

import nbformat
import numpy as np
import pytest
import torch

from runs import PROJECT
from sa_lib import checkpoints, data, experiment, plan, trained
from sa_lib.book import making, times, work
from sa_lib.book.__main__ import main
from sa_lib.book.cluster import connected, workers_for
from sa_lib.book.notebooks import chapters
from sa_lib.book.work import Task
from sa_lib.evidence import RESULTS

WORDS = "no one two three four five six seven eight nine ten eleven twelve".split()
DEFAULTS = {"02_ewc_unlearning": 9, "03_sequential": [9, 2], "04_latent": [9, 2], "05_attacks": [9, 2],
            "06_report_card": [9, 2], "07_methods": 9}


def task(name, seconds=1.0, needs=(), call=(len, "")):
    return Task(name, name[0], call, tuple(needs), seconds)


# Ranks and times --------------------------------------------------------------------------------

DIAMOND = [task("a", 2), task("b", 3, "a"), task("c", 1, "a"), task("d", 4, "bc")]


def test_the_rank_of_a_task_is_the_longest_way_to_the_end():
    assert work.ranks(DIAMOND) == {"a": 9, "b": 7, "c": 5, "d": 4}


@pytest.mark.parametrize("workers, seconds", [(1, 10), (2, 9), (16, 9)])
def test_the_time_of_the_work_falls_to_the_longest_chain(workers, seconds):
    assert work.makespan(DIAMOND, workers) == seconds


def test_the_longest_task_is_begun_first():
    # In the other order, the two workers would take 6 seconds.
    assert work.makespan([task("a", 1), task("b", 1), task("c", 1), task("d", 4)], 2) == 4


@pytest.mark.parametrize("seconds, words", [(4.4, "4 s"), (89, "89 s"), (90, "2 min"), (860, "14 min")])
def test_a_time_is_said_in_words(seconds, words):
    assert work.words(seconds) == words


def test_no_more_workers_than_cores_and_never_none(monkeypatch):
    monkeypatch.setattr("sa_lib.book.cluster.MEMORY_LIMIT", 5e9)
    assert [workers_for(cores) for cores in (1, 2, 16)] == [1, 2, 2]
    monkeypatch.setattr("sa_lib.book.cluster.MEMORY_LIMIT", 1e8)
    assert workers_for(16) == 1


# Workers ----------------------------------------------------------------------------------------

@pytest.fixture(scope="module")
def client():
    with connected(None, 2) as client:
        yield client


def written(folder, name, *needed):
    """A task for the workers: its needs must be there before it, and it must be alone in writing its file."""
    for other in needed:
        assert (folder / other).exists()
    with open(folder / name, "x"):
        time.sleep(0.05)
    return name


def test_every_task_is_done_once_and_behind_those_that_it_needs(client, tmp_path):
    tasks = [replace(each, call=(written, tmp_path, each.name, *each.needs)) for each in DIAMOND]
    done = dict(work.do(client, tasks, 2, lambda left: f"{len(left)} left"))
    assert {each.name: result for each, result in done.items()} == {name: name for name in "abcd"}
    assert sorted(path.name for path in tmp_path.iterdir()) == [*"abcd"]


def test_a_task_that_fails_does_not_stop_those_that_wait_for_it(client, tmp_path):
    tasks = [task("f", call=(int, "no number")), task("g", needs="f", call=(written, tmp_path, "g"))]
    results = {each.name: result for each, result in work.do(client, tasks, 2, str)}
    assert isinstance(results["f"], ValueError)
    assert results["g"] == "g"


def test_a_worker_that_dies_again_and_again_is_named(client):
    ((_, result),) = work.do(client, [task("k", call=(os._exit, 1))], 2, str)
    assert str(result) == "its worker died repeatedly"


def test_a_worker_has_one_thread_and_keeps_its_memory(client):
    environment = client.submit(lambda: dict(os.environ)).result()
    assert environment["OMP_NUM_THREADS"] == "1"
    assert "MALLOC_TRIM_THRESHOLD_" not in environment


# The plan ---------------------------------------------------------------------------------------

def smoke(chapter, **given):
    forget = {"forget": DEFAULTS[chapter]} if chapter in DEFAULTS else {}
    return experiment.validate(**{"profile": "smoke", "dataset": "digits", **forget, **given})


def test_every_chapter_that_trains_has_a_plan():
    assert [name for name in chapters(PROJECT) if name not in plan.PLANS] == ["08_evidence", "09_trust", "10_one_page",
                                                                              "11_other_generators", "12_notebook"]


@pytest.mark.parametrize("chapter", plan.PLANS)
def test_requests_follow_those_that_they_need_and_have_names_of_their_own(chapter):
    requests = plan.requests(chapter, smoke(chapter))
    for at, request in enumerate(requests):
        assert set(request.needs) <= set(requests[:at])
    assert len({str(request) for request in requests}) == len(requests)


NAMED = ("01_baseline", "07_methods")


@pytest.fixture(scope="module")
def named():
    """The names of requests, by chapter, in two processes."""
    code = ("from sa_lib import experiment; from sa_lib import plan; run = experiment.validate(dataset='digits', "
            f"forget=9); [print(*plan.requests(chapter, run)) for chapter in {NAMED}]")
    return [dict(zip(NAMED, subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True,
        env={**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": str(PROJECT)}).stdout.splitlines(), strict=True))
        for seed in ("1", "2")]


@pytest.mark.parametrize("chapter", NAMED)
def test_the_name_of_a_request_is_the_same_in_every_process(named, chapter):
    first, second = named
    assert first[chapter] == second[chapter]
    assert first[chapter]


def test_a_chapter_finds_all_its_models_made_by_its_plan(undisturbed, monkeypatch):
    monkeypatch.setenv("SA_CACHE", str(undisturbed.cache))
    models = undisturbed.cache / "models"
    stored, planned = {str(path.relative_to(models)) for path in models.rglob("*.safetensors")}, set()
    for chapter in [name for name in undisturbed.chapters if name in plan.PLANS]:
        made = {plan.make(request)[0] for request in plan.requests(chapter, smoke(chapter))}
        asked = set((undisturbed.folder / chapter / "models.txt").read_text().split())
        assert asked
        assert asked - made == set()
        planned |= made
    assert stored - planned == set()


def test_a_chapter_alone_finds_its_models_made_on_all_cores(tmp_path, monkeypatch):
    monkeypatch.setenv("SA_CACHE", str(tmp_path))
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    run, before = smoke("01_baseline"), dict(os.environ)
    plan.make_ahead("01_baseline", run)
    assert dict(os.environ) == before
    made = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.safetensors")}
    assert len(made) == len(plan.requests("01_baseline", run)) == 4
    for request in plan.requests("01_baseline", run):
        plan.make(request)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.safetensors")} == made
    asked = []
    monkeypatch.setattr(plan, "_side_by_side", lambda planned, _: asked.append(planned) or [])
    plan.make_ahead("01_baseline", run)
    assert asked == []  # all is there
    next(iter(made)).unlink()
    plan.make_ahead("01_baseline", run)
    assert len(asked) == 1


def test_a_chapter_meets_by_itself_the_error_of_what_cannot_be_made_ahead(tmp_path, monkeypatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    mine = tmp_path / "mine.npz"
    images, labels = np.zeros((40, 8, 8), np.uint8), np.arange(40) % 2
    np.savez(mine, train_images=images, train_labels=labels, test_images=images, test_labels=labels)
    run = smoke("01_baseline", dataset=str(mine))
    mine.unlink()
    plan.make_ahead("01_baseline", run)
    with pytest.raises((OSError, ValueError)):
        data.load(str(mine))


@pytest.mark.parametrize("where", ["on one core", "in make run", "on a GPU"])
def test_nothing_is_made_ahead(monkeypatch, where):
    monkeypatch.setattr(plan, "_side_by_side", lambda *_: pytest.fail("processes were started"))
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1 if where == "on one core" else 2)
    if where == "in make run":
        monkeypatch.setenv(plan.PLANNED, "1")
    if where == "on a GPU":
        monkeypatch.setattr(plan, "device", lambda: torch.device("cuda"))
    plan.make_ahead("01_baseline", smoke("01_baseline"))


def test_only_the_chapter_sees_that_its_models_are_there():
    ((_, seen),) = making._results([task("a", call=(os.getenv, plan.PLANNED))], 2, None, str)
    assert seen == "1"
    assert plan.PLANNED not in os.environ


def test_only_a_chapter_with_a_plan_has_models_to_make_ahead():
    with pytest.raises(ValueError, match="^chapter must be one of .*, got '08_evidence'"):
        plan.make_ahead("08_evidence", smoke("01_baseline"))


@pytest.mark.skipif(not (PROJECT / "runs" / "full" / times.NAME).is_file(), reason="make book has not run here")
def test_the_chapters_of_the_book_asked_for_nothing_that_their_plan_lacks():
    run = PROJECT / "runs" / "full"
    planned = {task["artifact"] for task in times.read(run / times.NAME)["tasks"].values()}
    asked = {name for path in run.glob("*/models.txt") for name in path.read_text().split()}
    assert asked - planned == set()


def test_the_model_of_a_checkpoint_is_left_to_its_chapter(tmp_path):
    run = smoke("06_report_card")
    checkpoints.save_model(tmp_path / "mine.safetensors", run.baseline(data.load("digits")).net)
    own, theirs = (plan.requests("06_report_card", each) for each in (
        run, smoke("06_report_card", model=str(tmp_path / "mine.safetensors"))))
    assert {request.function for request in set(own) - set(theirs)} == {
        trained.fishers, trained.unlearned, trained.mended, plan.attack, plan.shortfall}
    assert set(theirs) < set(own)


# Times ------------------------------------------------------------------------------------------

def test_times_are_kept_with_their_tasks(tmp_path):
    times.write(tmp_path, DIAMOND, {name: ("", 2.0) for name in "abcd"}, 0.01, "library")
    assert [(each.name, each.needs, each.seconds) for each in times.recorded(tmp_path)] == [
        ("a", (), 2.0), ("b", ("a",), 2.0), ("c", ("a",), 2.0), ("d", ("b", "c"), 2.0)]


def test_a_later_run_adds_its_times_and_another_library_begins_anew(tmp_path):
    times.write(tmp_path, DIAMOND[:1], {"a": ("", 2.0)}, 0.01, "library")
    times.write(tmp_path, DIAMOND[1:2], {"b": ("", 3.0)}, 0.01, "library")
    assert [each.name for each in times.recorded(tmp_path)] == ["a", "b"]
    times.write(tmp_path, DIAMOND[1:2], {"b": ("", 3.0)}, 0.01, "another")
    assert [each.name for each in times.recorded(tmp_path)] == ["b"]


@pytest.mark.parametrize("content", ["", "[]", "{", '{"step": 1, "library": "l", "tasks": {"a": {}}}',
                                     '{"step": "x", "library": "l", "tasks": {}}'])
def test_damaged_times_are_no_times(tmp_path, content):
    (tmp_path / times.NAME).write_text(content)
    assert times.recorded(tmp_path) == []


def test_what_the_store_has_is_known_until_the_library_changes(tmp_path):
    run = smoke("01_baseline")
    request = plan.requests("01_baseline", run)[0]
    name = str(request)
    made = plan.make(request)
    times.write(tmp_path, [Task(name, "cvae", (), ())], {name: made}, 0.01, "library")
    assert times.kept(tmp_path, "library") == {name}
    assert times.kept(tmp_path, "another") == set()


@pytest.mark.parametrize("profile", experiment.PROFILES)
def test_the_times_of_the_book_say_how_long_every_chapter_may_take(profile):
    (expected,) = times.expected([Task("05_attacks", "05_attacks", (), ())], profile, 0.01)
    assert 0.1 < expected.seconds < 3600


@pytest.fixture(scope="module")
def minutes_alone(tmp_path_factory):
    """The minutes that each chapter takes alone on two cores, by the recorded run."""
    folder = tmp_path_factory.mktemp("recorded")
    shutil.copy(RESULTS / "times-full.json", folder / times.NAME)
    return {name: seconds / 60 for name, seconds in work.alone(times.recorded(folder), 2).items()}


@pytest.mark.parametrize("chapter", chapters(PROJECT))
def test_the_time_that_a_chapter_and_the_readme_state_is_the_recorded_one(minutes_alone, chapter):
    minutes = minutes_alone[chapter]
    opening = nbformat.read(PROJECT / "notebooks" / f"{chapter}.ipynb", 4).cells[0].source
    stated = re.search(r"\*\*It takes\*\* (?:about )?(\w+)", opening)[1]
    (row,) = re.findall(rf"\| (\w+)[^|]* \| [^|]*{chapter}", (PROJECT / "README.md").read_text())
    assert stated == row
    assert minutes < 0.5 if stated == "seconds" else 0.7 < minutes / WORDS.index(stated) < 1.3


def test_a_chapter_alone_waits_only_for_what_it_needs():
    tasks = [*(Task(name, "cvae", (), (), seconds) for name, seconds in (("a", 3.0), ("b", 2.0), ("c", 5.0))),
             *(Task(name, name, (), needs, 1.0) for name, needs in (("01_one", ("a", "b")), ("02_two", ("c",))))]
    assert work.alone(tasks, 2) == {"01_one": 4.0, "02_two": 6.0}
    assert work.alone(tasks, 1) == {"01_one": 6.0, "02_two": 6.0}


def test_a_step_takes_time():
    assert 0 < times.step_seconds("mlp") < 10


def test_times_are_json(tmp_path):
    times.write(tmp_path, DIAMOND, {"a": ("", 2.0)}, 0.01, "library")
    assert list(json.loads((tmp_path / times.NAME).read_text())["tasks"]) == ["a"]


# A run ------------------------------------------------------------------------------------------

QUICK = '''\
# %% tags=["parameters"]
run_dir = ""

# %%
from pathlib import Path
folder = Path(run_dir, "NAME")
folder.mkdir(exist_ok=True)
(folder / "metrics.json").write_text("{}")
'''


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A project of three quick chapters, the second of which fails."""
    (tmp_path / "notebooks").mkdir()
    shutil.copy(PROJECT / "pyproject.toml", tmp_path)
    for name in ("01_one", "02_two", "03_three"):
        (tmp_path / "notebooks" / f"{name}.py").write_text(QUICK.replace("NAME", name) + "1 / 0\n" * (name == "02_two"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("elsewhere", [False, True], ids=["here", "on a cluster"])
def test_a_chapter_that_fails_stops_no_other(project, client, capsys, elsewhere):
    arguments = ["--scheduler", client.scheduler.address] if elsewhere else []
    assert main(["run", "--run", "mine", *arguments]) == 2
    output = capsys.readouterr()
    assert output.out.startswith("3 of the chapters and 0 models and attacks are to be made: about ")
    assert sorted(re.findall(r"^(\w+): (done|failed)", output.out, re.MULTILINE)) == [
        ("01_one", "done"), ("02_two", "failed"), ("03_three", "done")]
    assert "error: 02_two: cell 2 (from pathlib import Path) failed with ZeroDivisionError" in output.err


def test_one_line_of_progress_says_how_far_the_work_is(project):
    (project / "notebooks" / "02_two.py").unlink()
    master, slave = pty.openpty()
    termios.tcsetwinsize(slave, (24, 120))
    process = subprocess.Popen([sys.executable, "-m", "sa_lib.book", "run", "--run", "mine"], stdout=subprocess.PIPE,
                               stderr=slave, env={**os.environ, "PYTHONPATH": str(PROJECT)})
    assert process.wait(120) == 0
    shown = os.read(master, 100_000).decode()
    assert re.search(r"0 of 0 models and attacks, 0 of 2 chapters, about \d+ (s|min) left", shown)
    assert "it/s" not in shown


def test_a_run_of_some_chapters_previews_those_that_are_there(tmp_path, monkeypatch):
    shown = []
    monkeypatch.setattr(making.site, "preview", lambda root, run_dir, names: shown.append(names) or root / "index.html")
    (tmp_path / "run").mkdir()
    declared, missing = dict.fromkeys("abcd", {}), dict.fromkeys("ab", {})
    (tmp_path / "run" / "d.ipynb").write_text("{}")
    assert making._page(tmp_path, "run", declared, missing, {"a"}) == "; to read in index.html"
    assert making._page(tmp_path, "run", declared, missing, {"a", "b"}) == ""
    assert shown == [["a", "d"]]
