"""What the site needs beyond the pages in this folder: MkDocs calls these functions (`hooks` in mkdocs.yml).

Some pages live beside what they describe: a task's in its folder, the changes in the root of the repository. They become pages
of the site here, and links between all of them are written as the site needs them, so that both the files and the site work.
"""

from __future__ import annotations

import logging
import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[1]
LOG = logging.getLogger("mkdocs.hooks")  # what is written here counts as a warning of MkDocs
ELSEWHERE = {
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "README.md": "index.md",
    "benchmarks/README.md": "benchmark-scripts.md",
    "rlvr/integrations/reasoning_gym/README.md": "reasoning-gym.md",
    "sandbox/THREAT_MODEL.md": "threat-model.md",
    **{f"tasks/{page.parent.name}/README.md": f"tasks/{page.parent.name}.md" for page in sorted(ROOT.glob("tasks/*/README.md"))},
}
# A fence and what is in it, or a link: links inside fences are text.
FENCE_OR_LINK = re.compile(
    r"^(?P<fence>```.*?^```)|(?P<text>\[[^\[\]]*)?\]\((?P<path>[^)\s#:]+)(?P<anchor>#[^)\s]*)?\)", re.DOTALL | re.MULTILINE
)


def on_config(config: Any) -> Any:
    """The tasks' pages take their place in the navigation."""
    reference = next(section["Reference"] for section in config.nav if "Reference" in section)
    tasks = next(entry for entry in reference if "Tasks" in entry)
    tasks["Tasks"] = [page for page in ELSEWHERE.values() if page.startswith("tasks/")]
    return config


def on_files(files: Files, config: Any) -> Files:
    """The pages from outside this folder join."""
    for source, page in ELSEWHERE.items():
        files.append(File.generated(config, page, content=(ROOT / source).read_text(encoding="utf-8")))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Links between files become links between pages."""
    here = page.file.src_uri
    source = next((path for path, name in ELSEWHERE.items() if name == here), f"docs/{here}")

    def rewritten(match: re.Match[str]) -> str:
        text = match["text"] or ""
        target = posixpath.normpath(posixpath.join(posixpath.dirname(source), match["path"] or ""))
        if match["fence"]:
            return match[0]
        if target in ELSEWHERE:
            name = ELSEWHERE[target]
        elif target.startswith("docs/"):
            name = target.removeprefix("docs/")
        elif text and (ROOT / target).exists():
            return text.removeprefix("[")  # a file or folder of the repository, which the site does not have
        else:
            LOG.warning(f"{source} links to {target}, which is neither a page of the site nor a file of the repository")
            return match[0]
        return f"{text}]({posixpath.relpath(name, posixpath.dirname(here) or '.')}{match['anchor'] or ''})"

    return FENCE_OR_LINK.sub(rewritten, markdown)
