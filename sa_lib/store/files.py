"""The cache folder, and files that are written whole or not at all."""

import os
import uuid
from contextlib import contextmanager, suppress
from pathlib import Path

__all__ = ["cache_root", "expanded", "write_atomically"]


def expanded(path: str | Path) -> Path:
    """The path with ~ as the home. If ~name is not the home of a user, it is the name of a file."""
    return Path(os.path.expanduser(path))


def cache_root() -> Path:
    """The folder of everything that can be made again: ``SA_CACHE``, in which ~ is the home, or the user's cache.

    Raises:
        OSError: ``SA_CACHE`` names no folder, and the user has no home.
    """
    if named := os.environ.get("SA_CACHE"):
        return expanded(named)
    import platformdirs  # the audit of a reader's model must work without it

    with suppress(RuntimeError):  # platformdirs raises it for a user without a home, as in some containers
        if (folder := expanded(platformdirs.user_cache_dir("sa_lib"))).is_absolute():
            return folder
    raise OSError("SA_CACHE must name a folder where the user has no home, got nothing")


@contextmanager
def write_atomically(path: Path):
    """Give a temporary path beside `path`; rename it to `path` if the block succeeds.

    Raises:
        OSError: the folder cannot be made, or the file cannot be written; it names `path`.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    # Not tempfile: only the owner may read its files, and caches are shared.
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
