"""The documentation as a site: `make docs`. Every page also reads well as plain Markdown."""

project = "async-inference"
html_title = project
extensions = ["myst_parser", "sphinxcontrib.mermaid"]
root_doc = "index"
html_theme = "furo"
html_show_copyright = False
html_copy_source = False
myst_heading_anchors = 3
myst_fence_as_directive = ["mermaid"]
