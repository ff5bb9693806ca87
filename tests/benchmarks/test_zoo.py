"""A slice of the zoo that is small enough for every run of the tests: models of as many kinds as possible.

``python -m benchmarks.zoo`` measures all of them, each in a process of its own; here they share one.
"""

from __future__ import annotations

import pytest

from benchmarks.zoo.part import Record
from benchmarks.zoo.verdict import reachable, verdict

_WHY = "torchvision, timm or transformers is not installed: no model of the zoo is tested"
models = pytest.importorskip("benchmarks.models", reason=_WHY, exc_type=ImportError)
zoo_row = pytest.importorskip("benchmarks.zoo.row", reason=_WHY, exc_type=ImportError)

QUICK = {
    "hf:bert": "an encoder",
    "hf:llama": "a decoder: rotary embeddings, grouped queries",
    "hf:t5": "an encoder and a decoder",
    "hf:mixtral": "a mixture of experts",
    "hf:wav2vec2": "audio: a weight norm, group norms over time",
    "hf:whisper": "audio to text",
    "hf:swin": "shifted windows",
    "hf:clip": "images and text",
    "timm:test_resnet": "convolutions and batch norms",
    "timm:test_vit": "a vision transformer",
    "timm:test_efficientnet": "depthwise convolutions",
    "timm:test_nfnet": "standardised weights instead of norms",
}


@pytest.mark.parametrize("name", QUICK)
@pytest.mark.long
def test_a_model_of_the_zoo_is_exact_and_reaches_its_budget(name: str) -> None:
    """A random half of every group, and 0.3 of the FLOPs: masked equals slim, the output moved, FLOPs as counted."""
    assert name in models.NAMES
    record = Record()
    graph = zoo_row.prove(*models.build(name), record)
    record.add(**zoo_row.describe(graph))
    row = {"model": name, "atograph": record.values}
    assert verdict(row) == "exact"
    assert record.values["unknown"] == {}
    assert reachable(row)
