"""What a model's ``forward`` takes, as text and back: names and defaults, without types."""

from __future__ import annotations

from collections.abc import Mapping
from inspect import Parameter, Signature
from itertools import pairwise
from typing import Any

from atograph.passes.text.literals import key_name, written
from atograph.passes.text.scanner import Scanner

_STARS: Mapping[object, str] = {Parameter.VAR_POSITIONAL: "*", Parameter.VAR_KEYWORD: "**"}


def signature_text(signature: Signature) -> str:
    """The arguments in parentheses: ``(x, mask=None, *, deep=False)``; what a text cannot hold is ``opaque``."""
    parameters = list(signature.parameters.values())
    parts: list[str] = []
    for before, each in pairwise([None, *parameters]):
        assert each is not None
        if before is not None and before.kind is Parameter.POSITIONAL_ONLY is not each.kind:
            parts.append("/")
        bare = before is None or before.kind not in (Parameter.VAR_POSITIONAL, Parameter.KEYWORD_ONLY)
        if each.kind is Parameter.KEYWORD_ONLY and bare:
            parts.append("*")
        default = "" if each.default is Parameter.empty else f"={written(each.default, str)}"
        parts.append(f"{_STARS.get(each.kind, '')}{key_name(each.name)}{default}")
    if parameters and parameters[-1].kind is Parameter.POSITIONAL_ONLY:
        parts.append("/")
    return f"({', '.join(parts)})"


def is_plain(signature: Signature) -> bool:
    """Whether it takes all by name or position, and nothing has a default."""
    return all(
        each.kind is Parameter.POSITIONAL_OR_KEYWORD and each.default is Parameter.empty
        for each in signature.parameters.values()
    )


def read_signature(scanner: Scanner) -> Signature:
    """What `signature_text` gives, read back."""
    at = scanner.at
    parameters: list[Parameter] = []
    kind: Any = Parameter.POSITIONAL_OR_KEYWORD

    def parameter() -> None:
        nonlocal kind
        if scanner.take("/"):
            parameters[:] = [each.replace(kind=Parameter.POSITIONAL_ONLY) for each in parameters]
            return
        own: Any = kind
        if scanner.take("**"):
            own = Parameter.VAR_KEYWORD
        elif scanner.take("*"):
            kind = Parameter.KEYWORD_ONLY
            if scanner.next_is(","):
                return
            own = Parameter.VAR_POSITIONAL
        scanner.skip()
        name_at, name = scanner.at, scanner.state_name()
        default = scanner.value() if scanner.take("=") else Parameter.empty
        try:
            parameters.append(Parameter(name, own, default=default))
        except ValueError as error:
            scanner.fail(f"no argument is like that: {error}", name_at)

    scanner.expect("(")
    scanner.items(")", parameter)
    try:
        return Signature(parameters)
    except ValueError as error:
        scanner.fail(f"this is no signature: {error}", at)
        raise
