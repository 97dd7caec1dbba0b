"""Text of models, prompts, judges and files, made fit to be shown: no character acts without being seen.

Escaping for HTML or Markdown comes after this and is done where the page is written.
"""

import unicodedata

JOINERS = "\u200c\u200d"
"""Zero-width joiners, which scripts and emoji need."""
INVISIBLE = {"Cc", "Cf", "Cs", "Zl", "Zp"}
"""Unicode categories: controls, bidi marks and tags, halves of surrogate pairs, separators of lines and paragraphs."""


def visible(text: str) -> str:
    """``text`` with every character that would act without being seen written as ``<U+202E>``.

    Line feeds, tabs and joiners stay; carriage returns before line feeds are dropped.
    """
    text = text.replace("\r\n", "\n")
    return "".join(
        f"<U+{ord(character):04X}>"
        if unicodedata.category(character) in INVISIBLE and character not in "\n\t" + JOINERS
        else character
        for character in text
    )


def one_line(text: str, most: int = 200) -> str:
    """``text``, visible, in one line of at most ``most`` characters and a sign that more follows."""
    return shortened(" ".join(visible(text).split()), most)


def shortened(text: str, most: int) -> str:
    """The first ``most`` characters of ``text`` and how many there are; as it is where it is no longer."""
    if len(text) <= most:
        return text
    return f"{text[:most].rstrip()} … ({len(text):,} characters)"
