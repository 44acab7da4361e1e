"""README.md for an index page, which has no folder around it: hatchling's hook, when wheel and sdist are built.

Links into the repository become links to its address, [project.urls] Repository in pyproject.toml. While there is none,
they are left as words, and the pictures out: no link on the page is a dead one.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

LINK = re.compile(r"(?P<picture>!?)\[(?P<words>[^\]]*)\]\((?P<to>[^)\s]+)\)")


def readme(text: str, address: str | None) -> str:
    """The text with its links into the repository made absolute (`address`: https://HOST/OWNER/NAME), or taken out."""

    def link(found: re.Match[str]) -> str:
        picture, words, to = found["picture"], found["words"], found["to"]
        if "://" in to or to.startswith("#"):
            return found[0]
        if address is None:
            return "" if picture else words
        return f"{picture}[{words}]({address.rstrip('/')}/{'raw' if picture else 'blob'}/main/{to})"

    return re.sub(r"\n{3,}", "\n\n", LINK.sub(link, text))


def get_metadata_hook() -> Any:
    from hatchling.metadata.plugin.interface import MetadataHookInterface

    class IndexReadme(MetadataHookInterface):
        def update(self, metadata: dict[str, Any]) -> None:
            text = (Path(self.root) / "README.md").read_text(encoding="utf-8")
            address = metadata.get("urls", {}).get("Repository")
            metadata["readme"] = {"content-type": "text/markdown", "text": readme(text, address)}

    return IndexReadme
