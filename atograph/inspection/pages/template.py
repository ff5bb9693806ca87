"""What pages of HTML are made of: files of ours that stand in them, and digests that name what may run."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Sequence
from functools import cache
from hashlib import sha256
from importlib.resources import files

from jinja2 import Environment, FunctionLoader, StrictUndefined
from markupsafe import Markup


def rendered(name: str, *, styles: Sequence[str] = (), scripts: Sequence[str] = (), **values: object) -> str:
    """A page that asks for nothing from outside: a Content-Security-Policy lets nothing run but what stands in it.

    Args:
        name: of a template in ``assets`` that extends ``base.html.j2``; what is put into it is escaped.
        styles: files in ``assets`` that come after ``base.css``.
        scripts: files in ``assets``, joined to the page's one script; without any, none runs.
        values: what the template shows.
    """
    style, script = "\n".join(map(asset, ("base.css", *styles))), "\n".join(map(asset, scripts))
    policy = (
        f"default-src 'none'; {f'script-src {_digest(script)}; ' if script else ''}style-src {_digest(style)}; "
        "img-src data:; base-uri 'none'; form-action 'none'"
    )
    return (
        _environment()
        .get_template(name)
        .render(values, policy=policy, style=Markup(style), script=Markup(script) if script else "")
    )


def asset(name: str) -> str:
    """A file of ``assets``."""
    return (files("atograph.inspection") / "assets" / name).read_text(encoding="utf-8")


def _digest(text: str) -> str:
    """A script or a style as a Content-Security-Policy names it."""
    return f"'sha256-{b64encode(sha256(text.encode()).digest()).decode()}'"


@cache
def _environment() -> Environment:
    made = Environment(
        loader=FunctionLoader(asset), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    made.policies["json.dumps_kwargs"] = {"separators": (",", ":"), "allow_nan": False}
    return made
