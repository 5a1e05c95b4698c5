"""Fixtures for all tests: a store of their own, a small data set, a browser, and runs of chapters."""

import datetime
import fcntl
import json
import os
import shutil
from collections import Counter

import pytest
from hypothesis import HealthCheck, settings

import runs
from sa_lib import data, experiment, playground, trained
from sa_lib.attacks import THREATS
from sa_lib.reconstruction import SearchConfig

# `make torture` sets TORTURE to the file for its counts; the tests marked `torture` then try much more.
LONG = os.environ.get("TORTURE")
tried = Counter()
# The same examples in every run, and no time limit, for a busy machine is slow.
settings.register_profile("steady", deadline=None, derandomize=True, database=None,
                          suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("steady")


@pytest.fixture(scope="session")
def common_folder(tmp_path_factory):
    """A folder that the processes of pytest-xdist have in common."""
    folder = tmp_path_factory.getbasetemp()
    return folder.parent if "PYTEST_XDIST_WORKER" in os.environ else folder


@pytest.fixture(scope="session", autouse=True)
def small_cache(common_folder):
    """A store for the tests alone, in which a model is trained once: nothing gets into the user's cache."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SA_CACHE", str(common_folder / "cache"))
        yield


@pytest.fixture(scope="session")
def digits():
    return data.load("digits")


@pytest.fixture(scope="session")
def exported(tmp_path_factory, digits):
    """The folder that `playground.export` wrote, and its arguments: models, judge and attacks as in chapter 5."""
    config = SearchConfig(pool=1024)
    parameters = experiment.validate(dataset="digits", profile="smoke", forget=[9, 2])
    first, both = parameters.sequence(digits, [9, 2])
    models = {"baseline": parameters.baseline(digits), "forgot 9": first, "forgot 9, 2": both,
              "never saw 9, seed 0": parameters.never_saw(digits, 9)}
    real = digits.test_images[digits.test_labels == 9][:4]
    attacks = {(threat, 9, name): trained.reconstruction(model, real, 9, THREATS[threat], config)
               for threat in ("z in the prior", *playground.THREATS) for name, model in models.items()}
    folder = tmp_path_factory.mktemp("run") / "05_attacks"
    arguments = {"models": models, "judge": parameters.judge(digits, "B"), "dataset": digits, "forget": [9, 2],
                 "attacks": attacks, "config": config}
    playground.export(folder, **arguments)
    return {"folder": folder, "real": real, **arguments}


@pytest.fixture(scope="session")
def chromium():
    """A headless Chromium."""
    api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    paths = [path for path in map(shutil.which, ("chromium", "chromium-browser", "google-chrome")) if path]
    if not paths:
        pytest.skip("there is no browser here: none of chromium, chromium-browser, google-chrome is on the path")
    with api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=paths[0], args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def amount():
    """(short, long) -> how much to try: `short` in the test suite, `long` in make torture."""
    return lambda short, long: long if LONG else short


@pytest.fixture(scope="session")
def tally():
    """Counts of successful tries, by promise: each test adds its own at its end."""
    return tried


@pytest.fixture(scope="session")
def undisturbed(common_folder, amount):
    """An undisturbed run with an empty store: of the quickest chapter that trains, or of all chapters.

    One process makes it, and the others wait for it. No test changes it.
    """
    from sa_lib.book.notebooks import chapters
    folder, names = common_folder / "undisturbed", amount(["01_baseline"], chapters(runs.PROJECT))
    folder.mkdir(exist_ok=True)
    with open(folder / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if (took := folder / "seconds").is_file():
            return runs.Run(folder / "root", folder / "cache", names, float(took.read_text()))
        run = runs.copied(folder, names)
        run = runs.ended(run, runs.book_run(run))
        took.write_text(str(run.seconds))
        return run


def pytest_collection_modifyitems(items):
    """The long files first, so that no process waits at the end for another one's."""
    items.sort(key=lambda item: "torture" not in item.path.parts)


def pytest_sessionfinish(session, exitstatus):
    if (worker := getattr(session.config, "workeroutput", None)) is not None:
        worker["tried"] = dict(tried)
    elif LONG and exitstatus == pytest.ExitCode.OK:
        from sa_lib.book.execution import machine
        counts = {"date": datetime.date.today().isoformat(), "machine": machine(), "tried": dict(sorted(tried.items()))}
        with open(LONG, "w", encoding="utf-8") as file:
            file.write(json.dumps(counts, indent=1) + "\n")


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node):
    """Add the counts of a worker of pytest-xdist to those of this process."""
    tried.update(getattr(node, "workeroutput", {}).get("tried", {}))
