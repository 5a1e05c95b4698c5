"""Hostile files: a changed file is accepted only if it is good; no code in it runs, and no read hangs.

    python tests/torture/test_hostile.py FOLDER COUNT [FIRST]    # the process of the test; FIRST: the number of a case
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
from safetensors.torch import save as serialize

from sa_lib import chapter, checkpoints, claims, data, evidence, sources, store
from sa_lib.book import execution, site, sweep
from sa_lib.book.notebooks import BookError
from sa_lib.idx import read_idx, write_idx
from sa_lib.model import CVAE, ModelConfig, build
from sa_lib.store import artifacts

pytestmark = pytest.mark.torture

PROJECT = Path(__file__).resolve().parents[2]
SMALL = ModelConfig(latent_dim=2, hidden=(3, 2))
# Limits of processor time for a file, and of memory beyond that of the imports.
SECONDS, MEMORY = 20, 1 << 30


class Command:
    """A harmful object in a pickle: reading it makes the file `canary`."""

    def __init__(self, canary):
        self.canary = canary

    def __reduce__(self):
        return os.system, (f"touch {self.canary}",)


class Case:
    """A kind of file: good files, the function that reads them, and the errors for other files."""

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


def official_name(name):
    layer, _, part = name.rpartition(".")
    return f"{checkpoints.LAYOUTS['official'][layer]}.{part}"


def cases(folder):
    """Every kind of file that the library reads, in a folder of its own."""
    path = folder / "file"
    canary = Command(folder / "ran")
    model = build(SMALL, 0)
    checkpoints.save_model(path, model, {"recipe": {"kind": "cvae"}})
    ours, digest = path.read_bytes(), store.tensor_digest(model.state_dict())

    def whole(content):
        loaded = checkpoints.read_model(path)
        assert isinstance(loaded, CVAE)
        assert all(weight.isfinite().all() for weight in loaded.parameters())
        return loaded

    def own(content):
        assert store.tensor_digest(whole(content).state_dict()) == digest, "it was read with other weights"

    def saved(what, **how):
        torch.save(what, path, **how)
        return path.read_bytes()

    official = {"model": {f"fc1.{n}": torch.zeros(3) for n in "ab"}, "config": Namespace(z_dim=8)}
    theirs = {"model": {official_name(n): w for n, w in build(ModelConfig(), 0).state_dict().items()},
              "config": Namespace(z_dim=8)}

    def idx(content):
        assert write_idx(read_idx(content).numpy()) == content, "it was read as another"

    def old(pairs):
        return pickle.dumps(pairs, 2).replace(b"numpy._core.multiarray", b"numpy.core.multiarray")

    pairs = tuple((np.full((n, 784), 0.5, np.float32), np.arange(n)) for n in (3, 2, 2))

    def mirror(content):
        data.SOURCES["fashion"] = {"the mirror": lambda *_: sources._unpickled(io.BytesIO(content))}
        data.load("fashion", folder / "data")
        for kept in (folder / "data" / "fashion").iterdir():
            kept.unlink()

    def metrics(content):
        chapter.write_metrics(folder, "x", {})
        (folder / "x" / "metrics.json").write_bytes(content)
        claims.check(folder, [
            claims.Claim("one", "x", "gray", lambda m: m["a"]["b"], "<=", lambda m: max(m["c"])),
            claims.Claim("two", "x", "gray", lambda m: max(r["d"] for r in m["e"].values()), ">=", lambda m: 0)])

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
    run_dir = folder / "runs" / "x"
    (run_dir / "01_x").mkdir(parents=True, exist_ok=True)
    stage = folder / "stage"
    for name in ("executed", "notebooks", "figures", "book"):
        (stage / name).mkdir(parents=True, exist_ok=True)
    page = notebook()

    def executed(name):
        def read(content):
            (run_dir / "run.json").write_text('{"parameters": {"forget": 9}}')
            (run_dir / "01_x.ipynb").write_bytes(page)
            (run_dir / "01_x" / "metrics.json").write_text('{"models": {"baseline": "00"}}')
            (stage / "book" / "p.md").write_text("# P\n{{01_x.models}} {{how it was run}} {{figure 01_x 1}}\n")
            (run_dir / name).write_bytes(content)
            # The same as `site.render` without Jupyter Book.
            site._write_pages(stage, run_dir, execution.executed(folder, run_dir), "https://github.com/a/b")
        return read

    def archive(content):
        os.environ["SA_MODELS"] = f"{path}#sha256={hashlib.sha256(content).hexdigest()}"
        target = artifacts._models() / "cvae" / "a.safetensors"
        target.unlink(missing_ok=True)
        if artifacts._unpack(target):
            assert target.parent == artifacts._models() / "cvae"
            if (unpacked := artifacts._good(target, {"kind": "cvae"})) is not None:
                assert store.tensor_digest(unpacked.tensors) == digest, "it has other tensors"

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
        "idx": Case(idx, *(write_idx(np.zeros(shape, np.uint8)) for shape in ((2, 3, 4), 9))),
        "mirror": Case(mirror, old(pairs), old(canary), old((pairs, canary)), pickle.dumps([canary], 4)),
        "metrics": Case(metrics, json.dumps({"a": {"b": 1}, "c": [2, 3], "e": {"f": {"d": 1}},
                                             "parameters": claims.STATED_FOR}).encode()),
        "cell": Case(rows("cell.json", "metrics.json", {"a": {"b": 1.5}}), json.dumps(state).encode(), refused=()),
        "cell's metrics": Case(rows("metrics.json", "cell.json", state), b'{"a": {"b": 1.5}, "c": [1, 2]}', refused=()),
        "table": Case(csv, (evidence.RESULTS / "evidence.csv").read_bytes()[:6000],
                      b"cell,error,forget,seed,models.baseline.nelbo,models.retrain.nelbo\na,,9,0,1.5,2.5\n"),
        "notebook": Case(executed("01_x.ipynb"), page, notebook("<b>`x`"), refused=(BookError,)),
        "run": Case(executed("run.json"), b'{"parameters": {"forget": 9}}', refused=(BookError,)),
        "run's metrics": Case(executed("01_x/metrics.json"), b'{"models": {"baseline": "00"}}',
                              refused=(BookError,)),
        "archive": Case(archive, zipped({member: ours}), zipped({member: ours}, zipfile.ZIP_STORED), bomb,
                        zipped({f"../../{member}": ours, f"/tmp/{member}": ours, member: ours}),
                        zipped({member: ours}, zipfile.ZIP_LZMA)),
    }


# Mutations ----------------------------------------------------------------------------------

JSON = [None, True, -1, 0, 1.5, 1e999, 10**400, "", "x" * 9999, "\n", "\ud800", [], [[]], {}, {"a": None},
        {"": {"": 1}}]


def twisted(value, draw):
    """The JSON value with one of its parts, or all of it, replaced, deleted or wrapped."""
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
    """Other bytes: flipped, cut, spliced, enlarged, nested, or made of a twisted JSON value."""
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
            at = min(at, draw.randrange(200))  # headers are at the beginning or the end
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
    """A safetensors file with correct digests, as by an attacker who knows how to make them."""
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
        return serialize(tensors, {"sa_lib": header, "sha256": store.text_digest(header)})
    except UnicodeEncodeError:
        return serialize(tensors, {"sa_lib": header})


# The process that reads the files ---------------------------------------------------------------

class TooLong(BaseException):
    """Not an Exception, because the code under test may catch those."""


def too_long(*_):
    raise TooLong(f"longer than {SECONDS} s of the processor")


def bound_memory():
    """On Linux, limit the process to `MEMORY` beyond the memory that it has mapped so far."""
    try:
        import resource
        pages = int(Path("/proc/self/statm").read_text().split()[0])
    except (ImportError, FileNotFoundError):
        return
    limit = pages * os.sysconf("SC_PAGE_SIZE") + MEMORY
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


def judged(case, content, path):
    """The fault in the reading of the file; "" if the file was accepted as good or refused with an allowed error."""
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
    """Try `count` files from number `first`; print their count and the faults as JSON."""
    os.environ["SA_CACHE"] = str(folder / "cache")
    warnings.simplefilter("ignore")
    all_cases = cases(folder)
    for name, case in all_cases.items():
        for content in case.good[:1]:
            fault = judged(case, content, folder / "file")
            assert not fault, f"{name}, unchanged: {fault}"
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
            fault = judged(case, content, folder / "file")
        if not fault and (folder / "ran").exists():
            fault = "it ran code"
            (folder / "ran").unlink()
        if fault:
            wrong.append(f"case {number}, {name}: {fault}")
    print(json.dumps({"tried": count, "wrong": wrong}))


def test_a_hostile_file_is_good_or_refused_and_runs_no_code(tmp_path, amount, tally):
    count = amount(200, 12_000)
    done = subprocess.run([sys.executable, __file__, str(tmp_path), str(count)], capture_output=True, text=True,
                          env={**os.environ, "PYTHONPATH": f"{PROJECT}"}, timeout=600 + count)
    assert done.returncode == 0, done.stderr[-3000:]
    report = json.loads(done.stdout.splitlines()[-1])
    assert report["wrong"] == [], "\n".join(report["wrong"][:20])
    assert report["tried"] == count
    assert not (tmp_path.parent / "cvae").exists()
    assert not Path("/tmp/cvae").exists()
    tally["hostile files read"] += count


def test_a_trusted_pickle_does_run_the_command(tmp_path):
    pickle.loads(pickle.dumps(Command(tmp_path / "ran")))
    assert (tmp_path / "ran").exists()


if __name__ == "__main__":
    main(Path(sys.argv[1]), *map(int, sys.argv[2:]))
