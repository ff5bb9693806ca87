"""Signatures after which torch.export names the inputs."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import TypeVar

T = TypeVar("T")


def called_like(forward: Callable[..., T], signature: inspect.Signature) -> Callable[..., T]:
    """The same function with another signature, after which torch.export names the inputs."""

    def call(*args: object, **kwargs: object) -> T:
        return forward(*args, **kwargs)

    call.__signature__ = signature  # type: ignore[attr-defined]
    return call


def of_named_parameters(
    signature: inspect.Signature, args: tuple[object, ...], kwargs: Mapping[str, object]
) -> inspect.Signature:
    """A signature that takes just these arguments, where the given one takes any (``*args``, ``**kwargs``)."""
    kinds = [parameter.kind for parameter in signature.parameters.values()]
    if not {inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD} & set(kinds):
        return signature
    by_position = [
        name
        for name, parameter in signature.parameters.items()
        if parameter.kind in (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    ]
    rest = next((name for name, p in signature.parameters.items() if p.kind is inspect.Parameter.VAR_POSITIONAL), "")
    names = [*by_position, *(f"{rest}_{index}" for index in range(len(args) - len(by_position)))][: len(args)]
    return inspect.Signature(
        [
            *(inspect.Parameter(name, inspect.Parameter.POSITIONAL_OR_KEYWORD) for name in names),
            *(inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY) for name in kwargs),
        ]
    )
