"""Names, sizes and ops in the text of an exported program: none of them may be more than that.

torch writes names into the Python code that it makes of a program, evaluates sizes as Python, looks functions up by
their names and imports modules that a container names.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Callable
from typing import Any

import torch
from torch._ops import HigherOrderOperator, OpOverload

from atograph.reading import Unreadable, parse_json

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*", re.ASCII)
_SYMBOL = re.compile(r"[a-z]{1,4}\d{1,6}", re.ASCII)
_UNSAFE = re.compile(r"[\x00-\x1f\x7f\"'\\]")

_UNQUOTED = re.compile(r"[\x00-\x1f\"\\]")

_FREE = ("metadata", "as_string", "as_strings", "torch_version")
"""What may be any text: it is quoted, or only shown."""

_ON_NUMBERS = re.compile(
    r"_operator\.(add|sub|mul|floordiv|truediv|mod|pow|neg|pos|abs|eq|ne|lt|le|gt|ge|and_|or_|not_|getitem)"
    r"|math\.(ceil|floor|trunc|sqrt)"
    r"|torch\.(sym_(int|float|max|min|ite|not|sum)|_sym_sqrt)"
)
_OP = re.compile(r"torch\.ops\.(\w+)\.(\w+)\.(\w+)", re.ASCII)
_REGION = re.compile(r"torch\.ops\.higher_order\.(\w+)", re.ASCII)
_REGIONS = ("wrap_with_autocast", "wrap_with_set_grad_enabled", "cond", "while_loop", "map_impl", "scan",
            "associative_scan", "flex_attention", "tag_activation_checkpoint")  # fmt: skip

_NO_OPS = {
    "_c10d_functional", "_c10d_functional_autograd", "_dtensor", "_native", "_test", "c10d", "c10d_functional",
    "debug_mode_ops", "debugprims", "export", "fsdp", "inductor", "inductor_prims", "prim", "profiler", "rngprims",
    "static_runtime", "symm_mem",
}  # fmt: skip
"""Ops that torch has for itself: they talk to other processes, read files, or take addresses."""

_FILES = ("aten.from_file", "aten.save")
_OUTSIDE = re.compile(r"file|path|group_name|url")
"""Names of texts that an op takes to reach for something outside: a file, another process."""

_FUNCTIONS = {
    "Symbol", "Integer", "Rational", "Float", "Add", "Mul", "Pow", "Mod", "Max", "Min", "Abs", "ceiling", "floor",
    "Eq", "Equality", "Ne", "Unequality", "Lt", "StrictLessThan", "Le", "LessThan", "Gt", "StrictGreaterThan", "Ge",
    "GreaterThan", "And", "Or", "Not", "FloorDiv", "ModularIndexing", "Where", "PythonMod", "CleanDiv", "CeilToInt",
    "FloorToInt", "CeilDiv", "FloatTrueDiv", "IntTrueDiv", "TruncToFloat", "TruncToInt", "RoundToInt", "ToFloat",
    "Identity",
}  # fmt: skip
"""What sizes are made of. Powers of powers and shifts are not in it: they can be numbers that no memory holds."""

_ASSUMED = {"integer", "positive", "nonnegative", "negative", "real", "evaluate"}
_ARITHMETIC = (ast.Add, ast.Sub, ast.Mult, ast.FloorDiv, ast.Div, ast.Mod)
_COMPARISONS = (ast.Eq, ast.NotEq, ast.Lt, ast.LtE, ast.Gt, ast.GtE)
_LONGEST = 20_000
_LARGEST_POWER = 16


def check_model(value: Any) -> None:
    """Refuse what in ``model.json`` is not a name, a size or an op where there is to be one.

    Raises:
        Unreadable: quoting it.
    """
    if not isinstance(value, dict):
        raise Unreadable("its model is no object")
    _check(value)


def _check(value: Any) -> None:
    if isinstance(value, list):
        for item in value:
            _check(item)
    elif isinstance(value, str):
        _check_text(value)
    elif isinstance(value, dict):
        for key, item in value.items():
            _check_text(key)
            if key in _FREE and _is_text(item):
                continue
            special = _SPECIAL.get(key)
            if special is None:
                _check(item)
            elif isinstance(item, (str, list)) or key == "range_constraints":
                special(item)
            else:  # of a value that is called "target", say
                _check(item)


def _is_text(value: Any) -> bool:
    inside = value.values() if isinstance(value, dict) else value if isinstance(value, list) else (value,)
    return all(isinstance(text, str) for text in inside)


def _check_text(text: str) -> None:
    if _UNSAFE.search(text):
        raise Unreadable(f"{_quoted(text)} stands in it where there is to be a name")


def _check_name(value: Any) -> None:
    for name in value if isinstance(value, list) else (value,):
        if not isinstance(name, str) or (name and not _NAME.fullmatch(name)):
            raise Unreadable(f"{_quoted(name)} stands in it where there is to be the name of a value")


def _check_op(value: Any) -> None:
    if not isinstance(value, str):
        raise Unreadable("an op in it is no name")
    if _ON_NUMBERS.fullmatch(value):
        return
    if region := _REGION.fullmatch(value):
        found = getattr(torch.ops.higher_order, region[1], None)
        if region[1] in _REGIONS and isinstance(found, HigherOrderOperator):
            return
    elif op := _OP.fullmatch(value):
        packet = getattr(getattr(torch.ops, op[1], None), op[2], None)
        found = getattr(packet, op[3], None)
        if found is None:
            return  # torch says best what to do about an op that is not there
        named = op[1] in _NO_OPS or f"{op[1]}.{op[2]}" in _FILES
        if isinstance(found, OpOverload) and not named and not _reaches_out(found):
            return
    raise Unreadable(f"{_quoted(value)} is no op of a network")


def _reaches_out(op: OpOverload) -> bool:
    return any(_OUTSIDE.search(each.name) and "str" in str(each.type) for each in op._schema.arguments)


def _check_treespec(value: Any) -> None:
    spec = parse_json(value) if isinstance(value, str) else None
    if not isinstance(spec, list) or len(spec) != 2 or spec[0] != 1:
        raise Unreadable("the structure of its inputs or outputs cannot be read")
    _check_container(spec[1])


def _check_container(spec: Any) -> None:
    if not isinstance(spec, dict) or not isinstance(spec.get("children_spec"), list):
        raise Unreadable("the structure of its inputs or outputs cannot be read")
    context = spec.get("context")
    if spec.get("type") == "collections.defaultdict" or _imports(context):
        raise Unreadable("the structure of its inputs or outputs imports a module")
    for child in spec["children_spec"]:
        _check_container(child)


def _imports(context: Any) -> bool:
    if isinstance(context, str):
        try:
            return not isinstance(inside := parse_json(context), str) and _imports(inside)
        except Unreadable:  # the name of a named tuple, say
            return "__enum__" in context or "\\u" in context
    if isinstance(context, dict):
        return "__enum__" in context or any(map(_imports, context.values()))
    return isinstance(context, list) and any(map(_imports, context))


def _check_keywords(value: Any) -> None:
    """The containers of the inputs; the names of keywords become names of parameters in Python."""
    _check_treespec(value)
    children = parse_json(value)[1]["children_spec"]
    if len(children) == 2 and isinstance(context := children[1].get("context"), str):
        _check_name(parse_json(context))


def _check_ranges(value: Any) -> None:
    for symbol in value if isinstance(value, dict) else (None,):
        if not isinstance(symbol, str) or not _SYMBOL.fullmatch(symbol):
            raise Unreadable(f"{_quoted(symbol)} stands in it where there is to be a size")
    _check(value)


def _check_guards(value: Any) -> None:
    """Comparisons of sizes, ``L['x'].size()[0] == L['y'].size()[0]``, which torch makes Python code of."""
    for code in value if isinstance(value, list) else (value,):
        try:
            if not isinstance(code, str) or len(code) > _LONGEST or _UNQUOTED.search(code) or not code.isascii():
                raise ValueError
            _check_guard(ast.parse(code.strip(), mode="eval").body)
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            raise Unreadable(f"{_quoted(code)} stands in it where there is to be a comparison of sizes") from None


def _check_guard(node: ast.expr) -> None:
    match node:
        case ast.Constant(value=bool() | int() | float()) | ast.Name(id="L"):
            return
        case ast.Compare(left=left, ops=ops, comparators=others) if all(isinstance(op, _COMPARISONS) for op in ops):
            inside = [left, *others]
        case ast.BoolOp(values=inside):
            pass
        case ast.BinOp(left=left, op=op, right=right) if isinstance(op, _ARITHMETIC):
            inside = [left, right]
        case ast.UnaryOp(operand=operand):
            inside = [operand]
        case ast.Subscript(value=base, slice=ast.Constant(value=int() | str())):
            inside = [base]
        case ast.Call(func=ast.Attribute(value=base, attr="size" | "stride" | "storage_offset"), args=[], keywords=[]):
            inside = [base]
        case ast.Call(func=ast.Name(id=name), args=inside, keywords=[]) if name in _FUNCTIONS - {"Pow", "Symbol"}:
            pass
        case _:
            raise ValueError
    for each in inside:
        _check_guard(each)


def _check_expression(value: Any) -> None:
    try:
        if not isinstance(value, str) or len(value) > _LONGEST or not value.isascii():
            raise ValueError
        _check_node(ast.parse(value.strip(), mode="eval").body, powers=1)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        raise Unreadable(f"{_quoted(value)} stands in it where there is to be a size") from None


def _check_node(node: ast.expr, powers: int) -> None:
    """Raises ValueError for all but sums, products, comparisons and the functions that sizes are made of."""
    match node:
        case ast.Constant(value=bool() | int() | float()):
            return
        case ast.Name(id=name) if _SYMBOL.fullmatch(name) or name in ("true", "false", "oo", "int_oo"):
            return
        case ast.UnaryOp(op=ast.USub() | ast.UAdd() | ast.Not(), operand=inner):
            _check_node(inner, powers)
        case ast.BinOp(left=left, op=op, right=right) if isinstance(op, _ARITHMETIC):
            _check_node(left, powers)
            _check_node(right, powers)
        case ast.BinOp(left=base, op=ast.Pow(), right=ast.Constant(value=int(power))) if _small(power, powers):
            _check_node(base, powers * power)
        case ast.Compare(left=left, ops=ops, comparators=others) if all(isinstance(op, _COMPARISONS) for op in ops):
            for inner in (left, *others):
                _check_node(inner, powers)
        case ast.Call(func=ast.Name(id="Symbol"), args=[ast.Constant(value=str(name))]) if _SYMBOL.fullmatch(name):
            _check_assumed(node)
        case ast.Call(func=ast.Name(id="Float"), args=[ast.Constant(value=str(text)), *_]):
            float(text)
        case ast.Call(func=ast.Name(id="Pow"), args=[base, power]):
            exponent = _exponent(power)
            if not _small(exponent, powers):
                raise ValueError
            _check_node(base, powers * max(1, abs(exponent)))
            _check_assumed(node)
        case ast.Call(func=ast.Name(id=name), args=args) if name in _FUNCTIONS:
            for inner in args:
                _check_node(inner, powers)
            _check_assumed(node)
        case _:
            raise ValueError


def _exponent(node: ast.expr) -> int:
    match node:
        case ast.Call(func=ast.Name(id="Integer"), args=[inner]):
            return _exponent(inner)
        case ast.UnaryOp(op=ast.USub(), operand=inner):
            return -_exponent(inner)
        case ast.Constant(value=int(power)):
            return power
    raise ValueError


def _small(power: int, powers: int) -> bool:
    return power >= -1 and max(1, abs(power)) * powers <= _LARGEST_POWER


def _check_assumed(call: ast.Call) -> None:
    for keyword in call.keywords:
        if keyword.arg not in _ASSUMED | {"precision"} or not isinstance(keyword.value, ast.Constant):
            raise ValueError


def _quoted(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:60]}..."


_SPECIAL: dict[str, Callable[[Any], None]] = {
    "name": _check_name,
    "as_name": _check_name,
    "forward_arg_names": _check_name,
    "target": _check_op,
    "as_operator": _check_op,
    "expr_str": _check_expression,
    "in_spec": _check_keywords,
    "out_spec": _check_treespec,
    "range_constraints": _check_ranges,
    "guards_code": _check_guards,
}
