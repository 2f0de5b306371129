"""Files of a wheel against those of the repository: python .ci/wheel_files.py WHEEL; exit code 1 where they differ."""

from __future__ import annotations

import subprocess
import sys
import zipfile


def main(wheel: str) -> int:
    """Print what is missing and what is too much."""
    tracked = subprocess.run(["git", "ls-files", "jaxnlme"], capture_output=True, text=True, check=True)
    expected = set(tracked.stdout.split())
    with zipfile.ZipFile(wheel) as archive:
        found = {name for name in archive.namelist() if ".dist-info/" not in name}
    print("".join(f"not in the wheel: {name}\n" for name in sorted(expected - found)), end="")
    print("".join(f"in the wheel only: {name}\n" for name in sorted(found - expected)), end="")
    print(f"{len(found)} files in the wheel, {len(expected)} in the repository")
    return int(found != expected)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
