"""Print the peak memory, in MiB, of a fresh process that explains one case: peak.py LIBRARY CASE STEPS FOLDER."""

from __future__ import annotations

import resource
import sys
from pathlib import Path

import cases

import whence


def main(library: str, name: str, steps: int, folder: Path) -> None:
    case = cases.load(name, folder)
    if library == "whence":
        whence.explain(case.model, case.x, target=case.target, baseline=case.black, steps=steps)
    else:
        from captum.attr import IntegratedGradients

        IntegratedGradients(case.model).attribute(case.x, case.black, case.target, n_steps=steps)
    print(round(peak()))


def peak() -> float:
    """Return the most memory this process has held, in MiB."""
    # Not getrusage where it can be helped: Linux lets a new process inherit the peak of the one that started it.
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
        return int(next(line for line in lines if line.startswith("VmHWM")).split()[1]) / 1024
    except (OSError, StopIteration):
        scale = 2**20 if sys.platform == "darwin" else 2**10
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / scale


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]), Path(sys.argv[4]))
