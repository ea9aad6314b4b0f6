"""Make what is generated in docs/ and README.md: a page per method, tables, outputs of the snippets, pictures.

    python scripts/make_docs.py              everything
    python scripts/make_docs.py --pages      only what is made from the registry and the command line, which is quick

The tests import this file, so that what they compare with is made in the same way.
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import dataclasses
import inspect
import io
import os
import re
import subprocess
import sys
import tempfile
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
DIGIT = 3
LARGEST_PICTURE = 60_000

NEEDS = {
    "gradient": "a model with gradients: a PyTorch module, or a function of torch tensors",
    "values": "nothing but the model's values, so it works on black boxes too",
    "background": "rows of a data set, as its `baseline`",
    "pictures": "pictures, or other arrays with a height and a width",
    "layer": "a model with a layer that has an extent in space; the last one is found, and named in a note",
    "global pooling": "a network that ends in global average pooling and one linear layer",
    "relu": "a model with ReLUs: without any it would be the plain gradient, and is refused",
    "few features": "few features, or few that make a difference: every subset of them is visited",
    "piecewise linear or smooth": "a network of corners alone (ReLU, max-pool) or of curves alone up to the target",
    "what it wraps": "what the method inside it needs",
}
# A network that ends in pooling, for methods that read such a head.
POOLED = """
# The same convolutions under a head that CAM can read: average pooling and one linear layer, fitted to the digits.
features = loaded.model.features[:4]
with torch.no_grad():
    pooled = features(torch.tensor(digits.train_images[:, None] / 255).float()).mean((2, 3))
    weights = torch.linalg.lstsq(pooled, torch.eye(10)[torch.tensor(digits.train_labels)]).solution
head = nn.Linear(len(weights), 10, bias=False)
head.weight.data = weights.T
model = nn.Sequential(*features, nn.AdaptiveAvgPool2d(1), nn.Flatten(), head)
"""
# What a method needs beyond its defaults, as the snippet writes it.
ARGUMENTS = {"background": "baseline=whence.baseline.dataset(digits.train_images, samples=100)"}
# The last layer of so small a network has little to say about most digits.
LAYERS = {"gradcam": 'layer="features.1"', "guided_gradcam": 'layer="features.1"'}
PROMISES = {
    "residual": "the sum of the shares minus f(x) − f(x')",
    "error": "the estimated relative error of the shares, with the default settings",
    "standard_error": "the sampling error of each share",
    "shares": 'one number for each feature, where features are groups; `settings["feature_names"]` names them',
    "fidelity": "how well the linear model fits what it was fitted to (weighted R²)",
    "interactions": "the shares of pairs of features; rows sum to the shares",
    "trace": "nodes, weights, output and slope along the path",
}


# ---- snippets ------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Block:
    """A fenced block of a page: its language, text, line number, and the comment on the line above it."""

    language: str
    text: str
    line: int
    comment: str


def blocks(page: str) -> list[Block]:
    """Return the fenced blocks of a page, in order."""
    found: list[Block] = []
    lines = page.split("\n")
    start, language, above = None, "", ""
    for number, line in enumerate(lines):
        if start is None and (match := re.match(r"^\s*```(\w*)\s*$", line)):
            start, language = number, match[1]
            above = next((each for each in reversed(lines[:number]) if each.strip()), "")
        elif start is not None and re.match(r"^\s*```\s*$", line):
            comment = re.fullmatch(r"\s*<!-- (.*) -->\s*", above)
            text = textwrap.dedent("\n".join(lines[start + 1 : number])).strip("\n")
            found.append(Block(language, text, start + 1, comment[1] if comment else ""))
            start = None
    return found


def run(page: Path) -> Iterator[tuple[Block, str, str | None]]:
    """Run a page's python blocks in one namespace; give each with what it printed and the output the page states."""
    namespace: dict[str, Any] = {"__name__": "__main__"}
    every = blocks(page.read_text(encoding="utf-8"))
    for block, after in zip(every, [*every[1:], None], strict=True):
        if block.language != "python" or block.comment.startswith("not run"):
            continue
        printed = io.StringIO()
        # Empty lines in front, so that an error names the line of the page.
        code = compile("\n" * block.line + block.text, str(page), "exec")
        with contextlib.redirect_stdout(printed):
            exec(code, namespace)
        stated = after.text if after is not None and after.comment == "output" else None
        yield block, printed.getvalue().rstrip(), stated


def refresh(page: Path) -> None:
    """Write what a page's snippets print into its output blocks."""
    text = page.read_text(encoding="utf-8")
    outputs = [printed for _, printed, stated in run(page) if stated is not None]
    pattern = re.compile(r"(<!-- output -->\n```text\n)(.*?)(```)", re.S)
    numbered = iter(outputs)
    page.write_text(
        pattern.sub(lambda match: f"{match[1]}{next(numbered)}\n{match[3]}", text), encoding="utf-8"
    )


def pages() -> list[Path]:
    """Return every page of docs/, the generated ones too, and the README where there is one."""
    readme = [page for page in [ROOT / "README.md"] if page.exists()]
    return readme + sorted(DOCS.rglob("*.md"))


# ---- the methods' pages --------------------------------------------------------------------------------------


def described(cls: type) -> tuple[str, dict[str, str]]:
    """Return a class's description, and the text of each of its attributes, from its docstring."""
    description, _, listed = (inspect.getdoc(cls) or "").partition("\nAttributes:\n")
    texts: dict[str, str] = {}
    names: list[str] = []
    listed = listed.partition("\nRaises:\n")[0]
    for line in listed.split("\n"):
        if match := re.match(r"^ {4}(\w[\w, ]*): (.*)$", line):
            names = match[1].split(", ")
            texts |= dict.fromkeys(names, match[2])
        elif line.strip():
            texts |= {name: f"{texts[name]} {line.strip()}" for name in names}
    return description.strip(), texts


def field_text(cls: type, name: str) -> str:
    """Return what a field means; "as for Other" is looked up there."""
    import whence

    _, texts = described(cls)
    text = texts.get(name, "")
    if match := re.match(r"as for (\w+)", text):
        others = {record.cls.__name__: record.cls for record in whence.methods().values()}
        text = field_text(others[match[1]], name) + text[match.end() :].rstrip(".")
    return text.rstrip(".")


def snippet(record: Any) -> str:
    """Return a complete program that explains one digit by a method."""
    given = [ARGUMENTS[need] for need in record.needs if need in ARGUMENTS]
    arguments = ", ".join([*given, *([LAYERS[record.name]] if record.name in LAYERS else [])])
    special = "global pooling" in record.needs
    imports = "import torch\nfrom torch import nn\n\nimport whence" if special else "import whence"
    model = "model" if special else "loaded.model"
    each = (
        "position of the layer"
        if "layer" in record.needs
        else "pixel: that of its feature"
        if record.cls.switches
        else "pixel"
    )
    return f"""{imports}

loaded = whence.zoo.load("digits-cnn")
digits = whence.data.digits()
picture = digits.test_images[{DIGIT}:{DIGIT + 1}]  # a handwritten 9
{POOLED if special else ""}
method = whence.{record.cls.__name__}({arguments})
result = method({model}, picture, target=9, preprocess=loaded.preprocess)
print(result.values.shape)  # one share per {each}
figure = result.plot()"""


def explained(record: Any) -> Any:
    """Return the result of a method's snippet."""
    namespace: dict[str, Any] = {}
    with contextlib.redirect_stdout(io.StringIO()):
        exec(snippet(record).replace("figure = result.plot()", ""), namespace)
    return namespace["result"]


def cell(text: str) -> str:
    """Return text that a table's cell can hold."""
    return text.replace("|", "&#124;").replace("\n", " ")


def method_page(record: Any, promised: list[str]) -> str:
    """Return the page of one method; `promised` names the parts of the result that it fills."""
    import whence

    description, _ = described(record.cls)
    first, _, rest = description.partition("\n")
    fields = [
        f"| `{each.name}` | `{cell(repr(each.default))}` | {cell(field_text(record.cls, each.name))} |"
        for each in dataclasses.fields(record.cls)
    ]
    table = (
        ["| field | default | meaning |", "|---|---|---|", *fields]
        if fields
        else ["This method has no settings."]
    )
    kept = [f"- `{name}`: {text}" for name, text in PROMISES.items() if name in promised]
    missing = [f"`{name}`" for name in PROMISES if name not in promised]
    result = ["Besides `values`, `output` and `evaluations` the result fills:", "", *kept] if kept else []
    none = f"`None` here: {', '.join(missing)}." if missing else ""
    needs = "; ".join(NEEDS.get(need, need) for need in record.needs)
    assert hasattr(whence, record.cls.__name__), f"{record.cls.__name__} is no public name"
    model = "my_module:make" if "global pooling" in record.needs else "digits-cnn"
    parts = [
        "<!-- made by scripts/make_docs.py from the registry; do not edit -->",
        f"# {record.cls.__name__}",
        first,
        *([rest.strip()] if rest.strip() else []),
        f"```text\n{record.equation}\n```",
        f"- registered name: `{record.name}`\n- class: `whence.{record.cls.__name__}`\n- needs: {needs}\n"
        f"- from: {record.citation}",
        f"![{record.cls.__name__} on a handwritten digit](../images/method-{record.name}.png)",
        "## Use",
        f"```python\n{snippet(record)}\n```",
        f'The same by name: `whence.explain(model, inputs, "{record.name}")`. On the command line:',
        f"```console\n$ whence explain digit.png --model {model} --method {record.name}\n```",
        "## Settings",
        "\n".join(table),
        "## What the result says",
        *(["\n".join(result)] if result else []),
        *([none] if none else []),
        "[All methods](index.md)",
    ]
    return "\n\n".join(parts) + "\n"


def index_page(records: dict[str, Any]) -> str:
    """Return the table of all methods."""
    rows = [
        f"| [{name}]({name}.md) | `{record.cls.__name__}` | {cell(record.summary)} | {cell(', '.join(record.needs))} |"
        for name, record in records.items()
    ]
    equations = [f"{name}\n    {record.equation}" for name, record in records.items()]
    needs = sorted({need for record in records.values() for need in record.needs})
    meaning = [f"- *{need}*: {NEEDS.get(need, need)}" for need in needs]
    return "\n".join([
        "<!-- made by scripts/make_docs.py from the registry; do not edit -->",
        "", "# Methods", "",
        "Every method is one entry of one registry.",
        "The command line, the reports, this table and the tests are made from it.",
        "`whence.methods()` returns it, and `whence methods` prints it.", "",
        "| name | class | what it gives | needs |", "|---|---|---|---|", *rows, "",
        "What the last column means:", "", *meaning, "",
        "## Equations", "",
        "f is the explained output, x the input, x' the baseline, ⊙ the product feature by feature, A the shares.", "",
        "```text", *equations, "```", "",
        "[How to add a method](../design.md#how-to-add-a-method)", "",
    ])  # fmt: skip


def method_pages() -> dict[str, str]:
    """Return the text of every generated page by its path below docs/."""
    import whence

    records = whence.methods()
    made = {"methods/index.md": index_page(records)}
    for name, record in records.items():
        result = explained(record)
        promised = [part for part in PROMISES if getattr(result, part) is not None]
        made[f"methods/{name}.md"] = method_page(record, promised)
    return made


# ---- parts of pages that are written by hand ---------------------------------------------------------------------


def readme_methods() -> str:
    """Return the README's table of methods."""
    import whence

    rows = [
        f"| [`{name}`](docs/methods/{name}.md) | {cell(record.summary)} |"
        for name, record in whence.methods().items()
    ]
    return "\n".join(["", "| method | what it gives |", "|---|---|", *rows, ""])


def metrics_table() -> str:
    """Return the table of all metrics, family by family."""
    from whence.metrics.metric import registered

    asked = {
        "method": "explains again", "weights": "changes weights", "mask": "the right place", "gradient": "a gradient",
        "other": "a second model", "pairs": "told pairs",
    }  # fmt: skip
    rows: list[str] = []
    for record in registered().values():
        needs = ", ".join(asked.get(need, need) for need in record.needs) or "—"
        name = f"`{record.cls.__name__}` {record.arrow}"
        parts = (
            record.family,
            name,
            cell(record.summary),
            f"`{cell(record.equation)}`",
            needs,
            cell(record.citation),
        )
        rows.append(f"| {' | '.join(parts)} |")
    return "\n".join([
        "", "↑: explanations are better where it is higher, ↓: where it is lower. All need a model, inputs and "
        "explanations; the fifth column says what else.", "",
        "| family | metric | what it says | equation | needs | source |", "|---|---|---|---|---|---|", *rows, "",
    ])  # fmt: skip


def flags() -> str:
    """Return tables of every command's flags, as its help tells them."""
    parts: list[str] = []
    tables: dict[str, list[str]] = {}
    for command in (
        "explain",
        "compare",
        "evaluate",
        "check",
        "demo",
        "methods",
        "study mnist",
        "study truth",
    ):
        # So wide that no text is wrapped.
        environment = os.environ | {"COLUMNS": "2000"}
        asked = [sys.executable, "-m", "whence", *command.split(), "--help"]
        done = subprocess.run(asked, capture_output=True, text=True, check=True, env=environment)
        rows: list[str] = []
        for line in done.stdout.split("\n"):
            if match := re.match(r"^│\s+(?:\*\s+)?(\S.*?)(?:\s{2,}(.*?))?\s*│$", line):
                text = re.sub(r"\s+", " ", match[2] or "")
                rows.append(f"| `{match[1]}` | {cell(text[:1].upper() + text[1:])} |")
        tables[command] = rows
        parts += ["", f"### whence {command}", ""]
        if command in ("compare", "evaluate"):
            less = ", ".join(row.split(" ")[1].strip("`") for row in tables["explain"] if row not in rows)
            parts += [f"The flags of `whence explain` without {less}, and these:".replace("IMAGES, ", ""), ""]
            rows = [row for row in rows if row not in tables["explain"]]
        parts += ["| flag | meaning |", "|---|---|", *rows]
    return "\n".join([*parts, ""])


# Which module stands in which wing, by the beginning of its name; the last wing takes what is in no other.
WINGS = {
    "The question and the answer": (
        "__init__", "explainer", "side_by_side", "question", "registry", "gradient_methods", "path_methods",
        "expected_gradients", "sampler_methods", "rule_methods", "deconvolution", "relevance_methods", "composite",
        "cam", "guided_gradcam", "switching_methods", "surrogate_methods", "shapley_methods", "rise_methods",
        "hierarchy_methods", "hessian_methods", "data_set", "certificate", "attribution", "archive", "errors", "naming",
        "counts", "arguments",
    ),
    "The engine": (
        "problem", "reaction", "run", "rule", "integrate", "integrand", "visit", "sweep", "segments", "convergence",
        "fusion", "quadrature", "random_nodes", "way", "taylor", "exact", "path", "held", "guided", "baseline",
        "background", "boundary", "draws", "features/", "coalitions/", "hessians", "kinks", "stretch", "precision",
        "target", "site", "spatial", "units", "sampler", "moments", "difference", "shares", "structure", "table",
        "inputs", "chunk", "progress",
    ),
    "Pictures and files": (
        "preprocess", "pixels", "pictures", "view", "figure", "panel", "tabular_view", "swarm", "interaction_view",
        "text_view", "comparison", "strip", "caption", "report",
        "data", "download", "zoo", "files",
    ),
    "The judge": ("metrics/",),
    "Studies": ("study/", "support", "second_opinion"),
    "The command line": ("cli", "demo", "loading", "__main__"),
    "The frameworks": ("backends/",),
    "More": ("",),
}  # fmt: skip


def house() -> str:
    """Return tables of all modules with their first lines, wing by wing."""
    source = ROOT / "src" / "whence"
    lines: dict[str, list[tuple[int, str, str]]] = {wing: [] for wing in WINGS}
    for path in source.rglob("*.py"):
        name = str(path.relative_to(source))
        places = (
            (wing, i)
            for wing, names in WINGS.items()
            for i, each in enumerate(names)
            if name.startswith(each)
        )
        wing, place = next(places)
        said = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
        lines[wing].append((place, name, said.partition("\n")[0]))
    parts: list[str] = []
    for wing, found in lines.items():
        if found:
            rows = [f"| `{name}` | {cell(said)} |" for _, name, said in sorted(found)]
            parts += ["", f"**{wing}**", "", "| module | what it is |", "|---|---|", *rows]
    return "\n".join([*parts, ""])


# Where they stand: page, name of the part, what makes it.
PARTS = (
    (ROOT / "README.md", "methods", readme_methods),
    (DOCS / "command-line.md", "flags", flags),
    (DOCS / "metrics.md", "metrics", metrics_table),
    (DOCS / "design.md", "house", house),
)


def with_part(text: str, name: str, part: str) -> str:
    """Return a page with what lies between the comments `name: begin` and `name: end` replaced."""
    pattern = re.compile(rf"(<!-- {name}: begin[^>]*-->\n)(.*?)(<!-- {name}: end -->)", re.S)
    return pattern.sub(lambda match: f"{match[1]}{part}\n{match[3]}", text)


# ---- pictures ------------------------------------------------------------------------------------------------


def draw_methods(folder: Path) -> None:
    """Draw each method's map of one digit."""
    import whence

    for name, record in whence.methods().items():
        figure = explained(record).plot()
        figure.savefig(folder / f"method-{name}.png", dpi=80)
        shrunk(folder / f"method-{name}.png", folder / f"method-{name}.png")


def draw_comparison(folder: Path) -> None:
    """Draw all methods' maps of one digit in one picture, for the README."""
    import whence

    loaded, digits = whence.zoo.load("digits-cnn"), whence.data.digits()
    early = [whence.GradCAM(layer="features.1"), whence.GuidedGradCAM(layer="features.1")]
    # The maps of these are others' again, or need a head of their own.
    again = (
        "cam", "gradcam", "guided_gradcam", "shapley_sampling", "shapley_interaction", "integrated_hessians",
        "exact_shapley", "partition_shap", "smoothgrad_squared", "vargrad",
    )  # fmt: skip
    named = [name for name in whence.methods() if name not in again]
    compared = whence.compare(
        loaded.model, digits.test_images[DIGIT : DIGIT + 1], [*named, *early], target=9, preprocess=loaded.preprocess,
        background=digits.train_images[:200],
    )  # fmt: skip
    target = folder / "methods-on-a-digit.png"
    compared.plot().savefig(target, dpi=80)
    shrunk(target, target)


def draw_pages(folder: Path) -> None:
    """Run the pages that draw their own pictures, and keep these."""
    here = Path.cwd()
    for page in (DOCS / "tutorials" / "integrated-gradients.md", DOCS / "features.md"):
        with tempfile.TemporaryDirectory() as scratch:
            os.chdir(scratch)
            try:
                list(run(page))
            finally:
                os.chdir(here)
            for picture in (Path(scratch) / "figures").glob("*.png"):
                shrunk(picture, folder / picture.name)


def shrunk(source: Path, target: Path) -> None:
    """Copy a picture as small as it gets with every colour as it was."""
    from PIL import Image

    with Image.open(source) as picture:
        opaque = picture.convert("RGB")
    opaque.save(target, optimize=True)


def skeleton(code: str) -> str:
    """Return a program without its comments and the words in its strings, to compare two translations."""

    class Blank(ast.NodeTransformer):
        def visit_Constant(self, node: ast.Constant) -> ast.Constant:
            return ast.Constant("") if isinstance(node.value, str) else node

        def visit_JoinedStr(self, node: ast.JoinedStr) -> ast.JoinedStr:
            return ast.JoinedStr(
                [self.visit(each) for each in node.values if isinstance(each, ast.FormattedValue)]
            )

    return ast.dump(Blank().visit(ast.parse(code)))


def main() -> None:
    """Make what was asked for."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--pages", action="store_true", help="no pictures, no outputs")
    only_pages = parser.parse_args().pages
    os.environ.setdefault("MPLBACKEND", "Agg")
    images = DOCS / "images"
    images.mkdir(exist_ok=True)
    (DOCS / "methods").mkdir(exist_ok=True)
    made = method_pages()
    for stale in set((DOCS / "methods").glob("*.md")) - {DOCS / name for name in made}:
        stale.unlink()
    for name, text in made.items():
        (DOCS / name).write_text(text, encoding="utf-8")
    for page, name, make in PARTS:
        if page.exists():
            page.write_text(with_part(page.read_text(encoding="utf-8"), name, make()), encoding="utf-8")
    if only_pages:
        return
    draw_methods(images)
    draw_comparison(images)
    draw_pages(images)
    here = Path.cwd()
    for page in pages():
        if "<!-- output -->" in page.read_text(encoding="utf-8"):
            with tempfile.TemporaryDirectory() as scratch:
                os.chdir(scratch)
                try:
                    refresh(page)
                finally:
                    os.chdir(here)


if __name__ == "__main__":
    main()
