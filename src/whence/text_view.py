"""Text in colour: every token on a background that says its share, for terminals and as a piece of HTML."""

from __future__ import annotations

import html
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float, UInt8

from whence import view
from whence.attribution import first_array, to_numpy
from whence.caption import at_row, number, target_text, written
from whence.errors import BadInput

if TYPE_CHECKING:
    from rich.text import Text

    from whence.attribution import Attribution

# How many steps of colour stand in a legend.
STEPS = 11
# Up to so many tokens the scale ends at the largest share: of few, a percentile is the largest but for a little.
FEW = 200
SIGNS = {"\n": "↵", "\t": "⇥", "\r": "↵", "\u00a0": "\u00a0", "\u200d": "\u200d"}
FONT = "font-family:system-ui,sans-serif;color:#222"


def shares_of_tokens(
    result: Attribution, tokens: Sequence[Any], row: int, what: str
) -> tuple[list[str], Float[np.ndarray, "tokens"]]:
    """Return one example's tokens and the share of each: its feature's, or its values summed.

    Raises:
        BadInput: there is no such example, the tokens are not as many as the shares, or the result holds every class.
    """
    if result.every_class:
        raise BadInput(f"{what}: this result holds every class; take one with .for_class(index)")
    batch = len(result.output)
    if not -batch <= row < batch:
        raise BadInput(f"{what}: row {row}: there are {batch} examples, 0 to {batch - 1}")
    row %= batch
    mine = _tokens_of(tokens, row, batch, what)
    shares = _shares(result, row, len(mine))
    if len(shares) != len(mine):
        raise BadInput(
            f"{what}: {len(mine)} tokens for the {len(shares)} shares of example {row}; give one text for each, "
            "with those that pad the sequence"
        )
    return mine, view.finite(shares)


def _tokens_of(tokens: Sequence[Any], row: int, batch: int, what: str) -> list[str]:
    """Return the row's tokens: of a list for each example, or of the only one."""
    if isinstance(tokens, str) or not all(isinstance(each, (str, list, tuple)) for each in tokens):
        raise BadInput(f"{what}: tokens is a list of texts for each example: [['a', 'b'], ['c', 'd']]")
    if all(isinstance(each, str) for each in tokens):
        return list(tokens)
    if len(tokens) != batch:
        raise BadInput(f"{what}: tokens of {len(tokens)} examples for {batch}; give a list of texts for each")
    return [str(each) for each in tokens[row]]


def _shares(result: Attribution, row: int, count: int) -> Float[np.ndarray, "tokens"]:
    """Return the shares of features where they are as many as the tokens, else the values summed over further axes."""
    if result.shares is not None:
        shares = to_numpy(result.shares)[row].astype(np.float64)
        shares = shares[np.isfinite(shares)]
        if len(shares) == count:
            return shares
    values = np.atleast_1d(first_array(result.values)[row].astype(np.float64))
    # One share stands on each number of a token where the token is the feature.
    summed = np.mean if result.settings.get("repeated") else np.sum
    return values if values.ndim == 1 else summed(values.reshape(len(values), -1), axis=1)


def visible(token: str) -> str:
    """Return a token with its control characters as signs: they would move a terminal's cursor, or break a page."""
    return "".join(SIGNS.get(each, each if each.isprintable() else ascii(each)[1:-1]) for each in token)


def _ink(background: UInt8[np.ndarray, "3"]) -> str:
    """Return black or white, whichever is easier to read on a colour (WCAG's relative luminance)."""
    linear = (background / 255.0) ** 2.2
    return "#000000" if float(linear @ np.array([0.2126, 0.7152, 0.0722])) > 0.18 else "#ffffff"


def _code(colour: UInt8[np.ndarray, "3"]) -> str:
    return "#" + bytes(colour.tolist()).hex()


def _scale(shares: Float[np.ndarray, "tokens"]) -> tuple[float, bool, list[str]]:
    """Return the limit of the scale of colours, whether it has two sides, and its colours from end to end."""
    limit = view.colour_scale(shares) if len(shares) > FEW else float(np.abs(shares).max(initial=0)) or 1.0
    signed = view.is_signed(shares)
    steps = np.linspace(-limit if signed else 0.0, limit, STEPS)
    return limit, signed, [_code(each) for each in view.colour(steps, limit, signed=signed)]


def _headline(result: Attribution, row: int) -> str:
    output = number(at_row(result.output, row), 4)
    return f"{written(result.method)} · target: {target_text(result, row)} · output: {output}"


def _plus(value: float, digits: int = 3) -> str:
    return f"+{number(value, digits)}" if value > 0 else number(value, digits)


def _ends(limit: float, signed: bool) -> tuple[str, str]:
    if signed:
        return f"against {number(-limit)}", f"{_plus(limit)} for the target"
    return "no part 0", f"{number(limit)} large part"


def to_text(result: Attribution, tokens: Sequence[Any], row: int = 0) -> Text:
    """Return one example's tokens, each on the colour of its share, with the scale: `rich.print` shows it.

    Args:
        result: an explanation of tokens: of their numbers, or of a layer [batch, tokens, ...] such as an embedding.
        tokens: for each example a list of texts, one for each share (or that one list).
        row: the example.

    Raises:
        BadInput: the tokens are not as many as the shares, or the result holds every class.
    """
    from rich.text import Text

    mine, shares = shares_of_tokens(result, tokens, row, "to_text")
    limit, signed, steps = _scale(shares)
    text = Text(_headline(result, row % len(result.output)) + "\n\n")
    for token, colour in zip(mine, view.colour(shares, limit, signed=signed), strict=True):
        text.append(visible(token) or "·", style=f"{_ink(colour)} on {_code(colour)}").append(" ")
    low, high = _ends(limit, signed)
    text.append(f"\n\n{low} ")
    for code in steps:
        text.append("  ", style=f"on {code}")
    return text.append(f" {high}")


def text_html(result: Attribution, tokens: Sequence[Any], row: int = 0) -> str:
    """Return one example's tokens as a piece of HTML that needs nothing else: colours, numbers on hover, the scale.

    Args:
        result: an explanation of tokens: of their numbers, or of a layer [batch, tokens, ...] such as an embedding.
        tokens: for each example a list of texts, one for each share (or that one list).
        row: the example.

    Raises:
        BadInput: the tokens are not as many as the shares, or the result holds every class.
    """
    mine, shares = shares_of_tokens(result, tokens, row, "text_html")
    limit, signed, steps = _scale(shares)
    colours = view.colour(shares, limit, signed=signed)
    spans = "".join(_span(*each) for each in zip(mine, shares, colours, strict=True))
    low, high = _ends(limit, signed)
    strip = (
        '<span style="display:inline-block;vertical-align:middle;width:9em;height:.8em;margin:0 .5em;border:1px solid '
        f'#bbb;background:linear-gradient(to right,{",".join(steps)})"></span>'
    )
    beyond = int((np.abs(shares) > limit).sum())
    more = f"; {beyond} of {len(shares)} tokens lie beyond the scale" if beyond else ""
    head = html.escape(_headline(result, row % len(result.output)))
    scale = f"share of the output: {low}{strip}{high}{more}"
    return (
        f'<div style="{FONT};background:#fff;padding:.8em">'
        f'<div style="font-weight:600;margin-bottom:.5em">{head}</div>'
        f'<div style="line-height:2;white-space:pre-wrap;overflow-wrap:anywhere">{spans}</div>'
        f'<div style="font-size:.8em;margin-top:.6em;color:#444">{scale}</div></div>'
    )


def _span(token: str, share: float, colour: UInt8[np.ndarray, "3"]) -> str:
    shown = html.escape(visible(token)) or "·"
    title = html.escape(f"{visible(token)}: {_plus(share, 4)}", quote=True)
    style = f"background:{_code(colour)};color:{_ink(colour)};padding:.15em .25em;border-radius:.2em"
    # The break that the token stands for is made, after the sign for it.
    after = "\n" if token.endswith("\n") else " "
    return f'<span style="{style}" title="{title}">{shown}</span>{after}'
