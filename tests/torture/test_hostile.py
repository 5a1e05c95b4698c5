"""Hostile files: whatever is done to a file that is read, it is good as it is or refused; nothing runs, nothing hangs.

    python tests/test_hostile.py FOLDER COUNT [FIRST]    # the process that the test starts; a case by its number
"""

import contextlib
import hashlib
import io
import json
import os
import pickle
import random
import signal
import struct
import subprocess
import sys
import warnings
import zipfile
from argparse import Namespace
from pathlib import Path

import nbformat
import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import save as serialised

from sa_lib import book, chapter, check, checkpoints, data, evidence, site, store, sweep
from sa_lib.model import CVAE, ModelConfig, build

pytestmark = pytest.mark.torture

PROJECT = Path(__file__).resolve().parent.parent
SMALL = ModelConfig(latent_dim=2, hidden=(3, 2))
SECONDS, MEMORY = 20, 1 << 30  # a file may take of processor time, and of memory above what the imports take


class Command:
    """What a pickle holds that means harm: when it is read, the canary is made."""

    def __init__(self, canary):
        self.canary = canary

    def __reduce__(self):
        return os.system, (f"touch {self.canary}",)


class Case:
    """A kind of file: good files, how they are read, and what may be said of others."""

    def __init__(self, read, *good, refused=(ValueError, OSError)):
        self.read, self.good, self.refused = read, good, refused


def notebook(alt="a line"):
    figure = {"role": "figure", "caption": "It rises.", "alt": alt, "width": 10}
    output = nbformat.v4.new_output("display_data", {"image/png": "iVBORw0KGgo="}, metadata={"sa_lib": figure})
    cells = [nbformat.v4.new_markdown_cell("# One"),
             nbformat.v4.new_code_cell("forget = 9", metadata={"tags": ["parameters"]}),
             nbformat.v4.new_code_cell("plot()", outputs=[output], metadata={"papermill": {"duration": 1.5}})]
    made = {"stamp": "0", "parameters": {"forget": 9, "run_dir": "runs/x"}, "machine": {"cores": 2}}
    return nbformat.writes(nbformat.v4.new_notebook(cells=cells, metadata={
        "kernelspec": {"name": "python3", "display_name": "x"}, "sa_lib": made})).encode()


def cases(folder):
    """Every kind of file that is read, in a folder of its own."""
    path = folder / "file"
    canary = Command(folder / "ran")
    model = build(SMALL, 0)
    checkpoints.save_model(path, model, {"recipe": {"kind": "cvae"}})
    ours, digest = path.read_bytes(), store.tensor_digest(model.state_dict())

    def whole(content):
        loaded = checkpoints.read_model(path)
        assert isinstance(loaded, CVAE) and all(weight.isfinite().all() for weight in loaded.parameters())
        return loaded

    def own(content):
        assert store.tensor_digest(whole(content).state_dict()) == digest, "it was read with other weights"

    def saved(what, **how):
        torch.save(what, path, **how)
        return path.read_bytes()

    official = {"model": {f"fc1.{n}": torch.zeros(3) for n in "ab"}, "config": Namespace(z_dim=8)}
    theirs = {"model": {checkpoints._official_name(n): w for n, w in build(ModelConfig(), 0).state_dict().items()},
              "config": Namespace(z_dim=8)}

    def idx(content):
        assert data._write_idx(data.read_idx(content).numpy()) == content, "it was read as another"

    def old(pairs):
        return pickle.dumps(pairs, 2).replace(b"numpy._core.multiarray", b"numpy.core.multiarray")

    pairs = tuple((np.full((n, 784), 0.5, np.float32), np.arange(n)) for n in (3, 2, 2))

    def mirror(content):
        data.SOURCES["fashion"] = {"the mirror": lambda *_: data._unpickled(io.BytesIO(content))}
        data.load("fashion", folder / "data")
        for kept in (folder / "data" / "fashion").iterdir():
            kept.unlink()

    def metrics(content):
        chapter.write_metrics(folder, "x", {})
        (folder / "x" / "metrics.json").write_bytes(content)
        claims = [check.Claim("one", "x", lambda m: m["a"]["b"], "<=", lambda m: max(m["c"])),
                  check.Claim("two", "x", lambda m: max(r["d"] for r in m["e"].values()), ">=", lambda m: 0)]
        check.check(folder, claims)

    cell = sweep.Cell("cell", {"forget": 9}, "stamp")
    (folder / "cell").mkdir(exist_ok=True)
    state = {"stamp": "stamp", "parameters": {"forget": 9}, "error": "", "seconds": 1.0, "date": "d",
             "machine": {"cores": 2}}

    def rows(name, other, good):
        def read(content):
            (folder / "cell" / name).write_bytes(content)
            (folder / "cell" / other).write_text(json.dumps(good))
            assert len(sweep.table(folder, [cell])) in (0, 1)
        return read

    def csv(content):
        assert isinstance(evidence.read(path), pd.DataFrame)

    (folder / "notebooks").mkdir(exist_ok=True)
    (folder / "notebooks" / "01_x.py").touch()
    run = folder / "runs" / "x"
    (run / "01_x").mkdir(parents=True, exist_ok=True)
    stage = folder / "stage"
    for name in ("executed", "notebooks", "figures", "book"):
        (stage / name).mkdir(parents=True, exist_ok=True)
    page = notebook()

    def executed(name):
        def read(content):
            (run / "run.json").write_text('{"parameters": {"forget": 9}}')
            (run / "01_x.ipynb").write_bytes(page)
            (run / "01_x" / "metrics.json").write_text('{"models": {"baseline": "00"}}')
            (stage / "book" / "p.md").write_text("# P\n{{01_x.models}} {{how it was run}} {{figure 01_x 1}}\n")
            (run / name).write_bytes(content)
            # As `site.render` does, less what Jupyter Book does.
            site._write_pages(stage, run, book._executed(folder, run), "https://github.com/a/b")
        return read

    def archive(content):
        os.environ["SA_MODELS"] = f"{path}#sha256={hashlib.sha256(content).hexdigest()}"
        target = store._models() / "cvae" / "a.safetensors"
        target.unlink(missing_ok=True)
        if store._unpack(target):
            assert target.parent == store._models() / "cvae"
            if (taken := store._good(target, {"kind": "cvae"})) is not None:
                assert store.tensor_digest(taken.tensors) == digest, "it was taken with other tensors"

    def zipped(members, kind=zipfile.ZIP_DEFLATED):
        made = io.BytesIO()
        with zipfile.ZipFile(made, "w", kind) as members_of:
            for name, content in members.items():
                members_of.writestr(name, content)
        return made.getvalue()

    member = "cvae/a.safetensors"
    bomb = zipped({member: bytes(64 << 20)})
    return {
        "safetensors": Case(own, ours),
        "safetensors, its digests right": Case(whole),  # see `signed`
        "official": Case(whole, saved(theirs), saved(official), saved(theirs, _use_new_zipfile_serialization=False),
                         saved({**official, "config": canary}), saved({"model": canary}),
                         saved({"model": canary}, _use_new_zipfile_serialization=False), bomb),
        "idx": Case(idx, *(data._write_idx(np.zeros(shape, np.uint8)) for shape in ((2, 3, 4), 9))),
        "mirror": Case(mirror, old(pairs), old(canary), old((pairs, canary)), pickle.dumps([canary], 4)),
        "metrics": Case(metrics, json.dumps({"a": {"b": 1}, "c": [2, 3], "e": {"f": {"d": 1}},
                                             "parameters": check.STATED_FOR}).encode()),
        "cell": Case(rows("cell.json", "metrics.json", {"a": {"b": 1.5}}), json.dumps(state).encode(), refused=()),
        "cell's metrics": Case(rows("metrics.json", "cell.json", state), b'{"a": {"b": 1.5}, "c": [1, 2]}', refused=()),
        "table": Case(csv, (PROJECT / "results" / "evidence.csv").read_bytes()[:6000],
                      b"cell,error,forget,seed,models.baseline.nelbo,models.retrain.nelbo\na,,9,0,1.5,2.5\n"),
        "notebook": Case(executed("01_x.ipynb"), page, notebook("<b>`x`"), refused=(site.BookError,)),
        "run": Case(executed("run.json"), b'{"parameters": {"forget": 9}}', refused=(site.BookError,)),
        "run's metrics": Case(executed("01_x/metrics.json"), b'{"models": {"baseline": "00"}}',
                              refused=(site.BookError,)),
        "archive": Case(archive, zipped({member: ours}), zipped({member: ours}, zipfile.ZIP_STORED), bomb,
                        zipped({f"../../{member}": ours, f"/tmp/{member}": ours, member: ours}),
                        zipped({member: ours}, zipfile.ZIP_LZMA)),
    }


# Mutations ----------------------------------------------------------------------------------

JSON = [None, True, -1, 0, 1.5, 1e999, 10**400, "", "x" * 9999, "\n", "\ud800", [], [[]], {}, {"a": None},
        {"": {"": 1}}]


def twisted(value, draw):
    """The JSON value with one of its parts, or all, replaced, taken away or wrapped."""
    if isinstance(value, (dict, list)) and value and draw.random() < 0.8:
        copy = dict(value) if isinstance(value, dict) else list(value)
        key = draw.choice(list(copy) if isinstance(copy, dict) else range(len(copy)))
        if draw.random() < 0.2:
            del copy[key]
        else:
            copy[key] = twisted(copy[key], draw)
        return copy
    return draw.choice([*JSON, [value], {"x": value}])


def mutated(content, good, draw):
    """Other bytes: some that were flipped, cut, spliced, swollen, nested or made of a twisted value."""
    try:
        value = json.loads(content)
    except ValueError:
        value = None
    if value is not None and draw.random() < 0.6:
        if draw.random() < 0.9:
            return json.dumps(twisted(value, draw)).encode()
        deep = draw.choice([3, 900, 100_000])
        return draw.choice([b"[" * deep + b"]" * deep, b'{"a":' * deep + b"1" + b"}" * deep,
                            content.replace(b"{", b'{"a": 1, "a": ', 1),
                            content.replace(b"{", b'{"parameters": 3, ', 1)])
    changed = bytearray(content)
    for _ in range(draw.choice([1, 1, 1, 2, 8])):
        way, at = draw.randrange(7), draw.randrange(len(changed) + 1)
        if draw.random() < 0.5:
            at = min(at, draw.randrange(200))  # what is said of the rest stands at the beginning or the end
        elif draw.random() < 0.3:
            at = max(0, len(changed) - 1 - draw.randrange(200))
        if way == 0 and at < len(changed):
            changed[at] ^= 1 << draw.randrange(8)
        elif way == 1:
            del changed[at:]
        elif way == 2:
            other = draw.choice(good)
            start = draw.randrange(len(other))
            changed[at:at + draw.choice([0, 0, 9])] = other[start:start + draw.randrange(200)]
        elif way == 3:
            huge = draw.choice([2**31 - 1, 2**32 - 1, 2**63 - 1, 2**64 - 1, 2**40, 0])
            field = struct.pack(draw.choice("<>") + "Q", huge)[:draw.choice([4, 8])]
            changed[at:at + len(field)] = field
        elif way == 4:
            del changed[at:at + draw.randrange(1, 50)]
        elif way == 5:
            changed[at:at] = draw.randbytes(draw.randrange(1, 20))
        elif way == 6 and at < len(changed):
            changed[at] = draw.choice(b'\0\xff"{}[]:,.\\/()')
    return bytes(changed)


def signed(draw):
    """A safetensors file whose digests are right, by someone who knows how they are made."""
    tensors = dict(build(SMALL, 0).state_dict())
    for _ in range(draw.randrange(3)):
        name = draw.choice(list(tensors))
        good = tensors[name]
        tensors[name] = draw.choice([good.half(), good.long(), good[None], good.flatten()[:0], good.float() / 0,
                                     torch.zeros(()), good.to(torch.float8_e4m3fn)])
        if draw.random() < 0.2:
            tensors[draw.choice(["", "x\ny", "../x", name + " "])] = tensors.pop(name)
    info = twisted({"model": SMALL.asdict(), "digest": store.tensor_digest(tensors)}, draw)
    header = json.dumps(info)
    with contextlib.suppress(TypeError):
        header = json.dumps({**info, "digest": store.tensor_digest(tensors)})
    try:
        return serialised(tensors, {"sa_lib": header, "sha256": store._sha256(header)})
    except UnicodeEncodeError:
        return serialised(tensors, {"sa_lib": header})


# The process that reads them ----------------------------------------------------------------

class TooLong(BaseException):
    """Not an Exception, lest what is tried takes it for one of its own."""


def too_long(*_):
    raise TooLong(f"longer than {SECONDS} s of the processor")


def bound_memory():
    """On Linux: no more than `MEMORY` above what the process has mapped by now."""
    try:
        import resource
        pages = int(Path("/proc/self/statm").read_text().split()[0])
    except (ImportError, FileNotFoundError):
        return
    limit = pages * os.sysconf("SC_PAGE_SIZE") + MEMORY
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


def judged(case, content, path):
    """What is wrong with how the file was read; nothing if it was good or refused as it should be."""
    path.write_bytes(content)
    signal.setitimer(signal.ITIMER_VIRTUAL, SECONDS)
    try:
        case.read(content)
    except case.refused as error:
        return "" if str(error) and "\n" not in str(error) else f"not one line: {error!r}"
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt):
            raise
        return f"{type(error).__name__}: {error!r}"[:300]
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
    return ""


def main(folder, count, first=0):
    """Try files number `first` to `first + count`; print as JSON how many were tried, and what went wrong."""
    os.environ["SA_CACHE"] = str(folder / "cache")
    warnings.simplefilter("ignore")
    all_cases = cases(folder)
    for name, case in all_cases.items():
        for content in case.good[:1]:
            assert (wrong := judged(case, content, folder / "file")) in ("",), f"{name}, as it is: {wrong}"
    signal.signal(signal.SIGVTALRM, too_long)
    bound_memory()
    wrong, names = [], list(all_cases)
    for number in range(first, first + count):
        draw, name = random.Random(number), names[number % len(names)]
        case = all_cases[name]
        content = mutated(draw.choice(case.good), case.good, draw) if case.good else signed(draw)
        if not case.good and draw.random() < 0.2:
            content = mutated(content, [content], draw)
        with contextlib.redirect_stdout(io.StringIO()):
            said = judged(case, content, folder / "file")
        if not said and (folder / "ran").exists():
            said = "it ran code"
            (folder / "ran").unlink()
        if said:
            wrong.append(f"case {number}, {name}: {said}")
    print(json.dumps({"tried": count, "wrong": wrong}))


def test_a_hostile_file_is_good_or_refused_and_runs_nothing(tmp_path, amount, tally):
    count = amount(400, 12_000)
    done = subprocess.run([sys.executable, __file__, str(tmp_path), str(count)], capture_output=True, text=True,
                          env={**os.environ, "PYTHONPATH": f"{PROJECT}"}, timeout=600 + count)
    assert done.returncode == 0, done.stderr[-3000:]
    said = json.loads(done.stdout.splitlines()[-1])
    assert said["tried"] == count and not said["wrong"], "\n".join(said["wrong"][:20])
    outside = {path.name for path in tmp_path.parent.iterdir()} - {tmp_path.name}
    assert not [name for name in outside if name in ("cvae", "evil")] and not Path("/tmp/cvae").exists()
    tally["hostile files read"] += count


def test_the_canary_sings_where_a_pickle_is_trusted(tmp_path):
    pickle.loads(pickle.dumps(Command(tmp_path / "ran")))
    assert (tmp_path / "ran").exists()


if __name__ == "__main__":
    main(Path(sys.argv[1]), *map(int, sys.argv[2:]))
