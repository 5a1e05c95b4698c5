"""The page on audits: its examples run exactly as printed."""

import re
import shlex

import numpy as np
import pytest

from runs import PROJECT
from sa_lib import controls
from sa_lib.audit import audit
from sa_lib.audit_command import main
from sa_lib.checkpoints import save_model
from sa_lib.model import ModelConfig, build
from sa_lib.reconstruction import SearchConfig

PAGE = (PROJECT / "book" / "audit.md").read_text(encoding="utf-8")


def blocks(language):
    return re.findall(rf"```{language}\n(.*?)```", PAGE, flags=re.DOTALL)


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_examples_run(here, capsys, monkeypatch):
    monkeypatch.setattr(SearchConfig.__init__, "__defaults__", (256, 1, 5, 1))  # the models are tiny
    monkeypatch.setitem(audit.__wrapped__.__kwdefaults__, "search", SearchConfig())
    errors, decoders, make, mended, losses, mend = blocks("python")
    names = {}
    exec(errors, names)
    assert 0 < names["report"].rho < 0.3 and (here / "errors.csv").is_file()
    exec(decoders, names)
    assert names["report"].rho == 1 and (here / "attack.npz").is_file()
    assert "<svg" in (here / "report.html").read_text(encoding="utf-8")
    exec(mended, names)
    assert list(names["report"].findings)[1] == "y on the simplex, mended"
    exec(losses, names)
    assert len(names["report"].losses.means) == 5
    exec(mend, names)
    assert list(names["report"].findings)[1] == "y on the simplex, mended"
    (here / "mymodels.py").write_text(make)
    (here / "my_project.py").write_text(decoders[:decoders.index("baseline, *never")])
    np.savez(here / "images.npz", images=names["images"].numpy())
    for seed, name in enumerate(("forgot", "before", "never1", "never2")):
        save_model(here / f"{name}.safetensors", build(ModelConfig(latent_dim=2, hidden=(8, 4)), seed))
    np.savez(here / "nines.npz", images=np.random.default_rng(0).integers(0, 255, (3, 28, 28), dtype=np.uint8))
    install, commands, released = blocks("sh")
    models = build(ModelConfig(latent_dim=2, hidden=(8, 4)), 1), {2: build(ModelConfig(latent_dim=2, hidden=(8, 4)), 2)}
    address = controls.pack(here / "controls-9.zip", 9, *models)
    released = re.sub('"https://.*"', f'"{address}" --images nines.npz', released.replace(" --mend", ""))
    released = released.replace("--out card-nine", "--out card-released")
    assert install.startswith("pip install")
    for command in (commands + released).replace("\\\n", " ").splitlines():
        program, *arguments = shlex.split(command.replace("folder/", "images.npz"))
        short = [] if arguments[0].endswith(".csv") else ["--rounds", "1"]
        assert program == "sa-audit" and main([*arguments, *short]) == 0, capsys.readouterr().err
        assert (here / arguments[arguments.index("--out") + 1] / "index.html").is_file()


def test_the_readme_names_the_same_commands():
    readme = (PROJECT / "README.md").read_text(encoding="utf-8")
    assert len(re.findall(r"(?m)^sa-audit ", readme)) == 3 and "(book/audit.md)" in readme
