"""The report: one file that a stranger can read, that loads nothing, and that cannot be broken into."""

import re
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest

from whence import report
from whence.attribution import Attribution, Trace
from whence.errors import BadInput


def make(rows=1, side=8, method="integrated_gradients", seed=0, **given):
    random = np.random.default_rng(seed)
    picture = np.random.default_rng(99).integers(0, 256, (rows, side, side, 3), dtype=np.uint8)
    nodes = np.tile(np.linspace(0.1, 0.9, 5), (rows, 1))
    filled = dict(
        target=np.arange(rows) % 3,
        output=np.full(rows, 7.654),
        baseline_output=np.full(rows, 0.654),
        residual=np.full(rows, -0.0321),
        error=np.full(rows, 0.0123),
        evaluations=np.full(rows, 1234),
        converged=np.ones(rows, dtype=bool),
        trace=Trace(nodes, nodes * 0 + 0.2, nodes, nodes),
        picture=picture,
        channel_axis=1,
        settings={"model": "digits-cnn", "seed": 3, "seconds": 1.5, "command": "whence explain a.png"},
    )
    return Attribution(random.normal(size=(rows, 3, side, side)), method, **(filled | given))


def bare(**given):
    return make(baseline_output=None, residual=None, error=None, converged=None, trace=None, **given)


class Page(HTMLParser):
    """Collects tags, what they refer to, and the text; void elements are not closed."""

    VOID = ("meta", "img", "br")

    def __init__(self, text):
        super().__init__()
        self.tags, self.links, self.ids, self.words, self.open = [], [], [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        given = dict(attrs)
        self.links += [given[key] for key in ("src", "href", "srcset", "action", "data") if key in given]
        self.ids += [given["id"]] if "id" in given else []
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] != "style":
            self.words.append(data)

    @property
    def text(self):
        return re.sub(r"\s+", " ", " ".join(self.words))


def page(path):
    return Page(path.read_text(encoding="utf-8"))


def test_a_report_stands_alone(tmp_path):
    path = report.write([make(2), bare(method="saliency", rows=2)], tmp_path / "new folder" / "report.html")
    text = path.read_text(encoding="utf-8")
    found = Page(text)
    assert found.open == []
    assert not {"script", "link", "iframe", "object", "base"} & set(found.tags)
    assert all(link.startswith(("data:image/", "#")) for link in found.links)
    assert not re.search(r"https?:|url\(|@import", text)
    assert len(found.ids) == len(set(found.ids))
    assert all(link[1:] in found.ids for link in found.links if link.startswith("#"))


def test_a_report_has_every_method_and_its_numbers(tmp_path):
    path = report.write([make(), bare(method="saliency", seed=1)], tmp_path / "r.html")
    text = page(path).text
    for words in (
        "Integrated gradients",
        "Saliency",
        "Sundararajan",
        "7.654",
        "−0.0321",
        "1.2 %",
        "1,234",
        "yes",
        "not promised by this method",
        "colour scale ±",
        "99.5th percentile",
        "digits-cnn",
        "1.5",
        "How to read these maps",
        "whence explain a.png",
        "shaded area",
    ):
        assert words in text, words


def test_predictions_are_named(tmp_path):
    predictions = np.array([[0.7, 0.1, 0.2]])
    text = page(
        report.write([make()], tmp_path / "r.html", labels=["cat", "dog", "owl"], predictions=predictions)
    ).text
    assert text.index("70.0 %") < text.index("20.0 %") < text.index("10.0 %")
    assert "Where the answer “cat” came from" in text
    assert "cat (class 0)" in text
    pairs = [[("a tabby", 0.6), ("a tiger", 0.4)]]
    assert "60.0 %" in page(report.write([make()], tmp_path / "r.html", predictions=pairs)).text


@pytest.mark.parametrize(
    ("predictions", "labels"),
    [
        (np.ones((2, 3)) / 3, None),
        (np.ones((1, 3)) / 3, ["only one"]),
        (np.array([[5.0, -3.0]]), None),
        (np.array([[np.nan, 1.0]]), None),
        (np.ones(1), None),
    ],
)
def test_predictions_that_do_not_fit(tmp_path, predictions, labels):
    with pytest.raises(BadInput, match="predictions"):
        report.write([make()], tmp_path / "r.html", predictions=predictions, labels=labels)
    assert not list(tmp_path.iterdir())


def test_hostile_texts_are_only_texts(tmp_path):
    evil = "<script>alert(1)</script>"
    attribute = '"><img src=x onerror=alert(1)>'
    result = make(
        notes=[evil],
        settings={
            "model": evil,
            "target_name": attribute,
            "command": evil,
            "input": attribute,
            evil: evil,
            "versions": {evil: evil},
        },
    )
    text = report.write(
        {evil: result},
        tmp_path / "r.html",
        title=evil,
        labels=[evil, attribute],
        introduction=evil,
        predictions=np.array([[0.1, 0.9]]),
        skipped={evil: attribute},
    ).read_text(encoding="utf-8")
    found = Page(text)
    assert "script" not in found.tags
    assert all(link.startswith(("data:image/", "#")) for link in found.links)
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in text


def test_examples_with_one_picture_are_one_example(tmp_path):
    methods = {"integrated_gradients": make(3), "saliency": bare(rows=3, method="saliency")}
    path = report.write(methods, tmp_path / "r.html")
    found = page(path)
    assert [each for each in found.ids if each.count("-") == 1] == ["example-1", "example-2", "example-3"]
    assert "Contents" in found.text
    assert sum(each.count("-") == 2 for each in found.ids) == 6


def test_equal_pictures_in_a_batch_are_two_examples(tmp_path):
    twice = make(2)
    twice = replace(twice, picture=twice.picture[[0, 0]])
    assert "example-2" in page(report.write([twice], tmp_path / "r.html")).ids


def test_names_given_twice_are_numbered(tmp_path):
    text = page(report.write([make(), make(seed=1)], tmp_path / "r.html")).text
    assert text.count("Integrated gradients (2)") == 2
    assert "(2) (" not in text
    named = page(report.write({"IG, black": make()}, tmp_path / "r.html")).text
    assert "IG, black (Integrated gradients)" in named


def test_a_method_the_registry_does_not_know(tmp_path):
    assert "my_own_method" in page(report.write([make(method="my_own_method")], tmp_path / "r.html")).text


def test_skipped_methods_have_their_reasons(tmp_path):
    text = page(report.write([make()], tmp_path / "r.html", skipped={"cam": "no global pooling"})).text
    assert "Methods that were not run" in text
    assert "no global pooling" in text


def test_not_converged_is_said(tmp_path):
    text = page(report.write([make(converged=np.array([False]))], tmp_path / "r.html")).text
    assert "no: the evaluations ran out" in text


def test_every_class_shows_the_highest(tmp_path):
    outputs = np.array([[1.0, 5.0, 2.0]])
    result = make(
        target="all",
        every_class=True,
        output=outputs,
        baseline_output=outputs * 0,
        residual=outputs * 0,
        error=outputs * 0,
        converged=outputs > 0,
        trace=None,
    )
    result = replace(result, values=np.random.default_rng(0).normal(size=(1, 3, 3, 8, 8)))
    text = page(report.write([result], tmp_path / "r.html")).text
    assert "class 1" in text
    assert "all 3 classes were explained" in text


def test_tables_and_several_inputs(tmp_path):
    table = make(picture=None, channel_axis=None, settings={"feature_names": ["age", "height"]})
    table = replace(table, values={"a": np.array([[1.0, -2.0]]), "b": np.ones((1, 3))})
    found = page(report.write([table], tmp_path / "r.html"))
    assert "2 inputs were explained" in found.text
    assert "The overlay" not in found.text
    raw = make(picture=None)
    assert "Heat map;" in page(report.write([raw], tmp_path / "r.html")).text


def test_many_examples_are_cut_and_said(tmp_path):
    many = replace(make(60, trace=None), values=np.zeros((60, 4)), picture=None, channel_axis=None)
    assert "The first 50 of 60" in page(report.write([many], tmp_path / "r.html")).text


def test_the_file_stays_small(tmp_path):
    random = np.random.default_rng(0)
    smooth = np.linspace(0, 255, 224)[:, None, None] * np.linspace(0.5, 1, 224)[None, :, None] * np.ones(3)
    picture = (smooth + random.normal(scale=2, size=smooth.shape)).clip(0, 255).astype(np.uint8)[None]
    results = {f"method number {i}": make(side=224, seed=i, picture=picture) for i in range(10)}
    assert report.write(results, tmp_path / "r.html").stat().st_size < 2.5e6


def test_a_large_photograph_is_made_small(tmp_path):
    assert report.write([make(side=900)], tmp_path / "r.html").stat().st_size < 1.5e6


def test_the_same_results_give_the_same_file(tmp_path):
    one, two = (report.write([make()], tmp_path / name).read_bytes() for name in ("a.html", "b.html"))
    assert one == two


def test_what_cannot_be_written(tmp_path):
    with pytest.raises(BadInput, match="no results"):
        report.write([], tmp_path / "r.html")
    with pytest.raises(BadInput, match="folder"):
        report.write([make()], tmp_path)
    (tmp_path / "file").write_text("x")
    with pytest.raises(BadInput, match="cannot write"):
        report.write([make()], tmp_path / "file" / "r.html")
    nan = make()
    nan.values[0, 0, 0, 0] = np.nan
    with pytest.raises(BadInput, match="finite"):
        report.write([nan], tmp_path / "r.html")
    assert [each.name for each in tmp_path.iterdir()] == ["file"]


def test_to_html(tmp_path):
    path = make().to_html(tmp_path / "r.html", labels=["cat"], predictions=[[("cat", 0.9)]], title="My page")
    assert "cat (class 0)" in page(path).text
    assert "My page" in page(path).text
    assert "90.0 %" in page(path).text
