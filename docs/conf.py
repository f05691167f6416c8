"""How Sphinx makes the site; `python docs/build.py` runs it.

The source directory is the root of the repository, not docs/, so that a link between pages, or from a page to a file
of the code, is the same on the site and on a code forge.
"""

import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE / "_ext"), str(HERE.parent)]

import refloss  # noqa: E402  (this checkout, not what is installed)

project = "refloss"
author = copyright = "the refloss developers"
version = release = refloss.__version__

root_doc = "docs/index"
include_patterns = ["docs/**", "derivations/**", "README.md", "CONTRIBUTING.md", "CHANGELOG.md"]
exclude_patterns = ["docs/_*", "docs/node_modules"]
source_suffix = {".md": "markdown"}
nitpicky = True
# types in docstrings are words and shapes, "(N, D)": those that name a public class become links
nitpick_ignore_regex = [("py:.*", ".*")]
default_role = "py:obj"  # `refloss.gradcheck` in a docstring is a link, `zero_norm` is code

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx_copybutton",
    "code_pages",  # these five are in _ext/
    "contents",
    "docstring_maths",
    "katex_html",
    "search_words",
]

# -- Markdown ------------------------------------------------------------------------------------------------------

myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 4  # the anchors that a code forge gives to headings
myst_dmath_double_inline = False

# -- docstrings ----------------------------------------------------------------------------------------------------

napoleon_numpy_docstring = False
napoleon_custom_sections = ["Source", "Shapes", "Singular points", "Released code"]
autodoc_member_order = "bysource"
autodoc_typehints = "none"  # the docstrings say more: shapes and units

# -- pages ---------------------------------------------------------------------------------------------------------

html_theme = "furo"
html_math_renderer = "katex"
html_title = "refloss"
html_static_path = ["_static", "_build/static"]
html_css_files = ["site.css"]
pygments_dark_style = "github-dark"
templates_path = ["_templates"]
html_additional_pages = {"index": "redirect.html"}  # the root document lies one folder below
html_copy_source = False
html_show_sourcelink = False
html_theme_options = {"navigation_with_keys": True}
copybutton_prompt_text = r">>> |\.\.\. |\$ "
copybutton_prompt_is_regexp = True
