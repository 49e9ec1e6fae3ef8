"""How the documentation is built: `python -m sphinx -W -b html docs build/docs`, with the extra `docs` installed."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

import generated

import quantrim

project = "quantrim"
author = "the authors of quantrim"
release = version = quantrim.__version__

extensions = ["sphinx.ext.autodoc", "myst_parser"]
myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 4
suppress_warnings = ["myst.header"]  # CHANGELOG.md begins below the heading of its page

html_theme = "furo"
html_title = f"quantrim {version}"
html_show_copyright = False

autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
python_use_unqualified_type_names = True
maximum_signature_line_length = 100


def setup(app: Any) -> None:
    app.connect("autodoc-process-docstring", generated.on_docstring)
    app.connect("source-read", generated.on_source)
