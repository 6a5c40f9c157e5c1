"""How Sphinx builds the documentation site: `make docs`.

The source folder is the repository, so that links between pages are the same here and on a plain git host.
"""

import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "docs"))

import docstrings  # noqa: E402

import uringzc  # noqa: E402

project = "uringzc"
author = "the authors of uringzc"
copyright = author
version = release = uringzc.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx_copybutton"]
root_doc = "docs/index"
include_patterns = [
    *("docs/**", "benchmarks/RESULTS.md"),
    *("README.md", "CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md"),
]
exclude_patterns = [".*", "build", "tests", "uringzc", "examples", "proofs"]

myst_heading_anchors = 4  # `page.md#a-heading`, as git hosts have it
myst_links_external_new_tab = False
suppress_warnings = ["myst.header"]  # README's tables
copybutton_prompt_text = "$ "

# The docstrings: `one` is a parameter, ``one`` is code.
default_role = "code"
smartquotes = False
autodoc_member_order = "bysource"
autodoc_default_options = {"members": True, "inherited-members": "Exception,tuple,Sequence,AbstractEventLoop"}
python_maximum_signature_line_length = 100
add_module_names = False
python_use_unqualified_type_names = True
nitpick_ignore_regex = [
    (r"py:.*", r"(?!uringzc).*"),  # names of others: the site is built without a network
    (r"py:class", r".*\.([A-Z]|Integers)"),  # type variables, and an alias
]

html_theme = "furo"
html_title = "uringzc"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_copy_source = False
html_show_copyright = False
html_additional_pages = {"index": "redirect.html"}
templates_path = ["_templates"]
pygments_style = "friendly"
pygments_dark_style = "github-dark"

setup = docstrings.setup
