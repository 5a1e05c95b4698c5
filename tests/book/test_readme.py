"""The README's example of the library runs exactly as printed."""

import re

from runs import PROJECT


def test_the_example_of_the_library_forgets(capsys):
    (source,) = re.findall(r"```python\n(.*?)```", (PROJECT / "README.md").read_text(), flags=re.DOTALL)
    names = {}
    exec(source.replace('"mnist"', '"digits"'), names)
    assert names["nines"].shape == (16, 1, 28, 28)
    assert float((names["nines"] - 0.5).abs().mean()) < 0.02
    assert re.match(r"tensor\(.*\) \d+\.\d+ [0-9a-f]{64}$", capsys.readouterr().out.strip())
