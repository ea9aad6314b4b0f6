"""What each framework makes easy and hard here: facts about our backends that no clock shows, in this one place."""

from __future__ import annotations

from dataclasses import dataclass
from types import MappingProxyType
from typing import Final


@dataclass(frozen=True)
class Facts:
    """What is passed, by what names places inside are asked for, and what is easy and hard."""

    passed: str
    sites: str
    easy: tuple[str, ...]
    hard: tuple[str, ...]


_COMPILED: Final = (
    "compiled for at most three numbers of rows; others are padded, so that no batch compiles anew",
    "a model that looks at values while it runs (an if on an array, float(), NumPy) cannot be traced: then there are "
    "no gradients of it, and nothing inside of it can be watched",
)
FACTS: Final = MappingProxyType(
    {
        "torch": Facts(
            "a torch.nn.Module, or a function of tensors",
            "module and parameter names, as named_modules() has them; any call of a module that runs several times",
            ("rules and sites see what the Python code does: branches, loops, in-place operations, reused modules",
             "nothing is compiled, and any number of rows will do",
             "exact integrals piece by piece, and the first affine operation taken out of the path's loop"),
            ("a scripted or exported module hides its operations from rules",),
        ),
        "jax": Facts(
            "a function f(x), or the pair (f, params)",
            "jax.ad_checkpoint.checkpoint_name(value, name) in the code; parameters by their path in the tree",
            ("the model is a pure function: nothing of it can be changed by looking",
             "float64 and float32 in the same code, once jax_enable_x64 is on"),
            (*_COMPILED, "a place without a checkpoint_name cannot be asked for"),
        ),
        "flax": Facts(
            "an NNX module; a linen module as (module, variables)",
            "module attributes joined by dots; parameters likewise",
            ("modules have names by themselves, so that layers need no marks",
             "the module is split into structure and arrays, and stays as it is"),
            _COMPILED,
        ),
        "equinox": Facts(
            "an equinox module of one example; with state as (module, state)",
            "attributes of modules joined by dots",
            ("written for one example, and mapped over the batch for you",
             "channels come first inside, as in PyTorch"),
            (*_COMPILED, "what mixes the examples of a batch cannot be written that way"),
        ),
        "keras": Facts(
            "a functional, sequential or subclassed model",
            "layer names, as model.summary() shows them",
            ("a trace leaves the number of rows open: none need be padded",
             "layers of nested and of subclassed models are found by name too"),
            ("the names that Keras makes up (dense_7) change from one session to the next: name your layers",
             "no exact integrals piece by piece"),
        ),
        "tensorflow": Facts(
            "a tf.function, a SavedModel, or a function of tensors",
            "none: operations of a graph are no layers",
            ("what was saved runs as it is, without the code that made it",),
            ("no layers and no parameters can be asked for; the CAM family needs the Keras model",
             "plain Python functions are not traced for you, and are slower: wrap them in tf.function"),
        ),
        "onnx": Facts(
            "a path to an .onnx file, or an onnx.ModelProto",
            "node names, as Netron shows them",
            ("one file from any framework; its own Python is not needed",
             "PyTorch runs the graph for gradients and rules, and each result says how near ONNX Runtime's answer is"),
            ("the original Python is gone: an exporter may have folded or renamed what you look for",
             "without PyTorch, or with an operator that it cannot run, only values are left: a black box"),
        ),
        "callable": Facts(
            "any function of NumPy arrays; a scikit-learn estimator",
            "none: a black box has no inside",
            ("whatever can be called: a server, a simulator, a table's pipeline",
             "nothing to install"),
            ("no gradients, rules or layers: only methods that switch features on and off, and differences",
             "each map takes many runs of the model"),
        ),
    }
)  # fmt: skip
