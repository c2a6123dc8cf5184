"""How texts and values from a checkpoint file appear in messages: on one line, short, and without
control characters."""

import reprlib
from collections.abc import Sequence

# The line that a person runs to save a network in a form that can be read safely.
SAVE = 'torch.save(model.state_dict(), "weights.pth")'


def shown(text: object, limit: int = 200) -> str:
    """A text from a file as it may be printed: no control characters, at most `limit` letters."""
    letters = (letter if letter.isprintable() else "?" for letter in str(text))
    printable = "".join(letters)
    return printable if len(printable) <= limit else f"{printable[:limit]}..."


def brief(value: object) -> str:
    """A value from a file in a few words. Its repr alone may fill the memory: a list of a few
    bytes, ten times in a list, ten times in a list ..."""
    short = reprlib.Repr()
    short.maxlevel = 2
    try:
        return short.repr(value)
    except ValueError:  # Python writes no whole number of more than 4,300 digits
        return "a huge number"


def some(names: Sequence[str], count: int = 6) -> str:
    """The first `count` names, and how many more there are: "a, b and 3 more"."""
    text = ", ".join(map(shown, names[:count]))
    more = len(names) - count
    return f"{text} and {more} more" if more > 0 else text
