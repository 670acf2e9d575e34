"""What `rlvr init` writes: folders of templates, in which `$name`, `$class_name`, `$package` and `$project`
are replaced.

A template ends in `.tmpl`, so that no tool takes it for the file that it becomes; `__package__` and `__name__` in its path are
replaced, too.
"""

from __future__ import annotations

import re
from pathlib import Path
from string import Template
from typing import Literal, TypeAlias

from rlvr.errors import ConfigError

What: TypeAlias = Literal["verifier", "task", "env", "tool"]

_HERE = Path(__file__).parent
_NAME = re.compile(r"[a-z][a-z0-9]*(?:_[a-z0-9]+)*")


def write(what: What, name: str, parent: Path) -> list[Path]:
    """Write the folder `parent`/`name`; returns its files, in the order in which one reads them.

    Raises:
        ConfigError: the name is no identifier in lower case, the folder exists, or it cannot be written.
    """
    if not _NAME.fullmatch(name):
        raise ConfigError(f"name {name!r} must be lower-case words joined by underscores, e.g. even_digits")
    folder = parent / name
    if folder.exists():
        raise ConfigError(f"{folder} exists; choose another name, or another folder with --dir")
    values = {
        "name": name,
        "class_name": "".join(word.capitalize() for word in name.split("_")),
        "package": f"rlvr_{name}",
        "project": f"rlvr-{name.replace('_', '-')}",
    }
    written = []
    try:
        for template in sorted((_HERE / what).rglob("*.tmpl")):
            path = folder / _placed(template.relative_to(_HERE / what), values)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(Template(template.read_text(encoding="utf-8")).substitute(values), encoding="utf-8")
            written.append(path)
    except OSError as error:
        raise ConfigError(f"{folder} cannot be written: {error.strerror or error}") from error
    return sorted(written, key=lambda path: (path.name != "README.md", len(path.parts), path))


def _placed(path: Path, values: dict[str, str]) -> str:
    text = str(path).removesuffix(".tmpl")
    for key, value in values.items():
        text = text.replace(f"__{key}__", value)
    return text
