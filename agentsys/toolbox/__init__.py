"""Built-in tools: Python in containment, pages from allowed hosts, queries over data files."""
