"""Sphinx: how the pages that `website.sources` wrote become a site."""

from __future__ import annotations

import builtins
from importlib.util import find_spec
from typing import Any

from docutils import nodes
from sphinx.addnodes import pending_xref
from sphinx.application import Sphinx
from sphinx.util import logging

import atograph
from website.reference import DoesNotResolve, linked

project = "atograph"
author = "The atograph authors"
version = release = atograph.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
root_doc = "index"
html_theme = "furo"
html_title = f"atograph {release}"
html_show_sourcelink = html_copy_source = html_show_copyright = False

myst_heading_anchors = 4
myst_links_external_new_tab = False

nitpicky = True
nitpick_ignore_regex = [("py:class", ".*")]
"""Types in signatures, which a type checker has seen; a name in backticks has to be one."""

autodoc_typehints_format = "short"
maximum_signature_line_length = 100
napoleon_numpy_docstring = False
napoleon_use_ivar = True


def link_names(app: Sphinx, what: str, name: str, thing: Any, options: Any, lines: list[str]) -> None:
    """References in a docstring become links; one to nothing is an error."""
    code = thing.fget if isinstance(thing, property) else getattr(thing, "__func__", thing)
    try:
        # the empty line: in the first one napoleon would take "a: b" as a type and a description
        lines[:] = ["", *linked("\n".join(lines), code).split("\n")]
    except DoesNotResolve as error:
        logging.getLogger(__name__).warning("%s", error)


def leave_python_alone(app: Sphinx, doctree: nodes.document) -> None:
    """The type ``bytes`` in a signature is not the method of that name."""
    for link in list(doctree.findall(pending_xref)):
        if link["refdomain"] == "py" and hasattr(builtins, link["reftarget"]):
            link.replace_self(link.children)


def setup(app: Sphinx) -> None:
    """References are read before napoleon reads the docstrings."""
    if find_spec("torchvision"):
        import benchmarks.models.torchvision_models  # noqa: F401  # Lightning imports it, and it may be of another build
    app.connect("autodoc-process-docstring", link_names, priority=100)
    app.connect("doctree-read", leave_python_alone)
