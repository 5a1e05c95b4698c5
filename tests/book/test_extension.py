"""The method of a reader's own, as the chapter on methods prints it."""

import re
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

from sa_lib import evaluation, trained
from sa_lib.methods import METHODS, Method, fine_tune
from sa_lib.training import TrainingConfig
from sa_lib.unlearning import UnlearningConfig

CHAPTER = Path(__file__).resolve().parents[2] / "notebooks" / "07_methods.py"


def test_a_method_of_ones_own_works_as_printed(digits):
    cell, = (cell for cell in CHAPTER.read_text(encoding="utf-8").split("# %%") if "def terms_of_yours" in cell)
    names = {"fine_tune": fine_tune, "Method": Method, "UnlearningConfig": UnlearningConfig,
             "run": SimpleNamespace(methods={"saliency": METHODS["saliency"]})}
    exec(re.sub(r"^# (?=candidates\[)", "", cell, flags=re.MULTILINE), names)
    assert list(names["candidates"]) == ["saliency", "yours"]
    method = names["candidates"]["yours"]
    base = trained.cvae(digits, config=TrainingConfig(epochs=20))
    black = trained.forgotten(base, digits, 3, replace(method, config=replace(method.config, steps=100)))
    drawn = {name: evaluation.prior_samples(model.net, digits.test_labels.new_full((50,), 3)).mean()
             for name, model in {"before": base, "after": black}.items()}
    assert drawn["after"] < 0.2 * drawn["before"]  # it learns black in place of gray
