"""HTML that cannot carry a stranger's markup: every text and attribute is escaped where it enters.

Elements are made by `el`; only what `el` made goes in unescaped. The page has no script, no link
outside, and forbids both by its own policy.
"""

from html import escape
from typing import Final

POLICY: Final = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"
_VOID: Final = {"meta", "br", "line", "circle", "rect", "path", "polyline", "polygon"}


class Markup(str):
    """Text that is HTML already; made by `el` and `together` only."""

    __slots__ = ()


Child = Markup | str | int | None


def el(tag: str, *children: Child, **attributes: str | int | float | None) -> Markup:
    """An element. `class_` is class; `_` in other names becomes `-`; None attributes are left
    out."""
    named = "".join(
        f' {name.rstrip("_").replace("_", "-")}="{escape(str(value), quote=True)}"'
        for name, value in attributes.items()
        if value is not None
    )
    if tag in _VOID and not children:
        return Markup(f"<{tag}{named}>" if tag in ("meta", "br") else f"<{tag}{named}/>")
    return Markup(f"<{tag}{named}>{together(*children)}</{tag}>")


def together(*children: Child) -> Markup:
    """Children side by side."""
    return Markup("".join(_inside(child) for child in children))


def _inside(child: Child) -> str:
    if child is None:
        return ""
    return child if isinstance(child, Markup) else escape(_shown(str(child)), quote=True)


def _shown(text: str) -> str:
    """Without characters that a browser would obey: controls, and marks that turn the direction
    of what follows."""
    return "".join(c if c.isprintable() or c in "\n\t\N{NO-BREAK SPACE}" else "�" for c in text)


def document(title: str, style: str, *body: Child) -> str:
    """A whole page. `style` is our own, and goes in as it is."""
    head = together(
        el("meta", charset="utf-8"),
        el("meta", http_equiv="Content-Security-Policy", content=POLICY),
        el("meta", name="viewport", content="width=device-width, initial-scale=1"),
        el("meta", name="color-scheme", content="light"),
        el("title", title),
        Markup(f"<style>{style}</style>"),
    )
    page = el("html", el("head", head), el("body", *body), lang="en")
    return f"<!doctype html>\n{page}\n"
