"""Sphinx settings of the documentation; `make docs` builds it."""

import re
import sys
import tomllib
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parent
sys.path.insert(0, str(HERE))

import site_extension as site  # noqa: E402 - found beside this file

import wellposed  # noqa: E402

_PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
HOME = _PROJECT["urls"]["Homepage"]

project = "wellposed"
author = _PROJECT["authors"][0]["name"]
copyright = author
version = release = wellposed.__version__

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "sphinx_gallery.gen_gallery",
    "sphinx_design",
    "sphinx_copybutton",
    "sphinx-mathjax-offline",
]
exclude_patterns = ["_build", "gallery/*.ipynb", "gallery/*.py", "gallery/*.json", "gallery/*.zip"]
templates_path = ["_templates"]
default_role = "py:obj"
highlight_language = "none"
nitpicky = False
suppress_warnings = ["config.cache"]

myst_enable_extensions = ["dollarmath", "colon_fence", "deflist"]
myst_heading_anchors = 3
mathjax_path = "mathjax/tex-chtml.js"

autosummary_generate = True
# Some file systems do not tell these functions from classes of the same letters.
autosummary_filename_map = {
    "wellposed.priors.geometry": "wellposed.priors.geometry-function",
    "wellposed.priors.tuned": "wellposed.priors.tuned-function",
    "wellposed.priors.transition.levels": "wellposed.priors.transition.levels-function",
}
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
autodoc_member_order = "bysource"
autodoc_preserve_defaults = True
python_maximum_signature_line_length = 80
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_rtype = False
napoleon_use_ivar = True
strip_signature_backslash = True  # a name may end in an underscore: lambda_

sphinx_gallery_conf = {
    "examples_dirs": "../examples/gallery",
    "gallery_dirs": "gallery",
    "filename_pattern": r"plot_.*\.py",
    "within_subsection_order": "FileNameSortKey",
    "reset_modules": ("matplotlib", "site_extension.locate"),
    "image_scrapers": ("matplotlib", "site_extension.scrape_pictures"),
    "capture_repr": (),
    "first_notebook_cell": '__file__ = "examples/gallery/notebook"  # from the root folder',
    "reference_url": {},
    "doc_module": (),
    "backreferences_dir": None,
    "write_computation_times": False,
    "min_reported_time": 3600,
    "show_memory": False,
    "remove_config_comments": True,
    "plot_gallery": "True",
    "abort_on_example_error": False,
    "copyfile_regex": "",
    "thumbnail_size": (400, 280),
}

html_theme = "pydata_sphinx_theme"
html_title = f"wellposed {release}"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_show_sourcelink = False
html_copy_source = False
html_theme_options = {
    "github_url": HOME,
    "navbar_align": "left",
    "header_links_before_dropdown": 7,
    "show_prev_next": True,
    "secondary_sidebar_items": ["page-toc"],
    "footer_start": ["copyright"],
    "footer_end": ["sphinx-version"],
}
html_sidebars = {"index": [], "changelog": []}
html_context = {"default_mode": "auto"}

linkcheck_timeout = 20
linkcheck_ignore = [rf"{re.escape(HOME)}/.*"]


def setup(app: "site.Sphinx") -> None:
    """Connect what makes the pages of the repository those of the site, too."""
    site.connect(app, HOME)
