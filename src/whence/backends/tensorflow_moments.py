"""Second derivatives through TensorFlow's own variance, which stops the gradient of its mean.

That the mean is held is right for one derivative, because a variance does not react to its mean; of two it takes away
what they have in common. So where a graph has such a stop, it is copied without it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import tensorflow as tf


def is_held(operation: Any) -> bool:
    """Tell a stopped gradient of a mean that only a variance uses."""
    if operation.type != "StopGradient":
        return False
    users = operation.outputs[0].consumers()
    return bool(users) and all(user.type == "SquaredDifference" for user in users)


def released(concrete: Any, specs: Sequence[tf.TensorSpec]) -> Any:
    """Return a traced function whose variances know that their mean moves; the same one where it has none."""
    graph = concrete.graph
    held = {each.name for each in graph.get_operations() if is_held(each)}
    if not held:
        return concrete
    definition = graph.as_graph_def()
    for node in definition.node:
        if node.name in held:
            node.op = "Identity"
    inner = [each.name for each in graph.inputs]
    outer = [external for external, _ in graph.captures]
    wanted = [each.name for each in concrete.outputs]

    def again(*tensors: Any) -> list[Any]:
        here: Any = tf.compat.v1.get_default_graph()
        given = dict(zip(inner, [*tensors, *map(here.capture, outer)], strict=True))
        return list(tf.graph_util.import_graph_def(definition, given, wanted, name=""))

    return tf.function(again, input_signature=list(specs), autograph=False).get_concrete_function()
