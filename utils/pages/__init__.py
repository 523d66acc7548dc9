"""Pages to read in a browser: one HTML file each, opened from disk, that needs nothing else."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from utils.storage.files import replace_text

_HERE = Path(__file__).parent


def write_page(template: Path, path: Path, title: str, data: Mapping[str, Any]) -> None:
    """Write a page: a template whose `{{title}}`, `{{look}}`, `{{common}}` and `{{data}}` are filled in.

    `look` and `common` are the style and the functions that all pages share; `data` must have `rows`, whose order gives
    their colours. Raises ValueError for a number that is not finite, which JSON has none for.
    """
    text = json.dumps(data, allow_nan=False, separators=(",", ":")).replace("</", "<\\/")
    parts = {
        "title": title.replace("&", "&amp;").replace("<", "&lt;"),
        "look": (_HERE / "look.css").read_text(encoding="utf-8"),
        "common": (_HERE / "common.js").read_text(encoding="utf-8"),
        "data": text,  # last, since it may hold anything
    }
    page = template.read_text(encoding="utf-8")
    for name, part in parts.items():
        page = page.replace("{{" + name + "}}", part)
    replace_text(path, page)
