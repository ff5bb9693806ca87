"""What the file that a program comes from says of itself."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class About:
    """What the file that a program comes from says of itself, beside the names of its inputs and outputs.

    Attributes:
        doc: a text for people.
        domain: whose model it is: ``org.example``.
        version: which one of them.
        graph: what its graph is called.
        graph_doc: a text about that.
        properties: whatever else, by keys (``metadata_props`` of ONNX): names of classes, say.
        values: input or output, by its name in the file → a text about it.
    """

    doc: str = ""
    domain: str = ""
    version: int = 0
    graph: str = ""
    graph_doc: str = ""
    properties: Mapping[str, str] = field(default_factory=dict)
    values: Mapping[str, str] = field(default_factory=dict)
