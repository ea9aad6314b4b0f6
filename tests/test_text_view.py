"""Text in colour: what can be read, what the colours mean, and that no token breaks out."""

import html.parser
import io
import re

import numpy as np
import pytest
from rich.console import Console

from test_view import lightness, make
from whence import text_view, view
from whence.errors import BadInput

TOKENS = ["the", "film", "was", "<b>", "good"]
SHARES = np.array([[0.5, -0.25, 0.0, 0.125, -1.0]])


def colours_of(page):
    found = re.findall(r"background:#([0-9a-f]{6});color:#([0-9a-f]{6})", page)
    return [tuple(np.frombuffer(bytes.fromhex(each), np.uint8) for each in pair) for pair in found]


class Parsed(html.parser.HTMLParser):
    def __init__(self, page):
        super().__init__()
        self.open, self.titles, self.words, self.tags = [], [], "", set()
        self.feed(page)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.open.append(tag)
        self.tags.add(tag)
        self.titles += [value for name, value in attrs if name == "title"]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words += data


def test_every_token_has_its_colour_and_its_number():
    page = Parsed(make(SHARES).text_html([TOKENS]))
    assert page.open == [] and page.tags == {"div", "span"}
    assert page.titles == ["the: +0.5", "film: −0.25", "was: 0", "<b>: +0.125", "good: −1"]
    assert "the film was <b> good" in page.words
    assert "against −1" in page.words and "+1 for the target" in page.words
    assert "Integrated gradients · target: class 0 · output: 0.375" in page.words
    pairs = colours_of(make(SHARES).text_html([TOKENS]))
    for (background, _), share in zip(pairs, SHARES[0], strict=True):
        assert np.array_equal(background, view.colour(np.array([share]), 1.0)[0])


def test_what_stands_on_a_colour_can_be_read():
    for values in (np.linspace(-1, 1, 60)[None], np.linspace(0, 1, 60)[None]):
        for background, ink in colours_of(make(values).text_html(["x"] * 60)):
            assert abs(lightness(background) - lightness(ink)) > 45


@pytest.mark.parametrize("token", ["<script>alert(1)</script>", '" onmouseover="x', "a & b", "&lt;", "'"])
def test_no_token_breaks_out_of_the_page(token):
    page = Parsed(make([[1.0]]).text_html([[token]]))
    assert page.tags == {"div", "span"} and page.titles == [f"{token}: +1"] and token in page.words


def test_control_characters_are_seen_and_do_nothing():
    tokens = ["\x1b[31mred", "\n", "\t", "", "\x00", "\u202eback", "größer"]
    result = make(np.ones((1, 7)))
    plain = result.to_text([tokens]).plain
    assert "\\x1b[31mred ↵ ⇥ · \\x00 \\u202eback größer" in plain
    page = result.text_html([tokens])
    assert "\x1b" not in page and "\x00" not in page and "↵</span>\n" in page


def test_a_terminal_shows_colours_or_plain_words():
    result = make(SHARES)
    shown, plain = io.StringIO(), io.StringIO()
    Console(file=shown, force_terminal=True, color_system="truecolor", width=80).print(
        result.to_text([TOKENS])
    )
    Console(file=plain, width=80).print(result.to_text(TOKENS))
    assert "\x1b[" in shown.getvalue() and "\x1b[" not in plain.getvalue()
    assert "the film was <b> good" in plain.getvalue() and "+1 for the target" in plain.getvalue()
    red = view.colour(np.array([0.5]), 1.0)[0]
    assert f"48;2;{';'.join(map(str, red))}mthe" in shown.getvalue()


def test_shares_without_a_sign_have_another_scale():
    page = Parsed(make(np.abs(SHARES)).text_html([TOKENS]))
    assert "no part 0" in page.words and "1 large part" in page.words and "against" not in page.words


def test_values_of_an_embedding_are_summed_and_shares_of_tokens_taken():
    values = np.arange(12.0).reshape(1, 3, 4) - 5
    assert text_view.shares_of_tokens(make(values), ["a", "b", "c"], 0, "")[1].tolist() == [-14, 2, 18]
    grouped = make(values, shares=np.array([[1.0, 2.0, 3.0]]))
    assert text_view.shares_of_tokens(grouped, ["a", "b", "c"], 0, "")[1].tolist() == [1, 2, 3]
    padded = make(values, shares=np.array([[1.0, 2.0, np.nan]]))
    assert text_view.shares_of_tokens(padded, ["a", "b"], 0, "")[1].tolist() == [1, 2]
    repeated = make(values * 0 + 2, settings={"repeated": True})
    assert text_view.shares_of_tokens(repeated, ["a", "b", "c"], 0, "")[1].tolist() == [2, 2, 2]


def test_each_example_has_its_own_tokens():
    result = make(np.array([[1.0, 2.0], [3.0, -4.0]]))
    assert Parsed(result.text_html([["a", "b"], ["c", "d"]], row=1)).titles == ["c: +3", "d: −4"]
    assert Parsed(result.text_html([["a", "b"], ["c", "d"]], row=-1)).titles == ["c: +3", "d: −4"]
    assert Parsed(result.text_html(["c", "d"], row=1)).titles == ["c: +3", "d: −4"]


@pytest.mark.parametrize("write", ["to_text", "text_html"])
def test_tokens_that_do_not_fit(write):
    result = make(np.ones((2, 3)))
    for tokens, words in (
        ([["a", "b"], ["c"]], f"{write}: 2 tokens for the 3 shares of example 0"),
        ([["a", "b", "c"]], "tokens of 1 examples for 2"),
        ("abc", "a list of texts for each example"),
        ([1, 2, 3], "a list of texts for each example"),
    ):
        with pytest.raises(BadInput, match=words):
            getattr(result, write)(tokens)
    with pytest.raises(BadInput, match="row 2: there are 2 examples"):
        getattr(result, write)(["a", "b", "c"], row=2)
    with pytest.raises(BadInput, match="for_class"):
        getattr(make(np.ones((2, 3, 3)), every_class=True), write)(["a", "b", "c"])


def test_of_many_tokens_some_lie_beyond_the_scale():
    values = np.full((1, 400), 0.1)
    values[0, 7] = 50.0
    page = Parsed(make(values).text_html(["x"] * 400))
    assert "1 of 400 tokens lie beyond the scale" in page.words
