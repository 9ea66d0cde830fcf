"""Which metric it is: what tells a metric of one's own from another, so that the numbers of one are not the other's."""

from __future__ import annotations

from types import CodeType, FunctionType, MethodType, ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor

from analysis.metrics import METRICS, Metric, ReadMetric
from circuits.checkpoint import tensor_hash
from circuits.common.errors import require
from circuits.common.families import source_hash
from circuits.common.plain_data import content_hash

_PLAIN = (bool, int, float, complex, str, bytes, range, slice, type(None), type(...), torch.dtype, torch.device)


def metric_identity(name: str, metric: Metric) -> list[str]:
    """Return the name of a metric, and for one of your own a hash (hexadecimal) of what it computes.

    That is its source, its compiled code (of two functions on one line, the source is the same) and the values that it
    holds: of the variables around it, of its defaults, of the object that it is a method of. Values are numbers, text,
    tensors, arrays, containers of those, functions and metrics. What it finds by the name of a global variable, as
    the functions that it calls, is not part of it.

    Raises:
        ValueError: for one whose source cannot be read, as an object that is called, or that holds another value.
    """
    return [name] if metric in METRICS.values() else [name, content_hash(_Held(name).of_metric(metric))]


class _Held:
    """What a metric is made of, as plain data."""

    def __init__(self, name: str):
        self.name = name
        self.within: list[Any] = []
        """What is being described, from the outermost inwards: a recursive function holds itself."""

    def of_metric(self, metric: Any) -> Any:
        if type(metric) is ReadMetric:
            return ["read", self.of_metric(metric.of)]
        if isinstance(metric, MethodType):
            return ["method", self.of_metric(metric.__func__), self.value("the object of its method", metric.__self__)]
        require(
            isinstance(metric, FunctionType),
            f"the source of metric {self.name!r} cannot be read, as it is of type {type(metric).__name__}, so what "
            f"changes in it would not be seen; define it as a function in a file or in a notebook, or leave kept out",
        )
        return self.of_function(metric)

    def of_function(self, function: FunctionType) -> Any:
        if function in self.within:
            return ["itself", len(self.within) - self.within.index(function)]
        self.within.append(function)
        cells = zip(function.__code__.co_freevars, function.__closure__ or (), strict=True)
        found = {
            # Of a function that wraps another, it is the other's source that is read: the code is its own.
            "source": source_hash(function),
            "code": _code(function.__code__),
            "defaults": self.value("a default", function.__defaults__),
            "named": self.value("a default", function.__kwdefaults__),
            "around": {name: self.cell(name, cell) for name, cell in cells},
        }
        self.within.pop()
        return found

    def cell(self, name: str, cell: Any) -> Any:
        try:
            there = cell.cell_contents
        except ValueError:
            return "not there yet"
        return self.value(f"the variable {name}", there)

    def value(self, what: str, value: Any) -> Any:
        kind = type(value).__name__
        if isinstance(value, Tensor):
            return [kind, str(value.device), tensor_hash({"value": value.detach()})]
        if isinstance(value, np.ndarray) and value.dtype.kind in "biufc":
            return [kind, str(value.dtype), value.shape, value.tobytes().hex()]
        if type(value) in _PLAIN or isinstance(value, (np.number, np.bool_)):
            return [kind, repr(value)]
        if type(value) in (list, tuple):
            return [kind, [self.value(what, part) for part in value]]
        if type(value) in (set, frozenset):
            return [kind, sorted(map(repr, (self.value(what, part) for part in value)))]
        if type(value) is dict:
            return [kind, [[self.value(what, key), self.value(what, part)] for key, part in value.items()]]
        if isinstance(value, ModuleType):
            return [kind, value.__name__]
        if isinstance(value, (FunctionType, MethodType)) or type(value) is ReadMetric:
            return [kind, self.of_metric(value)]
        raise ValueError(
            f"metric {self.name!r} holds {what}, of type {kind}, and what changes in it would not be seen; let it hold "
            f"numbers, text, tensors, lists or functions alone, or leave kept out"
        )


def _code(code: CodeType) -> list[Any]:
    """What a compiled function does, without where it was written."""
    takes = (code.co_argcount, code.co_posonlyargcount, code.co_kwonlyargcount, code.co_flags)
    names = (code.co_names, code.co_varnames, code.co_freevars, code.co_cellvars)
    return [code.co_code.hex(), takes, names, [_constant(part) for part in code.co_consts]]


def _constant(value: Any) -> Any:
    if isinstance(value, CodeType):
        return _code(value)
    # The order of a set differs between processes.
    return sorted(map(repr, value)) if isinstance(value, frozenset) else repr(value)
