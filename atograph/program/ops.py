"""Which ops the program of a file may call, and with what arguments: a file is no reason to run any op of torch.

Some ops of torch end the process where an index is wrong, reach for files or other processes, or look at memory that is
not theirs. So an op has to be known: it has a row in the table of rules, or it is one of those listed here.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from importlib import import_module
from typing import Any, TypedDict

import torch

from atograph.files.reading import Json, Unreadable
from atograph.passes.public import public
from atograph.passes.rewrite.writes import functional_form
from atograph.passes.rules import rule_for
from atograph.passes.torch_private import HigherOrderOperator, OpOverload, OpOverloadPacket

_ON_NUMBERS = re.compile(
    r"_operator\.(add|sub|mul|floordiv|truediv|mod|pow|neg|pos|eq|ne|lt|le|gt|ge|and_|or_)"
    r"|math\.(ceil|floor|trunc)"
    r"|torch\.(sym_(int|float|max|min|ite|not|sum)|_sym_sqrt)"
)
_OP = re.compile(r"torch\.ops\.(\w+)\.(\w+)\.(\w+)", re.ASCII)
_REGION = re.compile(r"torch\.ops\.higher_order\.(\w+)", re.ASCII)
_REGIONS = ("wrap_with_autocast", "wrap_with_set_grad_enabled", "cond", "while_loop", "map_impl", "scan")

_WITHOUT_RULE = re.compile(
    # sizes, and what is claimed of them
    r"sym_(size|numel|stride|storage_offset|constrain_range|constrain_range_for_size)|_assert_(scalar|tensor_metadata|async)"
    r"|item|_local_scalar_dense|scalar_tensor|is_nonzero"
    # random numbers
    r"|bernoulli|multinomial|normal|normal_functional|poisson|randn?(_like)?|randint(_like)?|randperm|native_dropout"
    # parts and orders of tensors
    r"|argwhere|block_diag|cartesian_prod|combinations|diag|diag_embed|diagflat|diagonal_scatter|fliplr|flipud"
    r"|index_fill|isin|masked_(scatter|select)|msort|narrow|narrow_copy|nonzero|nonzero_numpy|pad_sequence|put"
    r"|repeat_interleave|rot90|row_stack|searchsorted|bucketize|take|tensor_split|unique_(consecutive|dim)|_unique2?"
    r"|(alias|detach|diagonal|expand|permute|select|slice|split|squeeze|t|transpose|unbind|unfold|unsqueeze|view)_copy"
    r"|(reflection|replication)_pad[123]d|max_unpool[23]d|view|where|scatter"
    # sums, means, distances
    r"|corrcoef|cov|cumulative_trapezoid|trapezoid|trapz|histogram|nanmean|nanquantile|quantile|norm|frobenius_norm"
    r"|pairwise_distance|pdist|dist|renorm|(std|var)_mean|trace|vander|floor_divide|divide|true_divide"
    # linear algebra that takes no pivots
    r"|add(bmm|mv|r)|chain_matmul|cholesky(_inverse|_solve)?|cross|det|ger|inner|inverse|kron|logdet|matrix_(exp|power)"
    r"|pinverse|qr|slogdet|svd|triangular_solve|_linalg_(det|eigh|slogdet|solve_ex|svd)"
    r"|linalg_(cholesky|cond|cross|det|diagonal|eig|eigh|eigvalsh|inv|lstsq|matrix_(exp|norm|power|rank)"
    r"|multi_dot|norm|pinv|qr|slogdet|solve|solve_triangular|svd|svdvals|tensorinv|tensorsolve|vander|vecdot)(_ex)?"
    # layers, as a decomposition leaves them
    r"|_?convolution|conv_(depthwise3d|tbc)|grid_sampler_[23]d|native_(group|layer)_norm"
    r"|_log_softmax|_softmax|fractional_max_pool[23]d|upsample_\w+(?<!backward)|_fused_rms_norm|log_sigmoid_forward"
    r"|_scaled_dot_product_(attention_math|flash_attention_for_cpu)|_weight_norm_interface|_cdist_forward"
    r"|fake_quantize_per_(tensor|channel)_affine(_cachemask)?|feature_alpha_dropout"
    # losses
    r"|(binary_)?cross_entropy(_loss|_with_logits)?|(huber|l1|mse|smooth_l1|soft_margin)_loss|kl_div|nll_loss(_nd|2d)?"
    r"|(cosine_embedding|hinge_embedding|margin_ranking|poisson_nll|triplet_margin)_loss"
    # frequencies
    r"|i?stft|(bartlett|blackman|hamming|hann|kaiser)_window|fft_i?hfft[2n]"
    # other names of ops that have a row
    r"|arc(cos|sin|tan)h?|(greater|less)(_equal)?|not_equal|special_(?!.*backward)\w+|numpy_T|mH|mT|matrix_H"
)
"""Ops of aten, by name, that have no rule (they freeze what they touch) and may be in a program all the same."""

_NEVER = re.compile(r"_?embedding_bag|special_\w*polynomial\w*")
"""Ops that have a rule, and trust their indices, or count to any number that they are given."""

_IN_PLACE = (torch.ops.aten.detach_.default, torch.ops.aten.copy_.default)
"""The ops that a program may call though they change a tensor; ``copy_`` writes a buffer or an input, a cache say."""

_UNTIL_READ = (torch.ops.aten.as_strided.default,)
"""Ops that a decomposition leaves where they give what they are given. ``recompose`` takes those away (`left_of`)."""

_ALLOWED: set[str] = set()
"""Ops that the user trusts."""


class UnknownOp(Unreadable):
    """A program of a file calls an op that none of these lists has."""


@public("atograph")
def allow_ops(*names: str) -> None:
    """Let the programs of files call more ops, in this process: for files that one made oneself.

    Args:
        names: of ops as torch prints them: ``aten.embedding_bag.padding_idx``, ``mylib.op.default``.
    """
    _ALLOWED.update(names)


_NUMBER = {"as_int", "as_float", "as_bool", "as_sym_int", "as_sym_float", "as_sym_bool"}
_TAGS: dict[str, set[str]] = {
    "Tensor": {"as_tensor", *_NUMBER},
    "int": {"as_int", "as_sym_int", "as_bool", "as_scalar_type", "as_memory_format", "as_layout"},
    "bool": {"as_bool", "as_int", "as_sym_bool"},
    "float": {"as_float", "as_int", "as_sym_float", "as_sym_int"},
    "number": {*_NUMBER, "as_complex", "as_tensor"},
    "str": {"as_string"},
    "Device": {"as_device"},
    "Generator": set(),
    "List[Tensor]": {"as_tensors"},
    "List[Optional[Tensor]]": {"as_optional_tensors", "as_tensors"},
    "List[int]": {"as_ints", "as_sym_ints", "as_int", "as_sym_int"},
    "List[float]": {"as_floats", "as_float", "as_ints", "as_sym_floats"},
    "List[bool]": {"as_bools", "as_bool"},
    "List[number]": {"as_floats", "as_ints", "as_bools"},
    "List[str]": {"as_strings"},
    "List[List[int]]": {"as_int_lists"},
    "List[List[Tensor]]": {"as_nested_tensors"},
}
"""Type in an op's schema → what a file may say there."""

_LARGEST_POWER = 16

_DEFINED_IN = {"torch.ops.transformers.grouped_mm_fallback.default": "transformers.integrations.moe"}
"""Op that has a rule → the module of an installed package that defines it."""


def check_target(target: str, *, writes: bool = False) -> None:
    """Refuse what is no op that a program of a file may call.

    Args:
        target: as the file says it.
        writes: whether ops may write in place, where their functional form may be called, and whether there may be some
            of which `left_of` is asked later.

    Raises:
        UnknownOp: by name.
        Unreadable: there is no such op here.
    """
    if _ON_NUMBERS.fullmatch(target) or _op_of(target, writes=writes) is not None:
        return
    region = _REGION.fullmatch(target)
    there = getattr(torch.ops.higher_order, region[1], None) if region and region[1] in _REGIONS else None
    if isinstance(there, HigherOrderOperator):
        return
    raise UnknownOp(f"{_shown(target)} is no op of a network that atograph knows")


class _Input(TypedDict):
    """An argument of a call in a file: its name in the schema, and its kind with its value."""

    name: str
    arg: dict[str, Json]


def check_call(node: Mapping[str, Any]) -> None:
    """Refuse a call whose arguments are not of the kinds that the op takes.

    Args:
        node: as the file says it, in valid JSON of a node, with a target that may be called.

    Raises:
        Unreadable: naming the op and the argument.
    """
    target = str(node["target"])
    op = _op_of(target, writes=True)  # whether it may write was asked before
    if op is not None:
        _check_arguments(op, node["inputs"])
    elif target.startswith(("_operator.", "math.", "torch.sym_", "torch._sym_")):
        _check_numbers(target, node["inputs"])


def _op_of(target: str, *, writes: bool) -> OpOverload | None:
    """The op of a name, if a file may call it.

    Raises:
        Unreadable: there is no such op here.
    """
    name = _OP.fullmatch(target)
    if name is None or name[1] == "higher_order":
        return None
    if target in _DEFINED_IN:
        with suppress(ImportError):
            import_module(_DEFINED_IN[target])
    packet = getattr(getattr(torch.ops, name[1], None), name[2], None)
    op = getattr(packet, name[3], None) if isinstance(packet, OpOverloadPacket) else None
    if packet is None:
        raise Unreadable(f"it calls the op {name[1]}.{name[2]}.{name[3]}, which is not here")
    if not isinstance(op, OpOverload):
        return None
    if writes and op in _UNTIL_READ:
        return op
    functional = functional_form(op) if writes and op._schema.is_mutable else None
    return op if _is_known(op) or (functional is not None and _is_known(functional)) else None


def left_of(targets: Iterable[object]) -> OpOverload | None:
    """An op that a file may call only as long as nothing is run, among the targets of a program that is to be run."""
    return next((op for op in targets if op in _UNTIL_READ and not _is_known(op)), None)


def _is_known(op: OpOverload) -> bool:
    library, _, name = op._schema.name.partition("::")
    if str(op) in _ALLOWED or str(op) == "torchvision.nms.default":
        return True
    if op._schema.is_mutable:
        return op in _IN_PLACE
    if library == "aten":
        if _NEVER.fullmatch(name):
            return False
        if _WITHOUT_RULE.fullmatch(name):
            return True
    return rule_for(op) is not None


def _check_arguments(op: OpOverload, inputs: list[_Input]) -> None:
    arguments = {argument.name: argument for argument in op._schema.arguments}
    values = {each["name"]: each["arg"] for each in inputs}
    if len(values) < len(inputs):
        raise Unreadable(f"{op} gets an argument twice in it")
    for name, value in values.items():
        if name not in arguments:
            raise Unreadable(f"{op} takes no {_shown(name)}")
        if not _fits(next(iter(value)), value, str(arguments[name].type)):
            raise Unreadable(f"{op} takes another kind of {name} than the one in it")
    for name, argument in arguments.items():
        if name not in values and not argument.has_default_value():
            raise Unreadable(f"{op} does not get its {name} in it")


def _fits(tag: str, value: Mapping[str, object], kind: str) -> bool:
    while kind.startswith("Optional["):
        if tag == "as_none":
            return True
        kind = kind[len("Optional[") : -1]
        if tag == "as_optional_tensor":
            return kind == "Tensor"
    return tag in _TAGS.get(kind, ()) or (value[tag] == [] and kind.startswith("List["))


def _check_numbers(target: str, inputs: list[_Input]) -> None:
    """Arithmetic on sizes: numbers only, and no power that no memory holds."""
    allowed = {*_NUMBER, "as_sym_ints", "as_ints"}
    tags = [next(iter(each["arg"])) for each in inputs]
    if not set(tags) <= allowed:
        raise Unreadable(f"{_shown(target)} is called on what is no number")
    if target == "_operator.pow":
        exponent = inputs[1]["arg"].get("as_int") if len(inputs) == 2 else None
        if not isinstance(exponent, int) or not 0 <= exponent <= _LARGEST_POWER:
            raise Unreadable("a size in it is raised to a power that no size has")


def listed() -> Iterator[OpOverload]:
    """The ops of torch itself that a program of a file may call."""
    for schema in torch._C._jit_get_all_schemas():
        library, _, name = schema.name.partition("::")
        packet = getattr(torch.ops.aten, name, None) if library == "aten" else None
        op = getattr(packet, schema.overload_name or "default", None)
        if isinstance(op, OpOverload) and _is_known(op):
            yield op


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:60]}..."
