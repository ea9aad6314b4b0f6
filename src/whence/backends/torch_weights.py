"""Reading and writing the weights of PyTorch modules: all of them or none, and what does not fit is named."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final, cast

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor, nn

from whence.backends.torch_zoo import MobileNetV2
from whence.errors import BadInput
from whence.files import write_atomically

LISTED: Final = 3
"""How many tensor names an error shows."""


def save_weights(model: nn.Module, path: Path) -> None:
    """Write the model's parameters and buffers to `path` (.safetensors), all of it or nothing."""
    tensors = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
    with write_atomically(path) as file:
        file.write(save(tensors))


def load_weights(model: object, path: Path) -> None:
    """Copy the tensors of a file into the model, which stays untouched unless all of them fit.

    A suffix other than .safetensors is unpickled: the caller must have asked the user for their trust.

    Raises:
        BadInput: the model is no module, the file cannot be read, or its tensors are missing, unexpected,
            misshapen or not finite.
    """
    if not isinstance(model, nn.Module):
        raise BadInput(
            f"weights are loaded into a torch.nn.Module, not {type(model).__name__}; give such a model"
        )
    tensors = read_safetensors(path) if path.suffix.lower() == ".safetensors" else unpickle(path)
    if isinstance(model, MobileNetV2) and is_numbered(tensors):
        tensors = name_by_order(model, in_layer_order(tensors))
    own = {name: tensor for name, tensor in model.state_dict().items() if isinstance(tensor, Tensor)}
    parameters = {name for name, _ in model.named_parameters(remove_duplicate=False)}
    problems = [
        *names_that_differ(own, tensors),
        *shapes_that_differ(own, tensors),
        *values_not_finite(tensors, parameters),
    ]
    if problems:
        raise BadInput(
            f"{path} does not fit {type(model).__name__}: {'; '.join(problems)}; "
            "give weights that were saved from this architecture"
        )
    # Not strict: what may be missing (tied names, counters of batches) has been sorted out above.
    model.load_state_dict(tensors, strict=False)


# ---- what a file holds -------------------------------------------------------------------------------------


def read_safetensors(path: Path) -> dict[str, Tensor]:
    """Return the tensors of a .safetensors file.

    Raises:
        BadInput: the file is truncated, corrupt or not readable.
    """
    try:
        return load_file(path)
    except (SafetensorError, OSError, ValueError) as error:
        raise BadInput(f"cannot read {path} as safetensors: {error}; save or download it again") from error


def unpickle(path: Path) -> dict[str, Tensor]:
    """Return the tensors of a pickled state dict, checkpoint or module; runs whatever code the file holds.

    Raises:
        BadInput: the file cannot be unpickled or holds no state dict.
    """
    try:
        content: Any = torch.load(path, map_location="cpu", weights_only=False)
    except Exception as error:  # a pickle runs code, so it can raise anything
        reason = " ".join(str(error).split()) or type(error).__name__
        raise BadInput(f"cannot unpickle {path}: {reason}; save the state dict as .safetensors") from error
    tensors = state_dict_in(content)
    if not tensors or not all(isinstance(tensor, Tensor) for tensor in tensors.values()):
        raise BadInput(
            f"{path} holds no state dict (tensors by name); save model.state_dict() as .safetensors"
        )
    return dict(tensors)


def state_dict_in(content: object) -> Mapping[str, Any]:
    """Return the state dict that is, or lies in, what a checkpoint held; empty where there is none."""
    if isinstance(content, nn.Module):
        return content.state_dict()
    if not isinstance(content, Mapping):
        return {}
    mapping = cast("Mapping[str, Any]", content)
    inner = (mapping.get(key) for key in ("state_dict", "model_state_dict", "model"))
    nested = next((value for value in inner if isinstance(value, (Mapping, nn.Module))), None)
    return mapping if nested is None else state_dict_in(nested)


# ---- tensors named by their order --------------------------------------------------------------------------


def is_numbered(tensors: Iterable[str]) -> bool:
    """Return whether the tensors are named by position alone, layer00.weight and so on."""
    return all(re.fullmatch(r"layer\d+\.(weight|bias)", name) for name in tensors)


def in_layer_order(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return numbered tensors by their layer's number, the weight before the bias."""

    def position(name: str) -> tuple[int, bool]:
        layer, kind = name.split(".")
        return int(layer.removeprefix("layer")), kind == "bias"

    return {name: tensors[name] for name in sorted(tensors, key=position)}


def name_by_order(model: nn.Module, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Give tensors that come in forward order the names of the model's own parameters, matched by position.

    The model must define its parameters in forward order too.

    Raises:
        BadInput: the numbers of tensors differ, or a shape does.
    """
    own = model.state_dict()
    if len(own) != len(tensors):
        raise BadInput(
            f"{type(model).__name__} has {len(own)} tensors, not {len(tensors)}; "
            "give a weight and a bias for each layer"
        )
    for (name, expected), (given_name, given) in zip(own.items(), tensors.items(), strict=True):
        if expected.shape != given.shape:
            raise BadInput(
                f"{given_name} is {described(given)}, but the next, {name}, is {described(expected)}; "
                "give the tensors in forward order"
            )
    return dict(zip(own, tensors.values(), strict=True))


# ---- what does not fit -------------------------------------------------------------------------------------


def names_that_differ(own: Mapping[str, Tensor], given: Mapping[str, Tensor]) -> list[str]:
    """Return what is missing and what is unexpected, one line each."""
    # safetensors keeps one name of tensors that are tied together, and older files count no batches.
    present = {(tensor.data_ptr(), tensor.shape) for name, tensor in own.items() if name in given}
    missing = [
        name
        for name, tensor in own.items()
        if name not in given
        and not (tensor.data_ptr() and (tensor.data_ptr(), tensor.shape) in present)
        and not name.endswith("num_batches_tracked")
    ]
    unexpected = [name for name in given if name not in own]
    problems = [("missing", missing), ("unexpected", unexpected)]
    return [f"{len(names)} {problem}: {first_few(names)}" for problem, names in problems if names]


def shapes_that_differ(own: Mapping[str, Tensor], given: Mapping[str, Tensor]) -> list[str]:
    """Return the tensors whose shape or kind of number is not the model's, as at most one line."""
    different = [
        f"{name} is {described(given[name])}, not {described(tensor)}"
        for name, tensor in own.items()
        if name in given and not nn.parameter.is_lazy(tensor) and not alike(tensor, given[name])
    ]
    return [f"{len(different)} mismatched: {first_few(different)}"] if different else []


def alike(first: Tensor, second: Tensor) -> bool:
    """Return whether one tensor can be copied to the other without loss of meaning."""
    return (
        first.shape == second.shape
        and first.is_complex() == second.is_complex()
        and first.is_floating_point() == second.is_floating_point()
    )


def described(tensor: Tensor) -> str:
    """Return a tensor's dtype and shape in words."""
    return f"{str(tensor.dtype).removeprefix('torch.')} {list(tensor.shape)}"


def values_not_finite(given: Mapping[str, Tensor], parameters: set[str]) -> list[str]:
    """Return the tensors that hold NaN, or as parameters infinities, as at most one line."""
    # A buffer may well be infinite: a causal mask is.
    bad = [
        name
        for name, tensor in given.items()
        if (tensor.is_floating_point() or tensor.is_complex())
        and bool((~wide(tensor).isfinite() if name in parameters else wide(tensor).isnan()).any())
    ]
    return [f"{len(bad)} not finite: {first_few(bad)}"] if bad else []


def wide(tensor: Tensor) -> Tensor:
    """Return the tensor in a dtype that every check is implemented for: 8-bit floats have few operations."""
    return tensor.float() if tensor.is_floating_point() and tensor.itemsize == 1 else tensor


def first_few(names: list[str]) -> str:
    """Return the first names, and how many more there are."""
    rest = len(names) - LISTED
    return ", ".join(names[:LISTED]) + (f" and {rest} more" if rest > 0 else "")
