"""Loss curves of groups, and widths chosen by them, to look at: data, text, a page."""
