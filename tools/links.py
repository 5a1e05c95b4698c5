"""Ask every address in the repository's text whether it is still there.

    python3 tools/links.py

Standard library only. A site that answers but turns programs away counts as
there; so does one that is busy.
"""

import re
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import Request, urlopen

ROOT = Path(__file__).resolve().parent.parent
TEXTS = ("*.md", "*.cff", "*.toml", "LICENSE*", "book/*.md", "book/*.bib", "notebooks/*.py",
         ".github/workflows/*.yml")
GONE = (404, 410)


def addresses(root: Path) -> Iterator[tuple[str, str]]:
    """Each address once, with the first file that has it; none of the placeholder's."""
    seen = set()
    for path in (path for pattern in TEXTS for path in sorted(root.glob(pattern))):
        for found in re.findall(r"https?://[^\s<>()\[\]\"'`|\\^{}]+", path.read_text(encoding="utf-8")):
            address = found.rstrip(".,;:").partition("#")[0]
            if address not in seen and "YOUR_ACCOUNT" not in address and "..." not in address:
                seen.add(address)
                yield address, path.relative_to(root).as_posix()


def trouble(address: str) -> str:
    """Why nothing is there; "" if something is."""
    try:
        with urlopen(Request(address, headers={"User-Agent": "Mozilla/5.0 (link check)"}), timeout=30):
            return ""
    except HTTPError as error:
        return f"answers {error.code}" if error.code in GONE else ""
    except (OSError, ValueError) as error:
        return str(error)


def main() -> int:
    found = list(addresses(ROOT))
    with ThreadPoolExecutor(8) as pool:
        troubles = list(pool.map(trouble, (address for address, _ in found)))
    for (address, where), said in zip(found, troubles):
        if said:
            print(f"{where}: {address}: {said}", file=sys.stderr)
    print(f"{len(found)} addresses, {sum(map(bool, troubles))} of no use")
    return int(any(troubles))


if __name__ == "__main__":
    sys.exit(main())
