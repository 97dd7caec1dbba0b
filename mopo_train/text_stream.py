"""Text from tokens as they come: whole characters only, and nothing of a stop string.

Pure and free of torch. Works with every tokenizer through its ``decode``; special tokens are the caller's to drop.
"""

from collections.abc import Callable, Sequence

_INCOMPLETE = "\ufffd"  # what a decoder gives for the first bytes of a character


class TextStream:
    """Decodes one answer token by token; what was given out is never taken back.

    ``decode`` maps token ids to text. Joined, the pieces equal ``decode`` of all tokens, cut before the first of
    the ``stop`` strings. After ``stopped`` turns True no more tokens may be pushed.
    """

    def __init__(self, decode: Callable[[list[int]], str], stop: Sequence[str] = ()) -> None:
        self._decode, self._stop = decode, tuple(stop)
        self._tokens: list[int] = []
        self._context = 0  # tokens from here to _read give the decoder what it needs for the next ones
        self._read = 0  # tokens before this were decoded
        self._held = ""  # decoded, but may be the start of a stop string
        self.stopped = False

    def push(self, token: int) -> str:
        """Add ``token``; the text that is now certain, possibly empty."""
        self._tokens.append(token)
        known = self._decode(self._tokens[self._context : self._read])
        text = self._decode(self._tokens[self._context :])
        if len(text) <= len(known) or text.endswith(_INCOMPLETE):
            return ""
        self._context, self._read = self._read, len(self._tokens)
        return self._take(text[len(known) :])

    def finish(self) -> str:
        """What is left when no token follows."""
        known = self._decode(self._tokens[self._context : self._read])
        text = self._take(self._decode(self._tokens[self._context :])[len(known) :])
        self._context = self._read = len(self._tokens)
        if not self.stopped:
            text, self._held = text + self._held, ""
        return text

    def _take(self, text: str) -> str:
        pending = self._held + text
        starts = [at for stop in self._stop if (at := pending.find(stop)) >= 0]
        if starts:
            self.stopped, self._held = True, ""
            return pending[: min(starts)]
        keep = max((_overlap(pending, stop) for stop in self._stop), default=0)
        self._held = pending[len(pending) - keep :]
        return pending[: len(pending) - keep]


def _overlap(text: str, stop: str) -> int:
    """Length of the longest end of ``text`` that is a start of ``stop``, shorter than it."""
    for length in range(min(len(text), len(stop) - 1), 0, -1):
        if text.endswith(stop[:length]):
            return length
    return 0
