"""What each ONNX op computes in torch: a row each, a file for each family."""

from importlib import import_module

FAMILIES = (
    "control", "convolutions", "elementwise", "indexing", "norms", "products", "recurrent", "reductions", "resizing",
    "shapes",
)  # fmt: skip


def load() -> None:
    """Fill the table."""
    for family in FAMILIES:
        import_module(f"{__name__}.{family}")
