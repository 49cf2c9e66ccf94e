"""What a planted bug is, and how it is planted."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path


class Unplantable(Exception):
    """The place where the bug belongs is not (or not only once) in the code any more."""


@dataclass(frozen=True, slots=True)
class Edit:
    """In `file`, `old` (which stands there exactly once) becomes `new`."""

    file: str
    old: str
    new: str

    def made(self, text: str) -> str:
        """The file's text with the edit made. Raises Unplantable."""
        if text.count(self.old) != 1:
            raise Unplantable(f"{self.file} has {text.count(self.old)} places that read: {self.old!r:.200}")
        return text.replace(self.old, self.new)


@dataclass(frozen=True, slots=True)
class Bug:
    """A bug, with the name of the failure it repeats, and the tests of which one must fail."""

    name: str
    history: str
    edits: tuple[Edit, ...]
    tests: tuple[str, ...]  # pytest arguments: files, or nodes

    @contextmanager
    def planted(self, project: Path) -> Iterator[None]:
        """Makes the edits in a copy of the project, and takes them back. Raises Unplantable, and then changes nothing."""
        texts = self.texts(project)
        before = {path: path.read_text() for path in texts}
        try:
            _write(texts)
            yield
        finally:
            _write(before)

    def texts(self, project: Path) -> dict[Path, str]:
        """The files that it changes, as they then read: one edit after the other. Raises Unplantable."""
        texts: dict[Path, str] = {}
        for edit in self.edits:
            path = project / edit.file
            before = texts.get(path) or (path.read_text() if path.exists() else "")
            texts[path] = edit.made(before)
        return texts


def _write(texts: Mapping[Path, str]) -> None:
    for path, text in texts.items():
        path.write_text(text)
        for compiled in path.parent.glob(f"__pycache__/{path.stem}.*"):
            compiled.unlink()  # what is compiled counts as fresh if time and size are the same
