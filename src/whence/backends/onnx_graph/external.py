"""Weights that lie beside an ONNX file: brought in, and only from its own folder."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from whence.errors import BadInput


def bring_in(proto: Any, path: Path | None) -> None:
    """Read the tensors that a model keeps in other files, all of whose places are checked before the first is read.

    Raises:
        BadInput: one lies outside of the model's folder, is missing, or is shorter than the model says.
    """
    wanted = [each for each in _tensors(proto) if each.data_location == 1]
    if not wanted:
        return
    if path is None:
        raise BadInput(
            "the ModelProto keeps its weights in another file, and nothing says where; pass the path of the ONNX file"
        )
    places = [_place(each, path) for each in wanted]
    for tensor, (file, offset, length) in zip(wanted, places, strict=True):
        with file.open("rb") as handle:
            handle.seek(offset)
            tensor.raw_data = handle.read() if length is None else handle.read(length)
        tensor.data_location = 0
        del tensor.external_data[:]


def _place(tensor: Any, path: Path) -> tuple[Path, int, int | None]:
    """Return the file that holds a tensor, from where on, and how much of it."""
    said = {each.key: each.value for each in tensor.external_data}
    location, folder = said.get("location", ""), path.parent.resolve()
    given = Path(location)
    # A link, too, may lead anywhere: where it leads counts, not where it lies.
    file = (folder / given).resolve()
    if not location or given.is_absolute() or ".." in given.parts or not file.is_relative_to(folder):
        raise BadInput(
            f"{path}: its tensor {tensor.name!r} lies in {location!r}, outside of the model's folder, and was not "
            "read; put the data file beside the model (a copy, no link)"
        )
    if not file.is_file():
        raise BadInput(f"{path}: its data file {location!r} is missing; put it beside the model")
    try:
        offset = int(said.get("offset", 0))
        length = int(said["length"]) if said.get("length") else None
    except ValueError:
        offset, length = -1, None
    if offset < 0 or (length is not None and (length < 0 or offset + length > file.stat().st_size)):
        raise BadInput(
            f"{path}: its data file {location!r} is shorter than the model says, or damaged; export the model anew"
        )
    return file, offset, length


def _tensors(proto: Any) -> Iterator[Any]:
    yield from _in_graph(proto.graph)
    for function in proto.functions:
        for node in function.node:
            yield from _in_node(node)


def _in_graph(graph: Any) -> Iterator[Any]:
    yield from graph.initializer
    for sparse in graph.sparse_initializer:
        yield from (sparse.values, sparse.indices)
    for node in graph.node:
        yield from _in_node(node)


def _in_node(node: Any) -> Iterator[Any]:
    for attribute in node.attribute:
        yield attribute.t
        yield from attribute.tensors
        for sparse in (attribute.sparse_tensor, *attribute.sparse_tensors):
            yield from (sparse.values, sparse.indices)
        yield from _in_graph(attribute.g)
        for inner in attribute.graphs:
            yield from _in_graph(inner)
