"""Make the committed ``results/recipe.csv``: the models of the notebook's recipe in full; see `sa_lib.recipe`.

A model takes 15 to 45 minutes of a core. The table is written after each, so a run that was stopped goes on where it
was. To make a row again, take it out of the table.
"""

import datetime
import json
from collections.abc import Callable
from functools import partial

import pandas as pd

from .. import data, stack, trained
from ..attacks import THREATS
from ..data import Dataset
from ..judges import JudgeConfig
from ..model import device
from ..recipe import MENDED, NOTEBOOK, RecipeConfig
from ..reconstruction import SearchConfig
from ..store import write_atomically
from ..trained import Trained
from ..trials import RESULTS
from .execution import machine
from .trials import FEW, measures_of

__all__ = ["DIGIT", "make", "measured"]

DIGIT = 9  # that the notebook forgets first
CONTROLS = (0, 1, 2)  # seeds of models that never saw it
COUNT = 100  # targets
CHECKED = ("the notebook", "never saw, seed 0")  # models on which the convergence of the attack is checked
THREAT = "y on the simplex"


def make() -> int:
    """Make the rows that the committed table lacks, and write it; return the number of its rows.

    A model whose rows are all there is not trained.
    """
    dataset, path = data.load("mnist"), RESULTS / "recipe.csv"
    kept = pd.read_csv(path).set_index("model") if path.is_file() else pd.DataFrame()
    rows: list[dict] = []
    for name, (role, model) in _models(dataset).items():
        states = ["as is"] if role == "baseline" else ["as is", "mended"]
        own = kept.loc[[name]].reset_index().to_dict("records") if name in kept.index else []
        if [row["state"] for row in own] != states:
            own = [{"model": name, "role": role, "state": state,
                    **measured(trained.mended(model(), dataset, DIGIT) if state == "mended" else model(), dataset,
                               name in CHECKED and state == "as is")} for state in states]
            print(name, flush=True)
        rows += own
        with write_atomically(path) as temporary:
            others = kept.drop(index=[row["model"] for row in rows], errors="ignore").reset_index()
            pd.concat([pd.DataFrame(rows), others]).to_csv(temporary, index=False)
    return len(rows)


def _models(dataset: Dataset) -> dict[str, tuple[str, Callable[[], Trained]]]:
    """Name -> role and model, which is trained when it is asked for; those that need another training come last."""
    base = partial(trained.recipe_cvae, dataset)
    models = {"baseline": ("baseline", base),
              "the notebook": ("subject", partial(_changed, base, dataset, NOTEBOOK)),
              **{f"never saw, seed {seed}": ("never", partial(base, seed=seed, without=DIGIT)) for seed in CONTROLS}}
    for change, config in sorted(MENDED.items(), key=lambda item: item[1].kl_epochs != NOTEBOOK.kl_epochs):
        own = base
        if config.kl_epochs != NOTEBOOK.kl_epochs:
            own = partial(base, config)
            models[f"baseline: {change}"] = "baseline", own
        models[change] = "subject", partial(_changed, own, dataset, config)
    return models


def _changed(base: Callable[[], Trained], dataset: Dataset, config: RecipeConfig) -> Trained:
    return trained.recipe_forgotten(base(), dataset, DIGIT, config)


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
