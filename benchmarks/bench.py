"""Measure whence against captum and against a hand-written loop: `make bench`, or python benchmarks/bench.py --quick.

All contestants run in one process, in turn, and ratios are medians over the rounds, so that a busy machine disturbs
them least. Nothing is asserted about times. The table goes to the terminal and to benchmarks/results.md.
"""

from __future__ import annotations

import argparse
import copy
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
try:
    import cases
    import measure
    import peak
    import torch
    from captum.attr import IntegratedGradients
    from cases import Case, hand_written
    from coalitions import coalition_tables
    from measure import Table, interleaved, machine, milliseconds, relative
    from rich.console import Console
    from rules import rules_in_units
    from threadpoolctl import threadpool_limits
    from tolerance import exact_integrals, to_two_percent

    import whence
except ModuleNotFoundError as problem:
    sys.exit(
        f"{problem.name} is not installed for this Python; `make bench` prepares an environment that has it"
    )

STEPS = 50
Contestant = Callable[[], Any]


@dataclass(frozen=True)
class Effort:
    """How much is measured: rounds for a light and for a heavy case, nodes of the reference, steps for memory."""

    light: int
    heavy: int
    reference: int
    memory: tuple[int, ...]

    def rounds(self, case: Case) -> int:
        return self.heavy if case.heavy else self.light * (1 if len(case.x) > 1 else 2)


FULL = Effort(light=15, heavy=5, reference=2048, memory=(16, 256, 4096))
QUICK = Effort(light=5, heavy=1, reference=512, memory=(16, 256))


def explained(case: Case, model: Any = None, **options: Any) -> Any:
    """Run whence on a case."""
    given = {"target": case.target, "baseline": case.black} | options
    return whence.explain(case.model if model is None else model, case.x, **given)


def captum(case: Case, **options: Any) -> torch.Tensor:
    """Run captum on a case, with its defaults where nothing else is said."""
    method = IntegratedGradients(case.model)
    return method.attribute(case.x, case.black, case.target, method="gausslegendre", **options).detach()


def same_nodes(found: list[Case], effort: Effort) -> Table:
    table = Table(
        f"The same {STEPS} Gauss nodes: time",
        "Ratios are medians of the ratios within each round. First: a model that whence has not seen before, whose "
        "chunk it must still find. In brackets: the rows in a chunk.",
        (
            "case", "whence", "captum", "captum, internal_batch_size=8", "loop at its best chunk", "whence, first",
            "whence / captum", "whence / captum, 8", "whence / loop",
        ),
    )  # fmt: skip
    for case in found:
        tries = 2 if case.heavy else 3
        chunk = min(
            case.chunks, key=lambda size, case=case: interleaved(_loop(case, size), tries, 1).of("loop")
        )
        rounds = effort.rounds(case)
        times = interleaved(_fifty_nodes(case, rounds + case.warm) | _loop(case, chunk), rounds, case.warm)
        cells = [milliseconds(times.of(each)) for each in ("whence", "captum", "captum 8", "loop", "first")]
        cells[3] += f" ({chunk})"
        ratios = [f"{times.ratio('whence', each):.2f}" for each in ("captum", "captum 8", "loop")]
        table.rows.append((case.name, *cells, *ratios))
    return table


def _fifty_nodes(case: Case, copies: int) -> dict[str, Contestant]:
    fresh = [copy.deepcopy(case.model) for _ in range(copies)]
    return {
        "whence": lambda: explained(case, steps=STEPS),
        "captum": lambda: captum(case, n_steps=STEPS),
        "captum 8": lambda: captum(case, n_steps=STEPS, internal_batch_size=8),
        "first": lambda: explained(case, fresh.pop(), steps=STEPS),
    }


def _loop(case: Case, chunk: int) -> dict[str, Contestant]:
    return {"loop": lambda: hand_written(case, chunk)}


def same_numbers(found: list[Case]) -> Table:
    table = Table(
        f"The same {STEPS} Gauss nodes: numbers",
        "The largest relative L1 difference of an example; 1e-5 is allowed. In float32 a ReLU that rounding switches "
        "the other way at one node shows: captum differs from itself as much when its batches change.",
        (
            "case", "whence - captum", "whence - loop", "captum - captum, internal_batch_size=8",
            "whence - captum, float64",
        ),
    )  # fmt: skip
    for case in found:
        ours, theirs = explained(case, steps=STEPS).values, captum(case, n_steps=STEPS)
        differences = (
            relative(ours, theirs),
            relative(ours, hand_written(case, 8)),
            relative(theirs, captum(case, n_steps=STEPS, internal_batch_size=8)),
            _difference_in_float64(case),
        )
        table.rows.append((case.name, *(f"{each.max():.1e}" for each in differences)))
    return table


def _difference_in_float64(case: Case) -> torch.Tensor:
    double = replace(case, model=copy.deepcopy(case.model).double(), x=case.x.double())
    theirs = captum(double, n_steps=STEPS, internal_batch_size=8)
    return relative(explained(double, steps=STEPS).values, theirs)


def all_classes(found: list[Case], effort: Effort) -> Table:
    table = Table(
        'All ten classes at once (target="all") against ten runs',
        f"{STEPS} Gauss nodes.",
        ("case", "at once", "ten runs", "ratio", "largest difference"),
    )
    for case in found:
        if case.heavy or len(case.x) == 1:
            continue
        both = _ten_classes(case)
        difference = relative(*(run().flatten(0, 1) for run in both.values())).max()
        times = interleaved(both, max(1, effort.light // 3), 2)
        table.rows.append((
            case.name, milliseconds(times.of("together")), milliseconds(times.of("apart")),
            f"{times.ratio('together', 'apart'):.2f}", f"{difference:.1e}",
        ))  # fmt: skip
    return table


def _ten_classes(case: Case) -> dict[str, Contestant]:
    def apart() -> torch.Tensor:
        return torch.stack([explained(case, steps=STEPS, target=k).values for k in range(10)], 1)

    return {"together": lambda: explained(case, steps=STEPS, target="all").values, "apart": apart}


def overhead(effort: Effort) -> Table:
    model, x = torch.nn.Linear(4, 2), torch.ones(1, 4)

    def bare() -> torch.Tensor:
        point = x.clone().requires_grad_()
        return torch.autograd.grad(model(point)[:, 0].sum(), point)[0]

    peer = IntegratedGradients(model)
    times = interleaved(
        {
            "whence": lambda: whence.explain(model, x, target=0, steps=1),
            "captum": lambda: peer.attribute(x, target=0, n_steps=1),
            "bare": bare,
        },
        20 * effort.light,
        warm=10,
    )
    own = times.of("whence") - times.of("bare")
    return Table(
        "What a call costs besides the gradients",
        "One node on a linear layer of four inputs. The model is copied, its output and the baseline's are checked and "
        "kept, a repeated forward tells whether it draws lots.",
        ("whence", "captum", "bare gradient", "whence - bare gradient"),
        [
            tuple(
                milliseconds(each)
                for each in (*(times.of(name) for name in ("whence", "captum", "bare")), own)
            )
        ],
    )


def memory(found: list[Case], effort: Effort, folder: Path) -> Table:
    sizes = tuple(f"whence, {steps:,}" for steps in effort.memory)
    table = Table(
        "Peak memory of the whole process, by the number of steps",
        "A fresh process each, with PyTorch, the model and the data in it. Captum takes all steps at once.",
        ("case", *sizes, "last / first", "captum, 16", "captum, 256"),
    )
    for case in found:
        if case.name not in ("mnist-cnn, batch 16", "mobilenet-v2, photo") or (
            case.heavy and effort is QUICK
        ):
            continue
        ours = [peak.fresh("whence", case.name, steps, folder) for steps in effort.memory]
        # 256 photographs at once would take some 13 GiB.
        theirs = [
            f"{peak.fresh('captum', case.name, steps, folder):,} MiB"
            for steps in ((16,) if case.heavy else (16, 256))
        ]
        theirs += ["not tried"] * (2 - len(theirs))
        table.rows.append(
            (case.name, *(f"{each:,} MiB" for each in ours), f"{ours[-1] / ours[0]:.2f}", *theirs)
        )
    return table


def measured(found: list[Case], effort: Effort, folder: Path) -> Iterator[Table]:
    """Yield the tables as they come."""
    yield from ruled(found, effort)
    # Memory comes first: the processes that are measured should not have to share the machine's with ours.
    yield memory(found, effort, folder)
    yield same_nodes(found, effort)
    yield same_numbers(found)
    yield to_two_percent(found, effort.rounds, effort.reference, explained, captum)
    yield exact_integrals(found, 3 if effort is FULL else 1, explained)
    yield all_classes(found, effort)
    yield overhead(effort)
    yield from coalition_tables(found, effort.light, folder)


def ruled(found: list[Case], effort: Effort) -> Iterator[Table]:
    """Yield what rules cost, where the small convolutional network is among the cases."""
    for case in found:
        if case.name == "mnist-cnn, batch 16":
            yield rules_in_units(case, effort.light)


def _asked(asked: argparse.Namespace, found: list[Case], effort: Effort) -> Iterator[Table]:
    if asked.rules:
        return ruled(found, effort)
    if asked.coalitions:
        return coalition_tables(found, effort.light, asked.data_dir)
    return measured(found, effort, asked.data_dir)


def main() -> int:
    parser = argparse.ArgumentParser(
        description="Measure whence against captum, shap, lime and loops by hand."
    )
    parser.add_argument(
        "--quick", action="store_true", help="few rounds and a smaller reference: a few minutes"
    )
    parser.add_argument("--data-dir", type=Path, default=HERE.parent.parent / "shared", metavar="DIR",
                        help="the folder of mnist/, models/ and images/ (default: ../shared)")  # fmt: skip
    parser.add_argument(
        "--busy",
        action="store_true",
        help="one thread and processor time: steadier where others use the cores",
    )
    parser.add_argument(
        "--only", metavar="WORDS", default="", help="only the cases whose name holds these words"
    )
    parser.add_argument("--rules", action="store_true", help="only what rules cost: half a minute")
    parser.add_argument(
        "--coalitions", action="store_true", help="only methods that switch features: a quarter of an hour"
    )
    parser.add_argument("--out", type=Path, default=HERE / "results.md", metavar="FILE")
    asked = parser.parse_args()
    warnings.filterwarnings("ignore", module="captum")
    if asked.busy:
        torch.set_num_threads(1)
        # NumPy's threads too: of a small product they wait longer for one another than it takes.
        threadpool_limits(1)
        measure.clock = time.process_time
    console = Console(width=None if sys.stdout.isatty() else 160)
    found, missing = cases.load_all(asked.data_dir)
    found = [case for case in found if asked.only in case.name]
    for line in missing:
        console.print(f"left out: {line}", style="yellow")
    if not found:
        print("bench: there is nothing to measure; see above", file=sys.stderr)
        return 2
    effort = QUICK if asked.quick else FULL
    about = machine() | {"effort": "quick" if asked.quick else "full"}
    tables: list[Table] = []
    for table in _asked(asked, found, effort):
        table.print(console)
        tables.append(table)
    lines = ["# Benchmark", "", "Written by `make bench`.", ""]
    lines += [f"- {name}: {value}" for name, value in about.items()] + [
        f"- left out: {each}" for each in missing
    ]
    asked.out.write_text("\n".join([*lines, "", *(table.markdown() for table in tables)]), encoding="utf-8")
    console.print(f"written to {asked.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
