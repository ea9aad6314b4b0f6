"""The documentation is run, not trusted: snippets, stated outputs, links, pictures, commands, generated pages."""

from __future__ import annotations

import ast
import importlib.util
import itertools
import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"

spec = importlib.util.spec_from_file_location("make_docs", ROOT / "scripts" / "make_docs.py")
assert spec is not None and spec.loader is not None
make_docs = importlib.util.module_from_spec(spec)
sys.modules["make_docs"] = make_docs
spec.loader.exec_module(make_docs)

PAGES = make_docs.pages()
NAMES = [str(page.relative_to(ROOT)) for page in PAGES]
NOT_RUN_AT_MOST = 3
every_page = pytest.mark.parametrize("page", PAGES, ids=NAMES)


def text_of(page: Path) -> str:
    return page.read_text(encoding="utf-8")


# ---- snippets ------------------------------------------------------------------------------------------------


@pytest.fixture
def own_registry(monkeypatch: pytest.MonkeyPatch) -> None:
    """Methods that a page registers are gone after it."""
    from whence import registry

    registry.methods()
    monkeypatch.setattr(registry, "_records", dict(registry._records))


def runnable(page: Path) -> bool:
    return any(block.language == "python" for block in make_docs.blocks(text_of(page)))


@pytest.mark.parametrize("page", [p for p in PAGES if runnable(p)], ids=lambda p: str(p.relative_to(ROOT)))
def test_snippets_run_and_print_what_the_page_says(
    page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, own_registry: None
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MPLBACKEND", "Agg")
    for block, printed, stated in make_docs.run(page):
        if stated is not None:
            assert_same_output(printed, stated, f"{page.name}, line {block.line}")


NUMBER = re.compile(r"(?<![\w.])[-+−]?\d[\d,]*(?:\.\d+)?(?:e[-+]?\d+)?")


def assert_same_output(printed: str, stated: str, where: str) -> None:
    """The same words; numbers within a quarter, or two of their last digit: machines round in their own ways."""
    hint = f"{where}: run scripts/make_docs.py\n--- printed\n{printed}\n--- stated\n{stated}"
    words = [re.sub(r"\s+", " ", NUMBER.sub("#", text)).strip() for text in (printed, stated)]
    assert words[0] == words[1], hint
    for new, old in zip(NUMBER.findall(printed), NUMBER.findall(stated), strict=True):
        digit = 10.0 ** -len(old.partition(".")[2])
        one, other = (float(each.replace(",", "").replace("−", "-")) for each in (new, old))
        # A tolerance is reached by doublings, so a count may be off by one of them; a class or a size may not.
        count = 0.5 * max(one, other) if min(one, other) >= 16 else 0.0
        near = count if "." not in old else max(0.25 * abs(other), 2 * digit)
        assert abs(one - other) <= near, hint


def test_few_snippets_are_not_run() -> None:
    marked = [
        (str(page.relative_to(ROOT)), block.comment)
        for page in PAGES
        for block in make_docs.blocks(text_of(page))
        if block.comment.startswith("not run")
    ]
    assert len(marked) <= NOT_RUN_AT_MOST, marked
    for page, comment in marked:
        assert re.fullmatch(r"not run: needs \w[\w .-]*", comment), f"{page}: {comment}"


@every_page
def test_every_fence_names_its_language(page: Path) -> None:
    for block in make_docs.blocks(text_of(page)):
        assert block.language in ("python", "console", "text"), (
            f"{page.name}, line {block.line}: ```{block.language}"
        )


# ---- the two tutorials ---------------------------------------------------------------------------------------


def test_the_translation_has_the_same_code() -> None:
    programs = [
        [
            make_docs.skeleton(block.text)
            for block in make_docs.blocks(text_of(DOCS / "tutorials" / f"integrated-gradients{suffix}.md"))
            if block.language == "python"
        ]
        for suffix in ("", ".zh")
    ]
    assert len(programs[0]) == len(programs[1])
    for number, (english, chinese) in enumerate(zip(*programs, strict=True), start=1):
        assert english == chinese, f"block {number} differs"


def test_the_skeleton_sees_a_change_of_code_and_not_of_words() -> None:
    one = make_docs.skeleton('x = f(1, "a")  # a comment\nprint(f"{x:.1f} gradients")')
    assert one == make_docs.skeleton('x = f(1, "b")\nprint(f"梯度 {x:.2f}")')
    assert one != make_docs.skeleton('x = f(2, "a")\nprint(f"{x:.1f}")')


@pytest.mark.parametrize("suffix", ["", ".zh"])
def test_the_tutorial_takes_all_seven_steps(suffix: str) -> None:
    text = text_of(DOCS / "tutorials" / f"integrated-gradients{suffix}.md")
    heads = re.findall(r"^## (.*)$", text, re.M)
    steps = [head for head in heads if re.match(r"Step \d|第.步", head)]
    assert len(steps) == 7
    glossary = re.search(r"^## (Glossary|术语表)\n(.*?)^(##|<a)", text, re.M | re.S)
    assert glossary is not None and 15 <= glossary[2].count("\n| **") <= 25


# ---- links, pictures, navigation -----------------------------------------------------------------------------


def anchors(page: Path) -> set[str]:
    """The places of a page that a link may name: its headings as GitHub writes them, and ids."""
    text = re.sub(r"^```.*?^```", "", text_of(page), flags=re.M | re.S)
    heads = re.findall(r"^#+ (.*)$", text, re.M)
    slugs = {
        re.sub(r"[^\w\- ]", "", re.sub(r"[*`]", "", head).lower()).strip().replace(" ", "-") for head in heads
    }
    return slugs | set(re.findall(r'<a id="([^"]+)"', text))


def links(page: Path) -> Iterator[str]:
    text = re.sub(r"^```.*?^```", "", text_of(page), flags=re.M | re.S)
    yield from re.findall(r"\]\(([^)\s]+)\)", text)
    yield from re.findall(r'<img[^>]*src="([^"]+)"', text)


@every_page
def test_links_and_pictures_lead_somewhere(page: Path) -> None:
    for link in links(page):
        if re.match(r"(https?|mailto):", link):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), f"{page.name}: {link}"
        assert target.is_relative_to(ROOT), f"{page.name}: {link} leads out of the repository"
        if anchor and target.suffix == ".md":
            assert anchor in anchors(target), f"{page.name}: {link}; there are {sorted(anchors(target))}"


@every_page
def test_pages_name_no_package_host_and_no_path_of_a_machine(page: Path) -> None:
    found = re.findall(r"pypi\.\w+|pythonhosted|/work/|/home/\w+|/tmp/|file://", text_of(page))
    assert not found, f"{page.name}: {found}"


def test_pictures_are_small_and_used() -> None:
    used = {(page.parent / link).resolve() for page in PAGES for link in links(page)}
    for picture in (DOCS / "images").iterdir():
        assert picture.stat().st_size <= make_docs.LARGEST_PICTURE, f"{picture.name} is larger than 60 KB"
        assert picture.resolve() in used, f"no page shows {picture.name}"


def test_the_navigation_names_every_page() -> None:
    named = set(re.findall(r": ([\w/.-]+\.md)\s*$", text_of(ROOT / "mkdocs.yml"), re.M))
    there = {str(page.relative_to(DOCS)) for page in PAGES if page.is_relative_to(DOCS)}
    assert named == there


# ---- what is made from the code ------------------------------------------------------------------------------


def test_the_methods_pages_are_up_to_date() -> None:
    made = make_docs.method_pages()
    committed = {f"methods/{page.name}" for page in (DOCS / "methods").glob("*.md")}
    assert committed == set(made), "run scripts/make_docs.py"
    for name, text in made.items():
        assert text_of(DOCS / name) == text, f"docs/{name} is out of date: run scripts/make_docs.py"


@pytest.mark.parametrize("page, name, make", make_docs.PARTS, ids=lambda part: getattr(part, "name", None))
def test_generated_parts_are_up_to_date(page: Path, name: str, make: Any) -> None:
    if not page.exists():
        pytest.skip(f"there is no {page.name}")
    text = text_of(page)
    assert f"<!-- {name}: begin" in text and f"<!-- {name}: end -->" in text
    assert make_docs.with_part(text, name, make()) == text, (
        f"{page.name} is out of date: run scripts/make_docs.py"
    )


def test_every_field_of_every_method_is_explained() -> None:
    import whence

    for record in whence.methods().values():
        for field in record.fields:
            assert make_docs.field_text(record.cls, field), f"{record.cls.__name__}.{field} has no text"


def test_the_design_names_only_modules_that_exist() -> None:
    source = ROOT / "src" / "whence"
    for name in re.findall(r"`((?:backends/)?\w+\.py)`", text_of(DOCS / "design.md")):
        assert (source / name).exists(), f"docs/design.md: there is no module {name}"


def test_every_dependency_has_its_line() -> None:
    project = tomllib.loads(text_of(ROOT / "pyproject.toml"))["project"]
    wanted = sum(project["optional-dependencies"].values(), project["dependencies"])
    names = {re.split(r"[\[<>=!~ ;]", each)[0] for each in wanted}
    described = set(re.findall(r"^\| `([\w-]+)` \|", text_of(DOCS / "dependencies.md"), re.M))
    assert described == names


# ---- the command line ----------------------------------------------------------------------------------------


def commands() -> Iterator[tuple[str, list[str]]]:
    """Every `$ whence ...` line of the console blocks, with the page it stands on."""
    for page, name in zip(PAGES, NAMES, strict=True):
        for block in make_docs.blocks(text_of(page)):
            if block.language == "console":
                for line in re.sub(r"\\\n\s*", " ", block.text).split("\n"):
                    if line.startswith("$ whence"):
                        yield name, shlex.split(line.removeprefix("$ whence"), comments=True)


def whence_command(*arguments: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "whence", *arguments],
        capture_output=True,
        text=True,
        timeout=120,
        cwd=cwd,
        check=False,
    )


@pytest.fixture(scope="module")
def helps() -> dict[str, str]:
    names = sorted(
        {arguments[0] for _, arguments in commands() if arguments and not arguments[0].startswith("-")}
    )
    found = {name: whence_command(name, "--help") for name in names}
    for name, done in found.items():
        assert done.returncode == 0, f"whence {name}: {done.stderr}"
    return {name: done.stdout for name, done in found.items()}


def test_commands_in_the_pages_exist(helps: dict[str, str]) -> None:
    for page, arguments in commands():
        if not arguments or arguments[0].startswith("-"):
            continue
        for flag in (each.partition("=")[0] for each in arguments[1:] if re.match(r"--?[a-z]", each)):
            known = re.search(rf"(?<![\w-]){re.escape(flag)}(?![\w-])", helps[arguments[0]])
            assert known or flag == "--help", f"{page}: whence {arguments[0]} has no {flag}"


def test_methods_and_models_in_the_commands_exist() -> None:
    import whence

    for page, arguments in commands():
        for flag, value in itertools.pairwise(arguments):
            if flag == "--method":
                assert all(name in whence.methods() for name in value.split(",")), f"{page}: {value}"
            if flag in ("--model", "-m"):
                file = value.endswith((".onnx", ".keras"))
                assert file or ":" in value or value in whence.zoo.names(), f"{page}: {value}"


CHEAP = ({"methods"}, {"--help"}, {"--version"})


def test_cheap_commands_of_the_pages_run(tmp_path: Path) -> None:
    cheap = {tuple(arguments) for _, arguments in commands() if set(arguments) - {"--json"} in CHEAP}
    for arguments in cheap:
        done = whence_command(*arguments, cwd=tmp_path)
        assert done.returncode == 0 and done.stdout, f"whence {' '.join(arguments)}: {done.stderr}"


def test_snippets_import_only_what_is_installed() -> None:
    """A page never asks for a package that the project does not bring, unless it says so."""
    brought = {"whence", "numpy", "torch", "matplotlib", "sklearn", "PIL", "safetensors", "scipy"}
    brought |= {"jax", "flax", "equinox", "onnx"}
    for page in PAGES:
        for block in make_docs.blocks(text_of(page)):
            if block.language != "python" or block.comment.startswith("not run"):
                continue
            for node in ast.walk(ast.parse(block.text)):
                names: list[Any] = []
                if isinstance(node, ast.Import):
                    names = [alias.name for alias in node.names]
                elif isinstance(node, ast.ImportFrom):
                    names = [node.module]
                for name in names:
                    root = str(name).partition(".")[0]
                    assert root in brought or root in sys.stdlib_module_names, f"{page.name}: imports {root}"
