"""What a page for users tells its reader to type: commands, programs, and files with their contents."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from markdown_it import MarkdownIt

_PROGRAMS = r"(python|make|mlflow|ray|aws|docker|kubectl|export|\.|bash|GROUP=\S+) "


@dataclass(frozen=True, kw_only=True)
class Block:
    """Indented lines of a page.

    Attributes:
        kind: `file` is to be written under the name `file`, `shell` is commands, `python` a program, `example` none of
            these.
        line: of the page, from 1.
    """

    kind: Literal["file", "shell", "python", "example"]
    text: str
    line: int
    file: str = ""

    @property
    def commands(self) -> list[list[str]]:
        """The words of each command, without comments and without what is done to its output."""
        lines = self.text.replace("\\\n", " ").splitlines()
        return [words for words in (shlex.split(line, comments=True) for line in lines) if words]


def blocks(page: Path) -> Iterator[Block]:
    """The page's indented blocks, in order. A file is named right before: "In `my_lab.py`:"."""
    before = ""
    for token in MarkdownIt().parse(page.read_text(encoding="utf-8")):
        if token.type == "inline":
            before = token.content.rpartition("\n")[2] if "\n" in token.content else token.content
        elif token.type == "code_block" and token.map:
            named = re.search(r"[Ii]n `([\w.]+)`[^`]*:$", before)
            if named:
                kind: Literal["file", "shell", "python", "example"] = "file"
            elif re.match(_PROGRAMS, token.content):
                kind = "shell"
            else:
                kind = "python" if re.match("import |from ", token.content) else "example"
            yield Block(kind=kind, text=token.content, line=token.map[0] + 1, file=named[1] if named else "")
