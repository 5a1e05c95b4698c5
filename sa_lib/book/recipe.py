"""Make the committed ``results/recipe.csv``: the models of the notebook's recipe in full; see `sa_lib.recipe`.

A model takes 15 to 45 minutes of a core. The table is written after each, so a run that was stopped goes on where it
was. To make a row again, take it out of the table.
"""

import datetime
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
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
from .measuring import FEW, measures_of, processor

__all__ = ["DIGIT", "NEXT", "Model", "make", "measured", "models", "rows_of"]

DIGIT, NEXT = 9, 2  # that the notebook forgets first, and then
CONTROLS = (0, 1, 2)  # seeds of models that never saw them
COUNT = 100  # targets
THREAT = "y on the simplex"


@dataclass(frozen=True)
class Model:
    """A model of the table.

    Attributes:
        role: "baseline", "subject" or "never".
        made: trains it, or finds it in the store.
        gone: the classes that it was made to forget, or never saw.
    """

    role: str
    made: Callable[[], Trained]
    gone: tuple[int, ...] = (DIGIT,)


def make() -> int:
    """Make the rows that the committed table lacks, and write it; return the number of its rows.

    A model whose rows are all there is not trained.
    """
    dataset, path = data.load("mnist"), RESULTS / "recipe.csv"
    kept = pd.read_csv(path).set_index("model") if path.is_file() else pd.DataFrame()
    rows: list[dict] = []
    for name, model in models(dataset).items():
        states = ["as is"] if model.role == "baseline" else ["as is", "mended"]
        own = kept.loc[[name]].reset_index().to_dict("records") if name in kept.index else []
        if [row["state"] for row in own] != states * len(model.gone):
            own = rows_of(name, model, dataset)
            print(name, flush=True)
        rows += own
        with write_atomically(path) as temporary:
            others = kept.drop(index=[row["model"] for row in rows], errors="ignore").reset_index()
            pd.concat([pd.DataFrame(rows), others]).to_csv(temporary, index=False)
    return len(rows)


def models(dataset: Dataset) -> dict[str, Model]:
    """Name -> model; those that need another training come last."""
    base = partial(trained.recipe_cvae, dataset)
    first = partial(_changed, base, dataset, NOTEBOOK)
    both = (DIGIT, NEXT)
    controls = {f"never saw {' or '.join(map(str, gone))}, seed {seed}": Model(
        "never", partial(base, seed=seed, without=gone), gone) for gone in ((DIGIT,), both) for seed in CONTROLS}
    found = {"baseline": Model("baseline", base, both), "the notebook": Model("subject", first),
             "the notebook, then 2": Model("subject", partial(_then, first, dataset, NOTEBOOK), both), **controls}
    for change, config in sorted(MENDED.items(), key=lambda item: item[1].kl_epochs != NOTEBOOK.kl_epochs):
        own = base
        if config.kl_epochs != NOTEBOOK.kl_epochs:
            own = partial(base, replace(NOTEBOOK, kl_epochs=config.kl_epochs))
            found["baseline: the ELBO from the start"] = Model("baseline", own)
        found[change] = Model("subject", partial(_changed, own, dataset, config))
    # Without earlier classes it would change nothing.
    change = "all forgotten classes to gray"
    found[change] = Model("subject", partial(_then, first, dataset, MENDED[change]), both)
    return found


def _changed(base: Callable[[], Trained], dataset: Dataset, config: RecipeConfig) -> Trained:
    return trained.recipe_forgotten(base(), dataset, DIGIT, config)


def _then(first: Callable[[], Trained], dataset: Dataset, config: RecipeConfig) -> Trained:
    return trained.recipe_forgotten(first(), dataset, NEXT, config, previous=DIGIT)


def rows_of(name: str, model: Model, dataset: Dataset) -> list[dict]:
    """The rows of a model: for each class that it was made to forget, as it is and, but for a baseline, mended."""
    net = model.made()
    mended = {} if model.role == "baseline" else {"mended": trained.mended(net, dataset, model.gone)}
    return [{"model": name, "role": model.role, "class": digit, "gone": " ".join(map(str, model.gone)), "state": state,
             **measured(own, dataset, digit, model.gone)}
            for digit in model.gone for state, own in {"as is": net, **mended}.items()]


def measured(model: Trained, dataset: Dataset, digit: int, gone: Sequence[int],
             search: SearchConfig = SearchConfig()) -> dict[str, float | str]:
    """The attacker's errors on a model, their convergence, and its measures.

    Args:
        digit: that the attacker wants.
        gone: all classes that are not retained.
    """
    judge = trained.judge(dataset, JudgeConfig("B"))
    few = data.training_sample(dataset, digit, FEW)
    targets = data.held_out(dataset, digit, COUNT).to(device())
    errors = trained.reconstruction(model, targets, digit, THREATS[THREAT], search).errors
    return {**measures_of(stack.stacked([model.net]), dataset, digit, judge, few, gone)[0],
            "errors": json.dumps([round(error, 4) for error in errors.tolist()]),
            "shortfall": trained.shortfall(model, targets, digit, THREATS[THREAT], search), "digest": model.digest,
            "date": datetime.date.today().isoformat(), "processor": processor()}
