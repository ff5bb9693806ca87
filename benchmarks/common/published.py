"""The mask's schedule as the authors' code of Auto-Train-Once has it (https://github.com/xidongwu/AutoTrainOnce)."""

from __future__ import annotations

from typing import Any

PUBLISHED: dict[str, Any] = {
    "controller_search": "penalty", "prior": "none",
    "controller_norms": "running", "controller_min_steps": 0, "projection_start": 0.2, "search_end": 0.5,
    "zero": 1.0, "lambda_search_end": 1000.0, "lambda_end": 1000.0, "paced": False, "slim_at": "never",
}  # fmt: skip
"""Training settings; its other moments are atograph's defaults."""
