"""figures/style.py: what all figures share; and that they need nothing else."""

import subprocess
import sys
import threading
from pathlib import Path

import pytest
from figure_cases import SETS, metrics, png

import figures
from figures import style

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize(
    "count, shape", [(0, (1, 1)), (1, (1, 1)), (4, (1, 4)), (5, (2, 3)), (8, (2, 4)), (9, (3, 3))]
)
def test_no_row_of_panels_is_left_with_one_where_two_rows_could_share(count, shape):
    assert style.grid_shape(count) == shape


def test_colours_are_distinct_and_go_by_position():
    assert len({figures.ID_COLOUR, *figures.OOD_COLOURS}) == 9
    assert figures.ood_colour(0) == figures.ood_colour(8) != figures.ood_colour(1)


def test_figures_drawn_in_threads_are_those_drawn_alone():
    tables = [metrics(4, SETS[:2], seed) for seed in range(4)]
    alone = [png(figures.auroc_bars(table)) for table in tables]
    drawn = {}

    def draw(index):
        drawn[index] = png(figures.auroc_bars(tables[index]))

    threads = [threading.Thread(target=draw, args=(index,)) for index in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [drawn[index] for index in range(4)] == alone


def test_neither_pyplot_nor_any_module_of_ours_is_imported():
    code = (
        "import sys, figures; ours = {'utils', 'cli', 'scores', 'metrics', 'collapse', 'data',"
        " 'networks', 'torch'}; print(sorted((ours | {'matplotlib.pyplot'}) & set(sys.modules)))"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert result.stdout.strip() == "[]"
