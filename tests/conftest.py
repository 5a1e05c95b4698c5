import datetime
import json
import os
import shutil
from collections import Counter

import pytest

import runs
from sa_lib import book, chapter, data, playground
from sa_lib.attacks import THREATS, AttackConfig, get_reconstruction

# `make torture` names here the file for its counts; the tests marked `torture` then try much more.
LONG = os.environ.get("TORTURE")
tried = Counter()


@pytest.fixture(scope="session", autouse=True)
def small_cache(tmp_path_factory):
    """What the tests train lies in a folder of their own, never in the user's cache."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SA_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session")
def digits():
    return data.load("digits")


@pytest.fixture(scope="session")
def exported(tmp_path_factory, digits):
    """Models, judge and answers as chapter 5 has them, and the folder of what the playground was given of them."""
    config = AttackConfig(steps=60, restarts=3)
    made = chapter.validate(dataset="digits", profile="smoke", forget=[9, 2])
    first, both = made.sequence(digits, [9, 2])
    models = {"baseline": made.baseline(digits), "forgot 9": first, "forgot 9, 2": both,
              "never saw 9, seed 0": made.never_saw(digits, [9])}
    judge = made.judge(digits, "B")
    real = digits.test_images[digits.test_labels == 9][:6]
    found = {(threat, 9, name): get_reconstruction(trained, real, 9, THREATS[threat], config)
             for threat in ("z in the prior", *playground.THREATS) for name, trained in models.items()}
    folder = tmp_path_factory.mktemp("run") / "05_attacks"
    arguments = {"models": models, "judge": judge, "dataset": digits, "forgotten": [9, 2], "found": found,
                 "config": config}
    playground.export(folder, **arguments)
    return {"folder": folder, "real": real, **arguments}


@pytest.fixture(scope="session")
def chromium():
    """A headless Chromium."""
    api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    found = [path for path in map(shutil.which, ("chromium", "chromium-browser", "google-chrome")) if path]
    if not found:
        pytest.skip("there is no browser here: none of chromium, chromium-browser, google-chrome is on the path")
    with api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=found[0], args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def amount():
    """(short, long) -> how much to try: the first in the test suite, the second in make torture."""
    return lambda short, long: long if LONG else short


@pytest.fixture(scope="session")
def tally():
    """What was tried and went well, by promise: a test adds to it at its end."""
    return tried


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory, amount):
    """A cold run of the quickest chapter that trains, or of all of them, that nothing got in the way of."""
    chapters = amount(["01_baseline"], book.chapters(runs.PROJECT))
    run = runs.copied(tmp_path_factory.mktemp("undisturbed"), chapters)
    return runs.ended(run, runs.book_run(run))


def pytest_sessionfinish(session, exitstatus):
    if (worker := getattr(session.config, "workeroutput", None)) is not None:
        worker["tried"] = dict(tried)
    elif LONG and exitstatus == pytest.ExitCode.OK:
        made = {"date": datetime.date.today().isoformat(), "machine": book.machine(),
                "tried": dict(sorted(tried.items()))}
        with open(LONG, "w", encoding="utf-8") as file:
            file.write(json.dumps(made, indent=1) + "\n")


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node):
    """What a worker of pytest-xdist tried counts like what this process did."""
    tried.update(getattr(node, "workeroutput", {}).get("tried", {}))
