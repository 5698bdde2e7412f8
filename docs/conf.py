"""Sphinx: `sphinx-build -W docs build/docs` makes the site."""

project = "avemo_jax"
extensions = ["myst_parser"]
html_theme = "furo"
html_title = "avemo_jax"
exclude_patterns = ["pictures"]
myst_heading_anchors = 3
