"""Make the project's virtual environment, or see in no time that it is there.

    python3 tools/environment.py .venv

Standard library only: it runs before anything is installed. The environment
carries a stamp of what it was made from. One without a stamp was not finished
and is made again; one with another stamp is brought up to date.
"""

import hashlib
import importlib.util
import platform
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
OLDEST, NEWEST = (3, 11), (3, 13)
# PyTorch's default build for x86-64 Linux brings CUDA along.
DISK_GB = 8 if (platform.system(), platform.machine()) == ("Linux", "x86_64") else 3


class SetupError(Exception):
    """What is missing, in one sentence."""


def wanted_stamp(folder: Path) -> str:
    """A hash of everything that decides what an environment in `folder` should be."""
    digest = hashlib.sha256(f"{folder} {sys.version_info[:2]} {platform.machine()}".encode())
    for name in ("pyproject.toml", "constraints.txt"):
        digest.update((ROOT / name).read_bytes())
    return digest.hexdigest()


def check_python() -> None:
    """Refuse a Python that will not do.

    Raises:
        SetupError: its version is not supported, or it cannot make virtual environments.
    """
    if not OLDEST <= sys.version_info[:2] <= NEWEST:
        raise SetupError(f"this is Python {platform.python_version()}; 3.{OLDEST[1]} to 3.{NEWEST[1]} is "
                         "needed: name one, as in make book PYTHON=python3.12")
    if not all(importlib.util.find_spec(name) for name in ("venv", "ensurepip")):
        raise SetupError("this Python cannot make virtual environments; "
                         "install the package python3-venv (Debian, Ubuntu: sudo apt install python3-venv)")


def check_disk(folder: Path) -> None:
    """Refuse a disk without room for the packages.

    Raises:
        SetupError: fewer than `DISK_GB` gigabytes are free where `folder` will be.
    """
    free = shutil.disk_usage(folder.parent).free / 1e9
    if free < DISK_GB:
        raise SetupError(f"{folder.parent} has {free:.1f} GB free; the packages need {DISK_GB} GB")


def install(folder: Path) -> None:
    """Install the project and its packages into the environment.

    Raises:
        SetupError: pip failed; the message says why where pip's own does not.
    """
    pip = subprocess.Popen([folder / "bin" / "python", "-m", "pip", "--disable-pip-version-check", "install",
                            "-c", "constraints.txt", "-e", ".[book,test,sweep]"],
                           cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    said = ""
    for line in pip.stdout:
        said += line
        print(line, end="", flush=True)
    if pip.wait():
        raise SetupError(explain(said))


def explain(said: str) -> str:
    """One sentence for what pip wrote when it failed."""
    # Of an index that it cannot reach, pip's build step says only that it has no version of anything.
    if any(sign in said for sign in ("connection broken", "Could not fetch URL", "(from versions: none)")):
        return "no package index could be reached; check the network, or pip's settings, and try again"
    if "No space left on device" in said:
        return "the disk is full; make room and try again"
    return "pip could not install the packages; its own message is above"


def ensure(folder: Path) -> None:
    """Make or update the environment in `folder` unless it is as it should be.

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
            raise SetupError(f"{folder} is not a virtual environment; move it away or use another folder, "
                             "as in make book VENV=env")
        check_disk(folder)
    if before is None or not works(folder):
        print(f"making {folder}: a few minutes, {DISK_GB} GB at most", flush=True)
        subprocess.run([sys.executable, "-m", "venv", "--clear", folder], check=True)
    stamp.unlink(missing_ok=True)
    try:
        install(folder)
    except SetupError:
        if before is not None:  # pip undoes what it could not finish: what was there still works
            stamp.write_text(before)
        raise
    stamp.write_text(wanted)


def works(folder: Path) -> bool:
    """Whether the environment has pip and a Python that starts, is of this version and belongs there."""
    code = "import pip, sys; print(*sys.version_info[:2], sys.prefix)"
    try:
        said = subprocess.run([folder / "bin" / "python", "-c", code], capture_output=True, text=True).stdout
    except OSError:
        return False
    return said.split(maxsplit=2) == [*map(str, sys.version_info[:2]), f"{folder}\n"]


def main() -> int:
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else ".venv").absolute()
    try:
        ensure(folder)
    except (SetupError, OSError, subprocess.CalledProcessError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
