"""The README's example of the library runs as it stands there."""

import re
from pathlib import Path

README = Path(__file__).parent.parent / "README.md"


def test_the_example_of_the_library_forgets(capsys):
    (source,) = re.findall(r"```python\n(.*?)```", README.read_text(), flags=re.DOTALL)
    names = {}
    exec(source.replace('"mnist"', '"digits"'), names)
    assert names["nines"].shape == (16, 1, 28, 28)
    assert float((names["nines"] - 0.5).abs().mean()) < 0.02
    assert re.match(r"tensor\(.*\) \d+\.\d+ [0-9a-f]{64}$", capsys.readouterr().out.strip())
