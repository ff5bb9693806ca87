"""Auto-Train-Once: masks on parameters, the controller that searches them, the projection (arXiv 2403.14729)."""
