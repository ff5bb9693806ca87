"""What a session takes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

Feed: TypeAlias = Mapping[str, NDArray[np.generic]]
"""Arrays by the names of inputs."""
