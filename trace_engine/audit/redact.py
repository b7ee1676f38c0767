"""Whether a text that leaves the audit repeats what was to stay out of it.

Whatever wrote it: a part that put a document into its figures, or an error that quotes a row. Six
words in a row are a quotation; a text of fewer words is looked for as a whole. Shorter than
`SHORTEST` characters it is a word that the report may use itself, and is not looked for.
"""

from collections.abc import Iterable, Mapping

from trace_engine.errors import RunError

SHORTEST = 16
WORDS = 6


class Secrets:
    """Texts that must not be repeated."""

    def __init__(self, texts: Iterable[str]) -> None:
        self._runs: set[tuple[str, ...]] = set()
        self._whole: set[str] = set()
        for text in texts:
            words = _words(text)
            if len(words) < WORDS:
                even = " ".join(words)
                self._whole |= {even} if len(even) >= SHORTEST else set()
            self._runs.update(zip(*(words[n:] for n in range(WORDS)), strict=False))

    def repeated_in(self, text: str) -> bool:
        """Whether the text quotes one of them, case, marks and white space aside."""
        words = _words(text)
        if not self._runs.isdisjoint(zip(*(words[n:] for n in range(WORDS)), strict=False)):
            return True
        even = f" {' '.join(words)} "
        return any(f" {whole} " in even for whole in self._whole)


def require_silence(files: Mapping[str, str], secrets: Secrets) -> None:
    """Raise RunError, naming the file and not the text, when one repeats a secret."""
    for name, text in files.items():
        if secrets.repeated_in(text):
            raise RunError(
                f"{name} would repeat text of the forget set or the questions, so the report was "
                "not written. Its parts are kept. Set reveal to true if it may."
            )


def _words(text: str) -> list[str]:
    return "".join(c if c.isalnum() else " " for c in text.casefold()).split()
