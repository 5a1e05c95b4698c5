"""Where files lie that can be made again, and how one is written: whole, or not at all."""

import hashlib
import os
import uuid
from contextlib import contextmanager, suppress
from pathlib import Path

import platformdirs

__all__ = ["cache_root", "file_digest", "write_atomically"]


def cache_root() -> Path:
    """The folder of everything that can be made again: ``SA_CACHE``, or the user's cache."""
    return Path(os.environ.get("SA_CACHE") or platformdirs.user_cache_dir("sa_lib"))


def file_digest(path: Path) -> str:
    """SHA-256 (hex) of a file's bytes."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def write_atomically(path: Path):
    """Give a temporary path beside `path`; rename it to `path` if the block succeeds."""
    path.parent.mkdir(parents=True, exist_ok=True)
    # Not tempfile, whose files are for the owner's eyes alone: caches are shared.
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        yield temporary
        os.replace(temporary, path)
    except OSError as error:
        if error.errno and error.filename in (None, str(temporary)):  # a full disk names no file
            error.filename = str(path)
        raise
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
