"""ONNX files: read and checked, without running anything and without leaving their folder."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from os import PathLike
from pathlib import Path
from threading import Lock
from typing import Any, Final

from whence.backends.onnx_graph.external import bring_in
from whence.errors import BadInput, UnsupportedByBackend

SUFFIX: Final = ".onnx"
TO_INSTALL: Final = "reading ONNX files takes the package onnx: pip install onnx"
OLDEST: Final = 7
"""Before this opset, shapes were stretched by attributes: such files are turned into those of RENEWED first."""
RENEWED: Final = 13
# Files whose graphs stay in memory, as the chunk sizes found for them do.
KEPT: Final = 4


@dataclass(frozen=True)
class Value:
    """An input or output as the file describes it: a side is a number, a name, or None where nothing is said.

    `kind` is ONNX's number of the element type; 0 for what is no tensor.
    """

    name: str
    kind: int
    sides: tuple[int | str | None, ...] | None


class OnnxFile:
    """A model that was read from an ONNX file, or made of a `ModelProto`.

    Attributes:
        proto: what the file holds, with the weights in it.
        path: where it lies, None for one that was given as a `ModelProto`.
        shown: the one output that is asked for, None for all of them.
    """

    def __init__(self, proto: Any, path: Path | None = None, shown: str | None = None) -> None:
        self.proto, self.path, self.shown = proto, path, shown
        self.lock = Lock()
        self.made: dict[str, Any] = {}

    @property
    def __name__(self) -> str:
        return self.path.name if self.path is not None else self.proto.graph.name or "ModelProto"

    def __repr__(self) -> str:
        return f"OnnxFile({str(self.path) if self.path is not None else self.__name__!r})"

    @cached_property
    def inputs(self) -> tuple[Value, ...]:
        """What the model takes; old files list their weights there too."""
        weights = {each.name for each in self.proto.graph.initializer}
        return tuple(_value(each) for each in self.proto.graph.input if each.name not in weights)

    @cached_property
    def outputs(self) -> tuple[Value, ...]:
        """What the model gives, or the output that is asked for."""
        every = (_value(each) for each in self.proto.graph.output)
        return tuple(each for each in every if self.shown in (None, each.name))

    def showing(self, output: str) -> OnnxFile:
        """Return the same model with one of its outputs alone."""
        return OnnxFile(self.proto, self.path, output)

    @cached_property
    def metadata(self) -> dict[str, str]:
        """What the file says besides, by key."""
        return {each.key: each.value for each in self.proto.metadata_props}

    @property
    def batch(self) -> int | None:
        """The number of examples that the file was made for; None where any may be given."""
        sides = {each.sides[0] for each in self.inputs if each.sides}
        first = sides.pop() if len(sides) == 1 else None
        return first if isinstance(first, int) and first > 0 else None

    @cached_property
    def opsets(self) -> dict[str, int]:
        """The version of the operators' definitions, by domain."""
        return _opsets(self.whole)

    @cached_property
    def whole(self) -> Any:
        """The model with its own functions put in where they are used, and of operators that are not too old."""
        proto = self.proto
        if proto.functions:
            from onnx.inliner import inline_local_functions  # pyright: ignore[reportMissingImports]

            proto = inline_local_functions(proto)
        return proto if _opsets(proto).get("", 1) >= OLDEST else _renewed(proto)

    @cached_property
    def hindrances(self) -> tuple[str, ...]:
        """What in the file is not run as PyTorch operations, in words; nothing where all of it is."""
        from whence.backends.onnx_graph.registry import LATEST, find, plain
        from whence.backends.onnx_graph.values import TYPES

        newest = self.opsets.get("", 1)
        if newest > LATEST[""]:
            return (
                f"operators as of opset {newest}, and whence knows them up to {LATEST['']} (export with an older "
                "opset_version)",
            )
        found: dict[str, None] = {}
        for value in self.inputs:
            if value.kind and value.kind not in TYPES:
                found.setdefault(f"the input {value.name!r}, which holds no plain numbers")
        for node in nodes(self.whole.graph, {each.name for each in self.outputs}):
            domain = plain(node.domain)
            if find(domain, node.op_type, self.opsets.get(domain, 1)) is None:
                place = f"node {node.name!r}" if node.name else f"the node that makes {node.output[0]!r}"
                found.setdefault(f"{spelt(domain, node.op_type, self.opsets.get(domain, 1))} ({place})")
        return tuple(found)


def _opsets(proto: Any) -> dict[str, int]:
    return {("" if each.domain == "ai.onnx" else each.domain): each.version for each in proto.opset_import}


def _renewed(proto: Any) -> Any:
    """Return a model of very old operators in newer ones, where ONNX's own converter can; else as it is."""
    from onnx import version_converter  # pyright: ignore[reportMissingImports]

    try:
        return version_converter.convert_version(proto, RENEWED)
    except Exception:
        # What it does not know is named when the graph is made.
        return proto


def spelt(domain: str, name: str, opset: int) -> str:
    """Return what people call an operator."""
    from whence.backends.onnx_graph.registry import claimed

    if domain:
        return f"{name} of the domain {domain}"
    return f"{name} as of opset {opset}" if (domain, name) in claimed() else name


def nodes(graph: Any, outputs: set[str] | None = None) -> Iterator[Any]:
    """Yield the nodes of a graph that some of its outputs need (all, where none are named), and of the graphs in it."""
    for node in graph.node if outputs is None else [graph.node[i] for i in needed(graph, outputs)]:
        yield node
        for inner in _graphs(node):
            yield from nodes(inner)


def needed(graph: Any, outputs: set[str]) -> list[int]:
    """Return the places of the nodes that some of a graph's outputs need, in their order."""
    wanted, found = set(outputs), list[int]()
    for place in reversed(range(len(graph.node))):
        node = graph.node[place]
        if wanted.intersection(node.output):
            found.append(place)
            wanted.update(node.input)
            # Graphs inside use values of the graph around by their names.
            wanted.update(name for inner in _graphs(node) for each in nodes(inner) for name in each.input)
            wanted.update(each.name for inner in _graphs(node) for each in inner.output)
    return found[::-1]


def _graphs(node: Any) -> list[Any]:
    return [
        inner
        for attribute in node.attribute
        if attribute.type in (5, 10)
        for inner in ((attribute.g,) if attribute.type == 5 else attribute.graphs)
    ]


def names_file(model: Any) -> bool:
    """Tell whether a model is the path of an ONNX file, one that was opened, or a `ModelProto`."""
    if isinstance(model, (str, PathLike)):
        return Path(model).suffix.lower() == SUFFIX
    return isinstance(model, OnnxFile) or _is_proto(model)


def _is_proto(model: Any) -> bool:
    return type(model).__name__ == "ModelProto" and type(model).__module__.startswith("onnx")


_opened: OrderedDict[tuple[str, int, int], OnnxFile] = OrderedDict()
_lock = Lock()


def opened(model: Any) -> OnnxFile:
    """Return the file that a path or a `ModelProto` stands for; one that did not change is read once.

    Raises:
        BadInput: there is no such file, or it is no ONNX file, or its data lie outside of its folder.
        UnsupportedByBackend: the package onnx is missing.
    """
    if isinstance(model, OnnxFile):
        return model
    if _is_proto(model):
        bring_in(model, None)
        return OnnxFile(model)
    path = Path(model)
    if not path.is_file():
        raise BadInput(f"there is no file {str(path)!r}; give the path of an ONNX file")
    state = path.stat()
    key = (str(path.resolve()), state.st_mtime_ns, state.st_size)
    with _lock:
        if key not in _opened:
            _opened[key] = _read(path)
            while len(_opened) > KEPT:
                _opened.popitem(last=False)
        _opened.move_to_end(key)
        return _opened[key]


def _read(path: Path) -> OnnxFile:
    try:
        import onnx  # pyright: ignore[reportMissingImports]
    except ImportError:
        raise UnsupportedByBackend(TO_INSTALL) from None
    try:
        proto: Any = onnx.ModelProto()
        proto.ParseFromString(path.read_bytes())
    except OSError as problem:
        raise BadInput(f"{path}: cannot be read ({(problem.strerror or str(problem)).lower()})") from None
    except Exception:
        # The parser's own errors have no public class.
        proto = None
    if proto is None or not proto.ir_version or not proto.graph.output:
        raise BadInput(f"{path} is no ONNX file, or a damaged one; export the model anew (it holds no graph)")
    bring_in(proto, path)
    return OnnxFile(proto, path)


def _value(info: Any) -> Value:
    if not info.type.HasField("tensor_type"):
        return Value(info.name, 0, None)
    kind = info.type.tensor_type
    if not kind.HasField("shape"):
        return Value(info.name, kind.elem_type, None)
    sides = tuple(
        side.dim_value if side.HasField("dim_value") else side.dim_param or None for side in kind.shape.dim
    )
    return Value(info.name, kind.elem_type, sides)
