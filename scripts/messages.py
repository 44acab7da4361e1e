"""Write docs/messages.md: every error message of the package, as its source has it.

    python scripts/messages.py

A message is the text of a `UserError` or of a ValueError of a public function; `...` stands for what is put in.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "ssb_unsloth"
PAGE = ROOT / "docs" / "messages.md"
KINDS = ("UserError", "ValueError", "RuntimeError")
HEAD = """# Every error message

Search this page for a part of the message that has no name or number of yours in it; `...` stands for those. A
message names the file, line or key, says what was expected, and what to do. What has no message, or needs more than
one sentence, is in [troubleshooting.md](troubleshooting.md). Written by `scripts/messages.py` from the source.
"""


def text_of(node: ast.expr) -> str:
    """A string's text with `...` for what is put in; empty where none of it is known."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.JoinedStr):
        return "".join(text_of(part) if isinstance(part, ast.Constant) else "..." for part in node.values)
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        return (text_of(node.left) or "...") + (text_of(node.right) or "...")
    if isinstance(node, ast.IfExp):
        return text_of(node.body) or text_of(node.orelse)
    return ""


def messages(path: Path) -> Iterator[str]:
    """Those of one file, in its order. A text that is put into a name first counts where the name is raised."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in KINDS and node.args:
            found = " ".join(text_of(node.args[0]).split())
            if any(letter.isalpha() for letter in found):
                yield found


def page() -> str:
    parts = [HEAD]
    for path in sorted(PACKAGE.rglob("*.py")):
        found = sorted(set(messages(path)))
        if found:
            parts.append(f"\n## {path.relative_to(PACKAGE)}\n")
            parts += [f"- {_quoted(each)}" for each in found]
    return "\n".join(parts) + "\n"


def _quoted(text: str) -> str:
    ticks = "``" if "`" in text else "`"
    space = " " if ticks == "``" else ""
    return f"{ticks}{space}{text}{space}{ticks}"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
    print(f"{PAGE.relative_to(ROOT)} is written")
