"""Everything that the page shows, in order: about an hour and a half on two idle cores.

    python benchmarks/all.py              # then look at benchmarks/README.md
    python benchmarks/all.py --quick      # about eight minutes, small sizes, into benchmarks/quick/ (not kept by git)
    python benchmarks/all.py --only units scaling

Each step is a process of its own that rewrites its results file after every row: an interrupted run loses no
finished row, a step that fails stops no other, and `--only` continues with the steps named. The report comes last.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
# name: arguments of the full run, arguments of the quick one
STEPS: dict[str, tuple[str, str]] = {
    "first_fit": ("--repeats 3", "--repeats 1 --approximations focei fo"),
    "run": ("--repeats 2", "--quick"),
    "references": ("--repeats 2", "--quick"),
    "saem": ("--repeats 2", "--quick"),
    "linear": ("", "--problems subjects casks --calls 2"),
    "large": ("", "--groups 2000"),
    "units": ("", "--groups 1000 2000 --repeats 5"),
    "scaling": ("", "--small --repeats 3"),
    "batches": ("", "--repeats 1 --fits 20 8"),
    "devices": ("", "--groups 1000 --repeats 1 --rows 0 2 4"),
    "study_coverage": ("", "--sets 8 --psi diagonal"),
}
QUICK = HERE / "quick"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--only", nargs="+", choices=list(STEPS), default=list(STEPS))
    options = parser.parse_args()
    extra, page = [], []
    if options.quick:
        QUICK.mkdir(exist_ok=True)
        shutil.copy(HERE / "README.md", QUICK / "README.md")
        extra, page = ["--folder", str(QUICK)], ["--folder", str(QUICK), "--page", str(QUICK / "README.md")]
    failed = []
    for step in options.only:
        print(f"== {step}", flush=True)
        began = time.perf_counter()
        arguments = STEPS[step][options.quick].split()
        if subprocess.run([sys.executable, str(HERE / f"{step}.py"), *arguments, *extra], check=False).returncode:
            failed.append(step)
        print(f"== {step}: {time.perf_counter() - began:.0f} s", flush=True)
    subprocess.run([sys.executable, str(HERE / "report.py"), *page], check=True)
    print(f"the page: {QUICK if options.quick else HERE}/README.md", flush=True)
    if failed:
        sys.exit(f"these steps failed: {', '.join(failed)}")


if __name__ == "__main__":
    main()
