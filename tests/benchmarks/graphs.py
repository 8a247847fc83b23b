"""Operations of TensorFlow graphs, counted by their static shapes."""

import math

import tensorflow as tf


def needed_operations(function) -> list:
    """Returns the operations that the outputs and side effects of a traced function depend on."""
    pending = [tensor.op for tensor in function.outputs] + list(function.graph.control_outputs)
    found: dict[str, tf.Operation] = {}
    while pending:
        operation = pending.pop()
        if operation.name not in found:
            found[operation.name] = operation
            pending += [tensor.op for tensor in operation.inputs] + list(operation.control_inputs)
    return list(found.values())


def count_operations(function) -> int:
    """Counts multiplications and additions in the convolutions and matrix products of a traced function."""
    operations = needed_operations(function)
    kinds = {operation.type for operation in operations}
    assert not kinds & {"PartitionedCall", "StatefulPartitionedCall", "While", "BatchMatMulV2"}
    return sum(_COUNT[operation.type](operation) for operation in operations if operation.type in _COUNT)


def _product(positions, kernel) -> int:
    return 2 * math.prod(positions[:-1]) * math.prod(kernel)


def _convolution(operation) -> int:
    return _product(operation.outputs[0].shape, operation.inputs[1].shape)


def _gradient_by_input(operation) -> int:
    return _product(operation.inputs[2].shape, operation.inputs[1].shape)


def _gradient_by_kernel(operation) -> int:
    shape = operation.inputs[1]
    assert shape.op.type == "ShapeN"  # Of images and kernel.
    return _product(operation.inputs[2].shape, shape.op.inputs[shape.value_index].shape)


def _matmul(operation) -> int:
    inner = operation.inputs[0].shape[0 if operation.get_attr("transpose_a") else 1]
    return 2 * inner * math.prod(operation.outputs[0].shape)


_COUNT = {
    "Conv2D": _convolution,
    "Conv2DBackpropInput": _gradient_by_input,
    "Conv2DBackpropFilter": _gradient_by_kernel,
    "MatMul": _matmul,
}
