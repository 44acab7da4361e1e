"""Write machine/families/names.json: what transformers takes for a key of a config.json that is called otherwise or is
not there. To be run after a family was added or transformers raised; a test holds the file to the installed one.
"""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path
from typing import Any

from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from ssb_unsloth.machine.families import FAMILIES
from ssb_unsloth.machine.families.config import NAMES
from ssb_unsloth.machine.families.towers import TOWERS


def table() -> dict[str, dict[str, dict[str, Any]]]:
    """Of each family, for the keys that the families read."""
    code = "".join(path.read_text(encoding="utf-8") for path in sorted(NAMES.parent.glob("*.py")))
    read = set(re.findall(r'"([a-z_0-9A-Z]+)"', code))
    return {
        family: _of(CONFIG_MAPPING[family], read)
        for family in sorted(FAMILIES.keys() | TOWERS.keys() | {family for family, _ in TOWERS.values()})
    }


def _of(config: Any, read: set[str]) -> dict[str, dict[str, Any]]:
    names = {key: own for key, own in config.attribute_map.items() if key in read}
    given = {field.name: field.default for field in dataclasses.fields(config)}
    defaults = {key: given.get(names.get(key, key)) for key in sorted(read) if names.get(key, key) in given}
    return {"names": names, "defaults": {k: v for k, v in defaults.items() if type(v) in (int, bool, str, float)}}


if __name__ == "__main__":
    lines = [f"  {json.dumps(name)}: {json.dumps(entry)}" for name, entry in table().items()]
    Path(NAMES).write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")
