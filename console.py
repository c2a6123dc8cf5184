"""What a person sees at a terminal, and how to see less of it.

    console.print_table(frame, "AUROC by method")     # by rich on a terminal, plain elsewhere
    with console.working("figures"):                  # a line with the seconds, gone at the end
        draw()
    with console.quietly():                           # --quiet: the last line alone
        main()

Logs, pipes and files get plain text without moving lines, so that they can be read and compared."""

import contextlib
import io
import shutil
import sys
import threading
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

if TYPE_CHECKING:
    import pandas as pd

TICK = 0.5  # seconds between two looks at a line that shows how long something takes
PATIENCE = 1.0  # seconds before there is such a line
GAP = 3  # letters that rich puts around a column

quiet = False  # in this process: quietly() changes it


# ---- less ----------------------------------------------------------------------------------------


class LastLine(io.TextIOBase):
    """Takes text, and keeps its last line that is not empty."""

    def __init__(self) -> None:
        self.line = ""
        self.unfinished = ""

    def writable(self) -> bool:
        return True

    def write(self, text: str) -> int:
        *lines, self.unfinished = (self.unfinished + text).split("\n")
        for line in lines:
            if line.strip():
                self.line = line
        return len(text)

    @property
    def last(self) -> str:
        return self.unfinished if self.unfinished.strip() else self.line


@contextlib.contextmanager
def quietly(answers: bool = False) -> Iterator[None]:
    """Let standard output have the last line alone, which says where the results are; progress is
    not shown. Errors and warnings are on standard error, and stay.

    answers  what the script prints are its results: all of it stays, and `say` is silent
    """
    global quiet
    kept, quiet = LastLine(), True
    try:
        with contextlib.nullcontext() if answers else contextlib.redirect_stdout(kept):
            yield
    finally:
        quiet = False
        if kept.last:
            print(kept.last)


def say(text: str) -> None:
    """Print what accompanies answers, on standard error, unless less is asked for."""
    if not quiet:
        print(text, file=sys.stderr, flush=True)


# ---- progress ------------------------------------------------------------------------------------


def progress(iterable: Any = None, **options: Any) -> Any:
    """tqdm's bar with the remaining time; `options` are tqdm's.

    It shows on a terminal only, so that logs stay legible."""
    disable = True if quiet else None
    return tqdm(iterable, **{"disable": disable, "dynamic_ncols": True, "leave": False, **options})


@contextlib.contextmanager
def working(what: str) -> Iterator[None]:
    """Show what is being done, and for how long, while the block takes more than a second; on a
    terminal only. A bar that the block shows stands beneath."""
    if quiet or not sys.stderr.isatty():
        yield
        return
    done = threading.Event()

    def show() -> None:
        if done.wait(PATIENCE):
            return
        form = "{desc} {elapsed}"
        with tqdm(desc=what, bar_format=form, dynamic_ncols=True, leave=False) as line:
            while not done.wait(TICK):
                line.refresh()

    shown = threading.Thread(target=show, daemon=True)
    shown.start()
    try:
        yield
    finally:
        done.set()
        shown.join()


# ---- tables --------------------------------------------------------------------------------------


def print_table(frame: "pd.DataFrame", title: str | None = None) -> None:
    """Print a pandas table: text left-aligned, numbers right-aligned, missing values empty."""
    if sys.stdout.isatty() and with_rich(frame, title):
        return
    if title:
        print(f"\n{title}")
    print(plain(frame))


def plain(frame: "pd.DataFrame") -> str:
    """A table as text, a row on a line however long it is."""
    aligned = frame.copy()
    for name in frame.columns:
        if is_text(frame, name):
            width = max(len(name), frame[name].str.len().max())
            aligned[name] = frame[name].str.ljust(width)
            aligned = aligned.rename(columns={name: name.ljust(width)})
    return aligned.to_string(index=False, na_rep="")


def is_text(frame: "pd.DataFrame", name: Any) -> bool:
    """True for a column that holds nothing but texts."""
    return bool(frame[name].map(lambda value: isinstance(value, str)).all())


def with_rich(frame: "pd.DataFrame", title: str | None) -> bool:
    """Print a table by rich, in as many parts as its columns need at the terminal's width, each led
    by the first column; False, and nothing, where rich is not installed."""
    try:
        from rich.console import Console
        from rich.table import Table
        from rich.text import Text
    except ImportError:
        return False
    columns = cells_of(frame)
    width = shutil.get_terminal_size().columns
    screen = Console(width=width, highlight=False)
    if title:
        screen.print(Text(f"\n{title}", style="bold"))
    widths = {name: max(map(len, [str(name), *cells])) for name, cells in columns.items()}
    for part in parts_of(widths, width):
        table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, GAP, 0, 0))
        for name in part:
            justify: Any = "left" if is_text(frame, name) else "right"
            table.add_column(Text(str(name)), justify=justify, no_wrap=True)
        for row in zip(*(columns[name] for name in part), strict=True):
            table.add_row(*map(Text, row))
        screen.print(table)
    return True


def cells_of(frame: "pd.DataFrame") -> dict[Any, list[str]]:
    """{column: its cells as pandas writes them}."""
    found = {}
    for name in frame.columns:
        text = frame[name].to_string(index=False, header=False, na_rep="")
        found[name] = [line.strip() for line in text.split("\n")]
    return found


def parts_of(widths: dict[Any, int], room: int) -> list[list[Any]]:
    """Columns in parts that fit into so many letters, each led by the first; one that is too wide
    by itself is in a part of its own."""
    first, *others = widths
    parts: list[list[Any]] = [[first]]
    used = start = widths[first] + GAP
    for name in others:
        if used + widths[name] > room and len(parts[-1]) > 1:
            parts.append([first])
            used = start
        parts[-1].append(name)
        used += widths[name] + GAP
    return parts
