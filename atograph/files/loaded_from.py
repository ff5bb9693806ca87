"""Where a model of transformers was loaded from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

CONFIG = "config.json"


def loaded_from(model: Any) -> Path | None:
    """The folder that a model was loaded from: its own, or that of the hub's cache; None where it was not.

    Args:
        model: any module.
    """
    name = getattr(model, "name_or_path", None)
    if not isinstance(name, str) or not name:
        return None
    if Path(name).is_dir():
        return Path(name)
    try:
        from huggingface_hub import try_to_load_from_cache

        there = try_to_load_from_cache(name, CONFIG, revision=getattr(model.config, "_commit_hash", None))
    except Exception:  # no name of the hub
        return None
    return Path(there).parent if isinstance(there, str) else None
