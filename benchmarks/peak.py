"""Print the peak memory, in MiB, of a fresh process that explains one case: peak.py LIBRARY CASE SIZE FOLDER.

LIBRARY is whence or captum (integrated gradients of SIZE steps), or a method of whence that takes SIZE samples.
"""

from __future__ import annotations

import resource
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import cases

import whence


def main(library: str, name: str, size: int, folder: Path) -> None:
    case = cases.load(name, folder)
    if library == "captum":
        from captum.attr import IntegratedGradients

        IntegratedGradients(case.model).attribute(case.x, case.black, case.target, n_steps=size)
    elif library == "whence":
        whence.explain(case.model, case.x, target=case.target, baseline=case.black, steps=size)
    else:
        # From the mean of the training pixels, 0, every patch differs.
        given = {"features": whence.features.patches(4), "baseline": 0.0, "samples": size}
        forget()
        whence.explain(case.model, case.x, library, target=case.target, **given)
    print(round(peak()))


def fresh(library: str, name: str, size: int, folder: Path) -> int:
    """Return the peak of a process of its own, in MiB."""
    command = [sys.executable, str(Path(__file__).resolve()), library, name, str(size), str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} failed: {done.stderr.strip()}")
    return int(done.stdout)


def forget() -> None:
    """Let the peak start anew where the system can: reading MNIST takes more than some methods, and would hide them."""
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


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
