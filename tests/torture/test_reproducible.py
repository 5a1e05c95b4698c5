"""The same numbers again, independently of earlier code and of the number of threads, and never from a stale file."""

import ast
import dataclasses
import hashlib
import random
import re
import symtable
import sys
from pathlib import Path

import nbformat
import numpy as np
import papermill
import pytest
import torch
from safetensors.torch import load_file

from runs import PROJECT, book_run, copied, ended, numbers
from sa_lib import attacks, checks, evaluation, fisher, latent, methods, probes, store, trained, training
from sa_lib.attacks import THREATS, AttackConfig, Threat
from sa_lib.data import load
from sa_lib.judges import NETWORKS, JudgeConfig
from sa_lib.methods import METHODS
from sa_lib.model import ARCHITECTURES, ModelConfig, build
from sa_lib.reconstruction import SearchConfig
from sa_lib.residual import interval, residual_knowledge
from sa_lib.training import TrainingConfig
from sa_lib.unlearning import UnlearningConfig

pytestmark = pytest.mark.torture
SMALL = ModelConfig(latent_dim=2, hidden=(16, 8))
BRIEF = TrainingConfig(epochs=1)
PLAIN = "10_one_page"  # draws from the global stream, as a short script does, in the order of its cells
SOURCES = sorted(path.relative_to(PROJECT) for folder in ("sa_lib", "notebooks")
                 for path in (PROJECT / folder).rglob("*.py") if path.stem != PLAIN)


# The same numbers ----------------------------------------------------------------------------

def test_two_cold_runs_agree_to_the_bit(undisturbed, tmp_path, amount, tally):
    if not amount(False, True):
        pytest.skip("only the long form runs chapters twice; test_killed.py compares a killed run to the bit")
    again = copied(tmp_path, undisturbed.chapters)
    ended(again, book_run(again))
    assert numbers(again.folder) == numbers(undisturbed.folder)
    tally["chapters made twice"] += len(undisturbed.chapters)


def test_the_number_of_threads_changes_only_rounding(digits, amount, tally):
    """Sums in another order differ in the last bits, and training magnifies the difference."""
    before, losses = torch.get_num_threads(), {}
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            model = build(ModelConfig(latent_dim=4, hidden=(128, 64)), 0)
            training.train_cvae(model, digits.train_images, digits.train_labels,
                                TrainingConfig(epochs=amount(3, 20)), 0)
            losses[threads] = float(evaluation.negative_elbo(model, digits.test_images, digits.test_labels).mean())
    finally:
        torch.set_num_threads(before)
    assert losses[1] == pytest.approx(losses[2], abs=0.5), "half a nat an image"
    tally["thread counts"] += 2


# Random streams ------------------------------------------------------------------------------

def values(result):
    """The result of any function of the library, as tensors by name."""
    if isinstance(result, torch.nn.Module):
        result = result.state_dict()
    if isinstance(result, trained.Trained):
        result = {**result.net.state_dict(), "log": result.log}
    if dataclasses.is_dataclass(result):
        result = {field.name: getattr(result, field.name) for field in dataclasses.fields(result)}
    if isinstance(result, dict):
        return {f"{key}/{name}": t for key, entry in result.items() for name, t in values(entry).items()}
    if isinstance(result, (list, tuple)) and not all(isinstance(entry, (int, float)) for entry in result):
        return values(dict(enumerate(result)))
    if isinstance(result, str):
        result = list(result.encode())
    return {"": torch.tensor(result.to_numpy(float)) if hasattr(result, "to_numpy") else torch.as_tensor(result)}


@pytest.fixture(scope="module")
def base(digits):
    return trained.cvae(digits, SMALL, BRIEF)


@pytest.fixture(scope="module")
def judge(digits):
    return trained.judge(digits, JudgeConfig("B", epochs=1))


def draws(digits, base, judge):
    """Calls of all functions that draw random numbers, on few images."""
    x, y = digits.test_images[:60], digits.test_labels[:60]
    few, budget = digits.test_images[digits.test_labels == 0][:3], AttackConfig(steps=2, restarts=2)
    search = SearchConfig(pool=16, starts=2, iterations=2, rounds=2)
    network = trained.judge(digits, JudgeConfig("features", epochs=1))
    features = network.features(x)
    errors = torch.rand(3, 5, generator=torch.Generator().manual_seed(0))
    return {
        "data": lambda: load("digits"),
        **{f"build {name}": lambda config=config: build(config, 3) for name, config in ARCHITECTURES.items()},
        "cvae": lambda: trained.cvae(digits, SMALL, BRIEF, seed=1),
        **{f"judge {name}": lambda name=name: trained.judge(digits, JudgeConfig(name, epochs=1), 1)
           for name in NETWORKS},
        "fishers": lambda: trained.fishers(base, digits, seed=1),
        "sampled Fisher": lambda: fisher.sampled_fisher_diagonal(base.net, y, torch.Generator().manual_seed(1)),
        **{name: lambda method=method: trained.forgotten(base, digits, 9, dataclasses.replace(
            method, config=dataclasses.replace(method.config, steps=2))) for name, method in METHODS.items()},
        "sequence": lambda: trained.sequence(base, digits, [9, 2], UnlearningConfig(steps=2), 1),
        **{name: lambda threat=threat: trained.reconstruction(base, few, 0, threat, search)
           for name, threat in THREATS.items()},
        "guided": lambda: attacks.attack(base.net, attacks.unlike(judge, 0), 0, 3, THREATS["y free"], budget),
        "relearn": lambda: attacks.relearn(base.net, few, 0, judge, steps=2, every=1),
        "plasticity": lambda: probes.plasticity(base.net, few, 9, 0, judge, steps=2, every=1),
        "path": lambda: probes.path(base.net, probes.quantized(base.net, 4), x, y, points=3),
        "membership": lambda: probes.membership(base.net, few, x, 0),
        "rho": lambda: residual_knowledge(errors + 1, errors[0] / 2, errors[0] / 4),
        "evaluate": lambda: evaluation.evaluate(base.net, digits, judge, network, samples=10),
        "interval": lambda: interval([1.0, 2.0, 4.0]),
        "t-SNE": lambda: latent.joint_tsne([features, features[:20]]),
        "probe": lambda: latent.probe_recall(features, y, features, y),
        "neighbors": lambda: latent.knn_recall(features, y, features, y)}


def global_state():
    name, keys, *rest = np.random.get_state()
    return torch.get_rng_state().tolist(), (name, keys.tolist(), *rest), random.getstate()


def test_the_draws_of_the_library_neither_use_nor_change_a_global_stream(
        digits, base, judge, tmp_path, monkeypatch, tally):
    digests, saved = {}, global_state()
    try:
        for seed in (1, 2):
            monkeypatch.setenv("SA_CACHE", str(tmp_path / str(seed)))
            for module in (torch.manual_seed, np.random.seed, random.seed):
                module(seed)
            state = global_state()
            for name, call in draws(digits, base, judge).items():
                digests.setdefault(name, []).append(store.tensor_digest(values(call())))
                assert global_state() == state, f"{name} changes a global stream"
    finally:
        torch.set_rng_state(torch.tensor(saved[0], dtype=torch.uint8))
        np.random.set_state(saved[1])
        random.setstate(saved[2])
    assert [name for name, (first, second) in digests.items() if first != second] == []
    tally["functions that draw"] += len(digests)


DRAW = {"rand", "randn", "randint", "randperm", "normal", "bernoulli", "multinomial", "poisson", "normal_", "uniform_",
        "exponential_", "bernoulli_", "random_", "cauchy_", "geometric_", "log_normal_"}
NEVER = {"rand_like", "randn_like", "randint_like", "seed", "set_rng_state", "dropout", "Dropout"}


def global_draws(source):
    """The numbers of the lines that use a global random stream."""
    tree = ast.parse(source)
    forked = {id(inner) for node in ast.walk(tree) if isinstance(node, ast.With) and any(
                  ast.unparse(item.context_expr).startswith("torch.random.fork_rng(") for item in node.items)
              for inner in ast.walk(node)}
    streams = {target.id for node in ast.walk(tree) if isinstance(node, ast.Assign) and "default_rng(" in
               ast.unparse(node.value) for target in node.targets if isinstance(target, ast.Name)}
    numbers = []
    for node in ast.walk(tree):
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            names = {getattr(node, "module", None), *(alias.name for alias in node.names)}
            if names & {"random", "numpy.random", *DRAW, *NEVER}:
                numbers.append(node.lineno)
        if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
            continue
        name = ast.unparse(node.func)
        before, _, last = name.rpartition(".")
        if (last in DRAW and before not in streams and not any(key.arg == "generator" for key in node.keywords)
                or last in NEVER or name == "torch.manual_seed" and id(node) not in forked
                or before in ("np.random", "numpy.random") and not (last == "default_rng" and node.args)):
            numbers.append(node.lineno)
    return numbers


@pytest.mark.parametrize("path", SOURCES, ids=str)
def test_no_line_of_the_library_or_a_chapter_uses_a_global_stream(path, tally):
    assert global_draws((PROJECT / path).read_text()) == []
    tally["sources without a global stream"] += 1


@pytest.mark.parametrize("line, wrong", [
    ("torch.randn(3)", True), ("x.normal_()", True), ("np.random.rand(3)", True), ("np.random.default_rng()", True),
    ("import random", True), ("torch.manual_seed(0)", True), ("torch.rand_like(x)", True),
    ("from numpy.random import rand", True), ("from torch import randn", True), ("torch.randn(3, generator=g)", False),
    ("r = np.random.default_rng(0)\nr.normal()", False), ("torch.Generator().manual_seed(0)", False),
    ("with torch.random.fork_rng(devices=[]):\n    torch.manual_seed(0)", False)])
def test_a_line_that_uses_a_global_stream_is_found(line, wrong):
    assert bool(global_draws(line)) is wrong


# The order of cells --------------------------------------------------------------------------

def scopes(table):
    return [table, *(inner for child in table.get_children() for inner in scopes(child))]


def used(sources):
    """For each cell, the names that it reads and the names that it may change."""
    # The command that installs the library in Colab is not Python.
    sources = [re.sub("^( *)%", r"\1pass  # ", source, flags=re.MULTILINE) for source in sources]
    streams = set(re.findall(r"^(\w+) = .*(?:Generator|default_rng)\(", "\n".join(sources), re.MULTILINE))
    behind, cells = {}, []
    for source in sources:
        top, *inner = scopes(symtable.symtable(source, "cell", "exec"))
        writes = {s.get_name() for s in top.get_symbols() if s.is_assigned() or s.is_imported()}
        reads = {s.get_name() for s in top.get_symbols() if s.is_referenced()}
        reads |= {s.get_name() for scope in inner for s in scope.get_symbols() if s.is_global()}
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, (ast.Attribute, ast.Subscript)) and not isinstance(node.ctx, ast.Load):
                writes |= {part.id for part in ast.walk(node.value) if isinstance(part, ast.Name)}
            elif isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
                # A call without a use of its value changes its object. The functions of `chapter` only show something.
                writes.add(ast.unparse(node.value.func).partition(".")[0])
        writes = writes - {"chapter"} | reads & streams  # to draw from a stream changes it
        if re.search(r"\b(?:def|lambda)\b", source):
            for name in writes:  # a function reads its names when it is called
                behind.setdefault(name, set()).update(reads)
        cells.append((reads, writes))
    for reads, _ in cells:
        while more := set().union(*(behind.get(name, set()) for name in reads)) - reads:
            reads |= more
    return cells


def reordered(sources, chance):
    """An order of cells in which no cell has changed places with one that it depends on."""
    names, order = used(sources), list(range(len(sources)))
    for _ in range(40 * len(order)):
        at = chance.randrange(len(order) - 1)
        (reads, writes), (later_reads, later_writes) = (names[cell] for cell in order[at:at + 2])
        if not (writes & (later_reads | later_writes) or reads & later_writes):
            order[at], order[at + 1] = order[at + 1], order[at]
    return order


def test_cells_that_depend_on_each_other_keep_their_order():
    sources = ["import torch", "a = 1", "b = [a]", "b.append(2)", "c = b", "def f():\n    return a", "a = 3", "d = f()",
               "g = torch.Generator()", "e = torch.rand(1, generator=g)", "h = torch.rand(2, generator=g)", "i = 0"]
    orders = [reordered(sources, random.Random(seed)) for seed in range(50)]
    for order in orders:
        place = {cell: at for at, cell in enumerate(order)}
        for first, second in ((1, 2), (2, 3), (3, 4), (1, 6), (6, 7), (5, 7), (2, 6), (0, 8), (8, 9), (9, 10)):
            assert place[first] < place[second]
    assert len({order.index(11) for order in orders}) > 3


def test_a_chapter_does_not_depend_on_which_cells_ran_before(undisturbed, tmp_path, monkeypatch, tally):
    chance = random.Random(seed := random.SystemRandom().randrange(2**32))
    print(f"seed={seed}")
    for name, value in {"SA_CACHE": undisturbed.cache, "PYTHONPATH": undisturbed.root, "OMP_NUM_THREADS": 1}.items():
        monkeypatch.setenv(name, str(value))
    for chapter in [name for name in undisturbed.chapters if name != PLAIN]:
        notebook = nbformat.read(undisturbed.root / "notebooks" / f"{chapter}.ipynb", 4)
        cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
        order = reordered([cell.source for cell in cells], chance)
        moved = sum(at != cell for at, cell in enumerate(order))
        print(chapter, order)
        assert moved >= 5
        notebook.cells = [cells[cell] for cell in order]
        nbformat.write(notebook, tmp_path / "shuffled.ipynb")
        papermill.execute_notebook(tmp_path / "shuffled.ipynb", tmp_path / "made.ipynb", {
            "profile": "smoke", "dataset": "digits", "run_dir": str(tmp_path / "mine")}, kernel_name="python3",
            cwd=undisturbed.root, progress_bar=False)
        tally["cells moved"] += moved
    assert numbers(tmp_path / "mine") == {
        name: metrics for name, metrics in numbers(undisturbed.folder).items() if name != PLAIN}


# Never stale ---------------------------------------------------------------------------------

# These modules change no number: they keep results, check arguments, or pass arguments on.
AS_IT_IS = {checks, trained, *(module for name, module in sys.modules.items() if name.startswith("sa_lib.store"))}
WAYS = {
    "cvae": lambda base, digits, more=0: trained.cvae(digits, SMALL, TrainingConfig(epochs=1 + more)),
    "judge": lambda base, digits, more=0: trained.judge(digits, JudgeConfig("B", epochs=1 + more)),
    "fisher": lambda base, digits, more=0: trained.fishers(base, digits, seed=more),
    "unlearned": lambda base, digits, more=0: trained.unlearned(
        base, digits, 9, {name: torch.ones_like(w) for name, w in base.net.named_parameters()},
        UnlearningConfig(steps=1 + more)),
    "attack": lambda base, digits, more=0: trained.reconstruction(
        base, digits.test_images[:2], 0, Threat("prior", "free"), SearchConfig(8, 1, 1 + more, 1)),
}


@pytest.mark.parametrize("kind", WAYS)
def test_another_configuration_other_data_and_changed_code_are_noticed_and_changed_prose_is_not(
        kind, base, digits, tmp_path, monkeypatch, tally):
    get, kinds, files = WAYS[kind], [], set()
    real = store.get_or_make

    def watched(kind, recipe, make):
        def making():
            kinds.append(kind)
            sys.setprofile(lambda frame, *_: files.add(frame.f_code.co_filename))
            try:
                return make()
            finally:
                sys.setprofile(None)
        return real(kind, recipe, making)

    def get_with(module, more):
        """Get it again with these lines at the end of a module that took part in making it."""
        changed = tmp_path / Path(module.__file__).name
        changed.write_bytes(Path(module.__file__).read_bytes() + more)
        with monkeypatch.context() as patch:
            patch.setattr(module, "__file__", str(changed))
            get(base, digits)

    monkeypatch.setattr(store, "get_or_make", watched)
    monkeypatch.setenv("SA_CACHE", str(tmp_path))
    for _ in range(2):
        get(base, digits)
    assert kinds == [kind]
    took_part = [module for name, module in sys.modules.items() if name.startswith("sa_lib.")
                 and module.__file__ in files and module not in AS_IT_IS]
    assert len(took_part) >= 2
    get(base, digits, more=1)
    get(base, dataclasses.replace(digits, test_images=digits.test_images.flip(0), digest="other"))
    assert len(kinds) == 3
    for count, module in enumerate(took_part, 4):
        get_with(module, b"\n# A changed comment.\n")
        assert len(kinds) == count - 1, f"a comment in {module.__name__} is a miss"
        if module is methods:  # the recipe has the loss itself, by its values and gradients on a probe
            with monkeypatch.context() as patch:
                patch.setattr(methods, "GRAY", 0.4)
                get(base, digits)
        else:
            get_with(module, b"\nA_CHANGED_CONSTANT = 1\n")
        assert len(kinds) == count, f"{module.__name__} took part in it and is not in its recipe"
    tally["changes noticed"] += len(kinds) - 1


def test_the_hashes_on_a_page_and_in_its_metrics_are_those_of_tensors_in_the_store(undisturbed, tally):
    for chapter in undisturbed.chapters:
        metrics = re.findall(r'"([0-9a-f]{64})"', (undisturbed.folder / chapter / "metrics.json").read_text())
        page = re.findall(r"`([0-9a-f]{12}|[0-9a-f]{64})`", (undisturbed.folder / f"{chapter}.ipynb").read_text())
        stored = {store.tensor_digest(load_file(undisturbed.cache / "models" / name))
                  for name in (undisturbed.folder / chapter / "models.txt").read_text().split()}
        # models that the store keeps
        trains = chapter not in ("08_evidence", "09_trust", PLAIN, "11_other_generators", "12_notebook")
        assert bool(metrics) is trains
        assert bool(page) is trains
        assert set(metrics) <= stored
        assert [shown for shown in page if not any(digest.startswith(shown) for digest in stored)] == []
        tally["hashes computed again"] += len({*metrics, *page})


def test_the_hash_of_a_model_is_that_of_its_bytes():
    tensors = {"b": torch.tensor([[1.0, 2.0]]), "a": torch.tensor(3)}
    plain = b"a|torch.int64|()|" + (3).to_bytes(8, "little") + b"b|torch.float32|(1, 2)|" + np.float32([1, 2]).tobytes()
    assert store.tensor_digest(tensors) == hashlib.sha256(plain).hexdigest()
