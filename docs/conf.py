"""How Sphinx builds these pages; it needs nothing from the network."""

import importlib.metadata

project = "Flask-Durable"
copyright = "2026 The Flask-Durable contributors"
author = "The Flask-Durable contributors"
release = importlib.metadata.version("Flask-Durable")
version = ".".join(release.split(".")[:2])

extensions = ["sphinx.ext.autodoc"]
exclude_patterns = ["_build"]
default_role = "code"
highlight_language = "python"

autodoc_member_order = "bysource"
autodoc_preserve_defaults = True
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"

html_theme = "furo"
html_title = f"Flask-Durable {version}"
html_copy_source = False
html_show_sourcelink = False
