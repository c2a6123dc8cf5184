"""Operators behind a graph, written as formulas.

    builder = Builder(onnx.load("net.onnx"))
    features = builder.value("features", np.float32)
    length = (features * features).row_sum().sqrt()
    builder.output(-length.double(), "score", ["n"])
    onnx.save(builder.finished(), "longer.onnx")

Only operators whose form has been the same since opset 11 are used, so that a graph of any opset
since can be made longer: sums over a row are products with ones, and maxima come from TopK."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Union

import numpy as np

from networks import onnx_graphs

OLDEST = 11  # opset
PREFIX = "detector"  # of the names of all that is added
Operand = Union["Value", np.ndarray, float]


class Builder:
    """A copy of a model without its outputs, to which operators and outputs are added."""

    def __init__(self, model: Any) -> None:
        """ValueError for a model of an older opset."""
        self.onnx = onnx_graphs.library()
        opset = max(each.version for each in model.opset_import if each.domain in ("", "ai.onnx"))
        if opset < OLDEST:
            raise ValueError(
                f"the network is written in ONNX opset {opset}, and a detector needs {OLDEST} or"
                " newer: export it again"
            )
        self.model = self.onnx.ModelProto()
        self.model.CopyFrom(model)
        del self.model.graph.output[:]
        self.count = 0

    def value(self, name: str, kind: Any) -> "Value":
        """A value of the graph by its name; `kind` is its type in NumPy."""
        return Value(self, name, np.dtype(kind))

    def constant(self, values: Any, kind: Any) -> "Value":
        """Numbers that never change."""
        array = np.ascontiguousarray(values, kind)
        name = self.new_name()
        self.model.graph.initializer.append(self.onnx.numpy_helper.from_array(array, name))
        return self.value(name, kind)

    def apply(self, operator: str, inputs: Sequence["Value"], kind: Any, **more: Any) -> "Value":
        """The result of an operator."""
        (result,) = self.apply_to_many(operator, inputs, [kind], **more)
        return result

    def apply_to_many(
        self, operator: str, inputs: Sequence["Value"], kinds: Sequence[Any], **more: Any
    ) -> list["Value"]:
        """The results of an operator that has several."""
        names = [self.new_name() for _ in kinds]
        node = self.onnx.helper.make_node(operator, [each.name for each in inputs], names, **more)
        self.model.graph.node.append(node)
        return [self.value(name, kind) for name, kind in zip(names, kinds, strict=True)]

    def new_name(self) -> str:
        """A name that no value has."""
        self.count += 1
        return f"{PREFIX}.{self.count}"

    def output(self, value: "Value", name: str, shape: Sequence[str | int]) -> None:
        """Hand a value on as an output of this name and shape."""
        helper = self.onnx.helper
        if value.name != name:
            self.rename(name)
            self.model.graph.node.append(helper.make_node("Identity", [value.name], [name]))
        kind = helper.np_dtype_to_tensor_dtype(value.kind)
        self.model.graph.output.append(helper.make_tensor_value_info(name, kind, shape))

    def rename(self, taken: str) -> None:
        """Give another name to the value within the graph that has this one, if any has."""
        name = self.new_name()
        for node in self.model.graph.node:
            for names in (node.input, node.output):
                for place, each in enumerate(names):
                    if each == taken:
                        names[place] = name

    def finished(self) -> Any:
        """The model, without what no output needs; an error of onnx for one that is none."""
        graph = self.model.graph
        needed = {value.name for value in graph.output}
        kept = []
        for node in reversed(graph.node):  # each stands behind those that it needs
            if needed.intersection(node.output):
                kept.append(node)
                needed.update(node.input)
                needed.update(self.captured(node))
        constants = [each for each in graph.initializer if each.name in needed]
        del graph.node[:], graph.initializer[:]
        graph.node.extend(reversed(kept))
        graph.initializer.extend(constants)
        self.onnx.checker.check_model(self.model)
        return self.model

    def captured(self, node: Any) -> set[str]:
        """The values that a branch or a loop within an operator reads from outside."""
        names: set[str] = set()
        for attribute in node.attribute:
            for inner in attribute.g.node:
                names.update(inner.input)
                names |= self.captured(inner)
        return names


@dataclass(frozen=True, eq=False)
class Value:
    """A value of a graph, with the operators of NumPy. Numbers take the type of what they meet."""

    builder: Builder
    name: str
    kind: np.dtype

    def __add__(self, other: Operand) -> "Value":
        return self.with_other("Add", other)

    def __sub__(self, other: Operand) -> "Value":
        return self.with_other("Sub", other)

    def __mul__(self, other: Operand) -> "Value":
        return self.with_other("Mul", other)

    def __truediv__(self, other: Operand) -> "Value":
        return self.with_other("Div", other)

    def __matmul__(self, other: Operand) -> "Value":
        return self.with_other("MatMul", other)

    def __neg__(self) -> "Value":
        return self.alone("Neg")

    def __gt__(self, other: Operand) -> "Value":
        return self.builder.apply("Greater", [self, self.like(other)], bool)

    def equals(self, other: Operand) -> "Value":
        """Where two are the same."""
        return self.builder.apply("Equal", [self, self.like(other)], bool)

    def either(self, other: "Value") -> "Value":
        """Where one of two conditions holds."""
        return self.builder.apply("Or", [self, other], bool)

    def power(self, exponent: float) -> "Value":
        """Each number to a power."""
        return self.with_other("Pow", exponent)

    def exp(self) -> "Value":
        return self.alone("Exp")

    def log(self) -> "Value":
        return self.alone("Log")

    def sqrt(self) -> "Value":
        return self.alone("Sqrt")

    def abs(self) -> "Value":
        return self.alone("Abs")

    def double(self) -> "Value":
        """The same numbers in float64."""
        double = self.builder.onnx.TensorProto.DOUBLE
        return self.builder.apply("Cast", [self], np.float64, to=double)

    def or_nan(self, condition: "Value") -> "Value":
        """The numbers where a condition holds, NaN elsewhere."""
        return self.builder.apply("Where", [condition, self, self.like(np.nan)], self.kind)

    def column(self) -> "Value":
        """(n,) -> (n, 1)."""
        return self.shaped([-1, 1])

    def shaped(self, shape: Sequence[int]) -> "Value":
        """The same numbers in another shape."""
        wanted = self.builder.constant(shape, np.int64)
        return self.builder.apply("Reshape", [self, wanted], self.kind)

    # -- of each row

    def row_sum(self, width: int) -> "Value":
        """(n, width) -> (n,)."""
        return self @ np.ones(width)

    def row_max(self) -> "Value":
        """(n, k) -> (n,)."""
        return self.largest(1)[0].shaped([-1])

    def row_argmax(self) -> "Value":
        """(n, k) -> (n,) the column of the largest, the first of equal ones."""
        return self.largest(1)[1].shaped([-1])

    def largest(self, count: int) -> list["Value"]:
        """(n, k) -> the largest numbers (n, count) of each row, the first of them first, and their
        columns."""
        number = self.builder.constant([count], np.int64)
        kinds = [self.kind, np.int64]
        return self.builder.apply_to_many("TopK", [self, number], kinds, axis=1)

    def columns(self, start: int, end: int) -> "Value":
        """(n, k) -> (n, end - start), some neighbouring columns."""
        bounds = [self.builder.constant([number], np.int64) for number in (start, end, 1)]
        return self.builder.apply("Slice", [self, *bounds], self.kind)

    def picks(self, table: np.ndarray) -> "Value":
        """Row numbers (n,) of a table (C, k) -> these rows (n, k) of it."""
        rows = self.builder.constant(table, table.dtype)
        return self.builder.apply("Gather", [rows, self], table.dtype, axis=0)

    # -- operators

    def like(self, other: Operand) -> "Value":
        """Another value, or numbers as a constant of this type."""
        return other if isinstance(other, Value) else self.builder.constant(other, self.kind)

    def with_other(self, operator: str, other: Operand) -> "Value":
        return self.builder.apply(operator, [self, self.like(other)], self.kind)

    def alone(self, operator: str) -> "Value":
        return self.builder.apply(operator, [self], self.kind)
