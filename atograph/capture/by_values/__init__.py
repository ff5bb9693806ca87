"""Code that looks at values: what is answered, and what only raises."""
