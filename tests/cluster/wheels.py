"""Building a wheel as a user's pip would."""

import subprocess
import sys
import zipfile
from pathlib import Path


def unpacked_wheel(project: Path, out: Path) -> Path:
    """Build the wheel of ``project`` under ``out``; returns the folder it is unpacked in."""
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", str(out), str(project)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    (built,) = out.glob("*.whl")
    with zipfile.ZipFile(built) as archive:
        archive.extractall(out / "unpacked")
    return out / "unpacked"
