"""What pages of HTML are made of: files of ours that stand in them, and digests that name what may run."""

from __future__ import annotations

from base64 import b64encode
from hashlib import sha256
from importlib.resources import files

from jinja2 import Environment, StrictUndefined, Template


def asset(name: str) -> str:
    """A file of ``assets``."""
    return (files("atograph.inspection") / "assets" / name).read_text(encoding="utf-8")


def digest(text: str) -> str:
    """A script or a style as a Content-Security-Policy names it."""
    return f"'sha256-{b64encode(sha256(text.encode()).digest()).decode()}'"


def template(name: str) -> Template:
    """A template of ``assets``; what is put into it is escaped."""
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.policies["json.dumps_kwargs"] = {"separators": (",", ":"), "allow_nan": False}
    return environment.from_string(asset(name))
