"""Looking at graphs: what hangs together, what can go, what cannot and why.

`overview` turns a graph into plain data; `text`, `page`, `drawing` and `model_explorer` show that data; `chain` follows
one parameter to the cause of what is said about it.
"""

from atograph.inspection.overview import Overview, overview

__all__ = ["Overview", "overview"]
