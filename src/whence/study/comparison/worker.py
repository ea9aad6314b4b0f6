"""A process that does units of work as it is told: `python -m whence.study.comparison.worker FOLDER`.

It reads keys from its standard input, one a line, writes each part into the folder, and ends when the input does: also
when whoever started it was killed.
"""

from __future__ import annotations

import os
import sys
import traceback
from contextlib import ExitStack
from pathlib import Path
from typing import Final

DONE: Final = "whence-part: "
"""What the lines begin with that tell of a finished part."""
THREADS: Final = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
"""One thread a process: the processes share the cores, and the same number of threads gives the same bits."""


def main(folder: Path) -> None:
    """Do what the lines say until there are no more."""
    import json

    from whence.study.comparison.jobs import Job
    from whence.study.comparison.setup import Setup
    from whence.study.comparison.store import ASKED, PICTURES, Part, Store
    from whence.study.comparison.subject import Pictures
    from whence.study.comparison.tasks import Bench, run

    store = Store(folder)
    setup = Setup.read(json.loads((folder / ASKED).read_text(encoding="utf-8"))["setup"])
    pictures = Pictures.load(folder / PICTURES)
    # What a network prints goes to the log: here only keys are told.
    told = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    with ExitStack() as held:
        benches = {each: Bench(setup, pictures, store, each, held) for each in setup.networks}
        for line in sys.stdin:
            key = line.strip()
            try:
                parts = run(benches[key.split("/")[1]], key)
            except Exception as problem:
                traceback.print_exc()
                failed = Part({}, {"failed": f"{type(problem).__name__}: {' '.join(str(problem).split())}"})
                parts = dict.fromkeys(Job(key).keys, failed)
            for each, part in parts.items():
                store.write(each, part)
            print(f"{DONE}{key}", file=told, flush=True)


if __name__ == "__main__":
    os.environ.update(THREADS)
    main(Path(sys.argv[1]))
