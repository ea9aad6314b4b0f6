"""What the pages of all studies share: the templates' environment, and the style sheet of the reports."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

TEMPLATES = Path(__file__).parents[1] / "templates"


def template(name: str) -> Any:
    """Return a template by the name of its file."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(TEMPLATES), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    return environment.get_template(name)


def style() -> str:
    """Return the style sheet of the reports, so that there is one."""
    text = (TEMPLATES / "report.html.jinja").read_text(encoding="utf-8")
    found = re.search(r"<style>(.*?)</style>", text, re.S)
    return "" if found is None else found[1]
