"""Check that every web address in the repository's texts still answers.

    python3 tools/links.py

This script needs only the standard library. A site that answers but refuses
programs, or is busy, counts as working.
"""

import re
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import Request, urlopen

ROOT = Path(__file__).resolve().parent.parent
TEXTS = ("*.md", ".github/*.md", "*.cff", "*.toml", "LICENSE*", "book/*.md", "book/*.bib", "notebooks/*.py",
         ".github/workflows/*.yml")
GONE = (404, 410)


def addresses(root: Path) -> Iterator[tuple[str, str]]:
    """Each address once, with the first file that has it; addresses with the placeholder are left out."""
    seen = set()
    for path in (path for pattern in TEXTS for path in sorted(root.glob(pattern))):
        for text in re.findall(r"https?://[^\s<>()\[\]\"'`|\\^{}]+", path.read_text(encoding="utf-8")):
            address = text.rstrip(".,;:").partition("#")[0]
            if address not in seen and "YOUR_ACCOUNT" not in address and "..." not in address:
                seen.add(address)
                yield address, path.relative_to(root).as_posix()


def trouble(address: str) -> str:
    """The reason that the address does not work; "" if it works."""
    try:
        with urlopen(Request(address, headers={"User-Agent": "Mozilla/5.0 (link check)"}), timeout=30):
            return ""
    except HTTPError as error:
        return f"answers {error.code}" if error.code in GONE else ""
    except (OSError, ValueError) as error:
        return str(error)


def main() -> int:
    """Check all addresses; return the exit status."""
    checked = list(addresses(ROOT))
    with ThreadPoolExecutor(8) as pool:
        troubles = list(pool.map(trouble, (address for address, _ in checked)))
    for (address, where), reason in zip(checked, troubles, strict=True):
        if reason:
            print(f"{where}: {address}: {reason}", file=sys.stderr)
    print(f"{len(checked)} addresses, {sum(map(bool, troubles))} broken")
    return int(any(troubles))


if __name__ == "__main__":
    sys.exit(main())
