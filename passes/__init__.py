"""The compiler layer: programs, passes over them, and the op knowledge that they share."""
