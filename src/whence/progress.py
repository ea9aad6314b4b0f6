"""A progress bar for long work, in a terminal and in a notebook; silent for short work."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

# Seconds of work before a bar appears: a bar that flashes by is noise.
DELAY = 1.0


@dataclass
class Progress:
    """Counts gradients; with `shown` it draws a bar. The total may grow while a tolerance asks for more."""

    shown: bool = False
    label: str = ""
    bar: Any = field(default=None, repr=False)

    def expect(self, count: int) -> None:
        """Announce more work."""
        if self.shown:
            if self.bar is None:
                from tqdm.auto import tqdm

                self.bar = tqdm(total=0, desc=self.label, unit="gradient", delay=DELAY, leave=False)
            self.bar.total += count
            self.bar.refresh() if self.bar.n else None

    def advance(self, count: int) -> None:
        """Report finished work."""
        if self.bar is not None:
            self.bar.update(count)

    def close(self) -> None:
        """Take the bar away."""
        if self.bar is not None:
            self.bar.close()
