"""Make the committed ``results/recipe.csv``: the models of the notebook's recipe in full; see `sa_lib.recipe`.

A model takes 15 to 45 minutes of a core. The store keeps each, and the table is written after each, so a run that was
stopped goes on where it was.
"""

import datetime
import json
from collections.abc import Iterator

import pandas as pd

from .. import data, stack, trained
from ..attacks import THREATS
from ..data import Dataset
from ..judges import JudgeConfig
from ..model import device
from ..recipe import MENDED, NOTEBOOK
from ..reconstruction import SearchConfig
from ..store import write_atomically
from ..trained import Trained
from ..trials import RESULTS
from .execution import machine
from .trials import FEW, measures_of

__all__ = ["DIGIT", "make", "measured"]

DIGIT = 9  # that the notebook forgets first
CONTROLS = (0, 1)  # seeds of models that never saw it
COUNT = 100  # targets
CHECKED = ("the notebook", "never saw, seed 0")  # models on which the convergence of the attack is checked
THREAT = "y on the simplex"


def make() -> int:
    """Make the missing rows, and write the table; return the number of its rows."""
    dataset = data.load("mnist")
    rows: list[dict] = []
    for role, name, model in _models(dataset):
        states = {"as is": model}
        if role != "baseline":
            states["mended"] = trained.mended(model, dataset, DIGIT)
        for state, one in states.items():
            checked = name in CHECKED and state == "as is"
            rows.append({"model": name, "role": role, "state": state, **measured(one, dataset, checked)})
        print(name, flush=True)
        with write_atomically(RESULTS / "recipe.csv") as temporary:
            pd.DataFrame(rows).to_csv(temporary, index=False)
    return len(rows)


def _models(dataset: Dataset) -> Iterator[tuple[str, str, Trained]]:
    """Role, name and model, those first on which the others' numbers rest."""
    base = trained.recipe_cvae(dataset)
    yield "baseline", "baseline", base
    yield "subject", "the notebook", trained.recipe_forgotten(base, dataset, DIGIT)
    for seed in CONTROLS:
        yield "never", f"never saw, seed {seed}", trained.recipe_cvae(dataset, seed=seed, without=DIGIT)
    for change, config in sorted(MENDED.items(), key=lambda item: item[1].kl_epochs != NOTEBOOK.kl_epochs):
        own = base
        if config.kl_epochs != NOTEBOOK.kl_epochs:  # it needs another training, and comes last
            own = trained.recipe_cvae(dataset, config)
            yield "baseline", f"baseline: {change}", own
        yield "subject", change, trained.recipe_forgotten(own, dataset, DIGIT, config)


def measured(model: Trained, dataset: Dataset, checked: bool,
             search: SearchConfig = SearchConfig()) -> dict[str, float | str | None]:
    """The attacker's errors on a model, and its measures.

    Args:
        checked: whether the convergence of the attack is measured too, which takes longer than the attack.
    """
    judge = trained.judge(dataset, JudgeConfig("B"))
    few = data.training_sample(dataset, DIGIT, FEW)
    targets = data.held_out(dataset, DIGIT, COUNT).to(device())
    errors = trained.reconstruction(model, targets, DIGIT, THREATS[THREAT], search).errors
    shortfall = trained.shortfall(model, targets, DIGIT, THREATS[THREAT], search) if checked else None
    return {**measures_of(stack.stacked([model.net]), dataset, DIGIT, judge, few)[0],
            "errors": json.dumps([round(error, 4) for error in errors.tolist()]),
            "shortfall": shortfall, "digest": model.digest,
            "date": datetime.date.today().isoformat(), "processor": machine()["processor"]}
