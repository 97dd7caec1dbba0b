"""Colours and type, the same in charts and pages.

Qualitative colours are Okabe and Ito's (2008), told apart with every common colour blindness; the
sequential scale is cividis (Nunez et al., 2018) without its palest end, which vanishes on white.
Nothing is said by colour alone.
"""

INK = "#1F2933"
MUTED = "#52606D"
RULE = "#E4E7EB"
PANEL = "#F5F7FA"
PAPER = "#FFFFFF"
BLUE = "#0072B2"
DEEP_BLUE = "#00568A"
"""Blue for text on pale blue: a contrast of 6 to 1."""
PALE_BLUE = "#8FBFDB"
VERMILLION = "#D55E00"
RUST = "#A84300"
"""Vermillion dark enough for text: a contrast of 6 to 1 on white."""
GREEN = "#00795C"
"""A shade darker than Okabe and Ito's, so that text in it reaches a contrast of 5 to 1 on white."""
GREY = "#9AA5B1"
SHADE = "rgba(31, 41, 51, 0.085)"
EDGE = "rgba(31, 41, 51, 0.26)"
"""Where a table goes on."""
FONT = '"Source Sans", "Source Sans 3", "Source Sans Pro", "Helvetica Neue", Arial, sans-serif'

SEQUENCE = ["#00224E", "#2A3F6D", "#575C6D", "#7D7C78", "#A59C74", "#D2C060", "#EDD84B"]
"""Cividis at even steps, dark (low) to light (high)."""
SYMBOLS = ("triangle-down", "circle", "triangle-up")
"""Marker of a low, middle and high value of the third objective."""
REFERENCE_SYMBOL = "diamond"


def tint(share: float) -> str:
    """The colour at ``share`` in [0, 1] of the sequential scale, as ``rgb(r, g, b)``."""
    place = min(max(share, 0.0), 1.0) * (len(SEQUENCE) - 1)
    index = min(int(place), len(SEQUENCE) - 2)
    low, high = (_channels(SEQUENCE[step]) for step in (index, index + 1))
    mixed = [round(a + (b - a) * (place - index)) for a, b in zip(low, high, strict=True)]
    return f"rgb({mixed[0]}, {mixed[1]}, {mixed[2]})"


def _channels(colour: str) -> list[int]:
    return [int(colour[start : start + 2], 16) for start in (1, 3, 5)]


SERIES = [("#0072B2", "circle"), ("#D55E00", "square"), ("#00795C", "diamond"), ("#7A3E9D", "triangle-up")]
"""Colour and symbol of up to four policies that are compared: told apart without the colour too."""
