"""Make the project's virtual environment, or find at once that it is up to date.

    python3 tools/environment.py .venv

This script needs only the standard library, because it runs before anything is
installed. The environment carries a stamp, a hash of everything that it was
made from. An environment without a stamp is unfinished and is made again; an
environment with another stamp is updated.
"""

import hashlib
import importlib.util
import platform
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
CONSTRAINTS = "tools/constraints.txt"
OLDEST, NEWEST = (3, 11), (3, 13)
# PyTorch's default build for x86-64 Linux brings CUDA along.
DISK_GB = 8 if (platform.system(), platform.machine()) == ("Linux", "x86_64") else 3


class SetupError(Exception):
    """The environment cannot be made; the message gives the reason in one sentence."""


def wanted_stamp(folder: Path) -> str:
    """A hash of everything that an environment in `folder` depends on."""
    digest = hashlib.sha256(f"{folder} {sys.version_info[:2]} {platform.machine()}".encode())
    for name in ("pyproject.toml", CONSTRAINTS):
        digest.update((ROOT / name).read_bytes())
    return digest.hexdigest()


def check_python() -> None:
    """Refuse a Python of another version, or without the modules that make virtual environments.

    Raises:
        SetupError: the version is not supported, or a module is missing.
    """
    if not OLDEST <= sys.version_info[:2] <= NEWEST:
        raise SetupError(f"Python must be 3.{OLDEST[1]} to 3.{NEWEST[1]}, got {platform.python_version()}; "
                         "name another one, as in make book PYTHON=python3.12")
    missing = [name for name in ("venv", "ensurepip") if not importlib.util.find_spec(name)]
    if missing:
        raise SetupError(f"Python must have the modules venv and ensurepip, got one without {' and '.join(missing)}; "
                         "install the package python3-venv (Debian, Ubuntu: sudo apt install python3-venv)")


def check_disk(folder: Path) -> None:
    """Refuse a disk without room for the packages.

    Raises:
        SetupError: fewer than `DISK_GB` gigabytes are free on the disk of `folder`.
    """
    free = shutil.disk_usage(folder.parent).free / 1e9
    if free < DISK_GB:
        raise SetupError(f"free space in {folder.parent} must be at least {DISK_GB} GB, got {free:.1f} GB")


def install(folder: Path) -> None:
    """Install the project and its packages into the environment.

    Raises:
        SetupError: pip failed; the message gives a reason if pip's own message does not.
    """
    pip = subprocess.Popen([folder / "bin" / "python", "-m", "pip", "--disable-pip-version-check", "install",
                            "-c", CONSTRAINTS, "-e", ".[book,test,lint]"],
                           cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    output = ""
    for line in pip.stdout:
        output += line
        print(line, end="", flush=True)
    if pip.wait():
        raise SetupError(explain(output))


def explain(output: str) -> str:
    """The reason for pip's failure in one sentence, from its output."""
    # If pip's build step cannot reach an index, it reports only that there are no versions of a package.
    if any(sign in output for sign in ("connection broken", "Could not fetch URL", "(from versions: none)")):
        return "no package index could be reached; check the network, or pip's settings, and try again"
    if "No space left on device" in output:
        return "the disk is full; make room and try again"
    return "pip could not install the packages; its own message is above"


def ensure(folder: Path) -> None:
    """Make or update the environment in `folder`, unless it is up to date.

    Raises:
        SetupError: it cannot be made.
    """
    stamp, wanted = folder / "sa_lib.stamp", wanted_stamp(folder)
    before = stamp.read_text() if stamp.is_file() else None
    if before == wanted and (folder / "bin" / "python").exists():
        return
    check_python()
    if before is None:
        if folder.exists() and any(folder.iterdir()) and not (folder / "pyvenv.cfg").is_file():
            raise SetupError(f"VENV must be a virtual environment or a new folder, got {folder}; move this folder "
                             "away or name another one, as in make book VENV=env")
        check_disk(folder)
    if before is None or not works(folder):
        print(f"making {folder}: a few minutes, {DISK_GB} GB at most", flush=True)
        subprocess.run([sys.executable, "-m", "venv", "--clear", folder], check=True)
    stamp.unlink(missing_ok=True)
    try:
        install(folder)
    except SetupError:
        if before is not None:  # pip rolls back a failed installation, so the old environment still works
            stamp.write_text(before)
        raise
    stamp.write_text(wanted)


def works(folder: Path) -> bool:
    """Whether the environment has pip, and a Python of this version that starts and belongs to this folder."""
    code = "import pip, sys; print(*sys.version_info[:2], sys.prefix)"
    try:
        answer = subprocess.run([folder / "bin" / "python", "-c", code], capture_output=True, text=True).stdout
    except OSError:
        return False
    return answer.split(maxsplit=2) == [*map(str, sys.version_info[:2]), f"{folder}\n"]


def main() -> int:
    """Make the environment; return the exit status."""
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else ".venv").absolute()
    try:
        ensure(folder)
    except (SetupError, OSError, subprocess.CalledProcessError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
