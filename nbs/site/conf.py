"""How the pages are built: Sphinx, the notebooks with their stored outputs, formulas as MathML, nothing from elsewhere."""

import re

from docutils import nodes
from latex2mathml.converter import convert

from minitorch_train import __version__ as release  # noqa: F401

project, author = "minitorch_train", "The minitorch_train authors"
copyright = "2026 onwards, the minitorch_train authors"
extensions = ["myst_nb"]
nb_execution_mode = "off"
myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 3
html_theme = "sphinx_book_theme"
html_title = project
html_favicon = "_static/icon.svg"
html_static_path = ["_static"]
html_css_files = ["page.css"]
html_js_files = ["page.js"]
html_math_renderer = "mathml"
html_use_index = False
html_show_sourcelink = html_copy_source = False
html_theme_options = {"use_download_button": False, "use_fullscreen_button": False, "show_toc_level": 2, "navigation_with_keys": False, "navbar_persistent": []}
html_context = {"default_mode": "auto"}
exclude_patterns = ["_build", "jupyter_execute"]


SPACES = {  # what TeX knows about the space around a sign, and latex2mathml does not
    r"(<mi>(?:log|exp|sin)</mi>)(?!<mo|</)": r'\1<mspace width="0.17em"></mspace>',
    r"<mo>(&#x0221E;)</mo>": r"<mi>\1</mi>",  # infinity is a number here
    r"(<mo[^>]*>(?!&#x000(?:29|5D|7C|7D);)[^<]*</mo>)<mo>&#x02212;": r'\1<mo form="prefix">&#x02212;',  # the sign of a number
}


def formula(display):
    """What writes a formula into the page: the browser draws MathML itself. A wide one is scrolled in a box that the keys reach."""
    def visit(translator, node):
        written = convert(node.astext(), display="block" if display else "inline")
        for found, spaced in SPACES.items():
            written = re.sub(found, spaced, written)
        translator.body.append(f'<div class="formula" tabindex="0">{written}</div>' if display else written)
        raise nodes.SkipNode
    return visit, None


def setup(app):
    app.add_html_math_renderer("mathml", inline_renderers=formula(False), block_renderers=formula(True))
