"""What all pages of HTML are made of: templates and style, tables, charts."""
