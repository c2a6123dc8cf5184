"""Which images the gallery shows, from where, and what it says of those that are gone."""

import base64
import io
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from reporting import gallery
from reporting.nearest import Nearest
from reporting.scored import ScoredRun, ScoredSet

NAMES = ["n01440764", "<script>"]


def part(name, folder, scores, taken, labels=-1):
    rows = len(scores)
    files = [f"{row % 2}/{row}.png" for row in range(rows)]
    said = {"place": f"{name}={folder}", "class_names": NAMES}
    return ScoredSet(name, {"MSP": np.array(scores)}, taken, np.full(rows, labels), files, said)


def save(folder, count, side=40):
    """`count` files of one grey level each: that of image `row` is `row`."""
    for row in range(count):
        place = folder / str(row % 2)
        place.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (side, side // 2), (row, row, row)).save(place / f"{row}.png")


@pytest.fixture
def run(tmp_path):
    """20 OOD images with scores 0 .. 19, one undefined, and 3 ID images of the second class."""
    save(tmp_path / "cats", 20)
    save(tmp_path / "inside", 3)
    scores = [float(row) for row in range(20)]
    scores[19] = np.nan
    ood = part("cats", tmp_path / "cats", scores, [NAMES[0]] * 20)
    inside = part("toy", tmp_path / "inside", [5.0, 4.0, 6.0], [NAMES[1], *[NAMES[0]] * 2], 1)
    return ScoredRun(inside, [ood], {})


def hung(run, tmp_path, **options):
    facts = {"class_names": NAMES, "class_words": ["n01440764 (tench)", "<script>"]}
    found = SimpleNamespace(scored=run, facts=facts)
    return gallery.gallery({"mean_over_sets": [{"method": "MSP"}]}, found, tmp_path, **options)


def level(source):
    """The grey level of a thumbnail."""
    data = base64.b64decode(source.removeprefix("data:image/webp;base64,"))
    image = Image.open(io.BytesIO(data))
    assert image.size == (40, 20)
    return image.getpixel((5, 5))[0]


def test_ood_images_trusted_most_and_id_images_trusted_least(run, tmp_path):
    made = hung(run, tmp_path)
    wall = made.walls["MSP"]
    assert [one.score for one in wall["cats"]] == [str(row) for row in range(18, 10, -1)]
    assert [one.score for one in wall[gallery.ID]] == ["4", "5", "6"]
    levels = [level(made.thumbnails[one.key]) for one in wall["cats"]]
    assert levels == pytest.approx(list(range(18, 10, -1)), abs=2)
    assert {one.taken_for for one in wall["cats"]} == {"tench"}, "words for a WordNet id"
    assert [(one.label, one.is_right) for one in wall[gallery.ID]] == [
        ("<script>", False),
        ("<script>", True),
        ("<script>", False),
    ]


def test_the_nearest_class_is_named_where_it_is_another(run, tmp_path, monkeypatch):
    assert "the features of toy are not there" in hung(run, tmp_path).no_nearest
    classes = {"cats": np.arange(20) % 2, gallery.ID: np.array([0, 0, 1])}
    monkeypatch.setattr(gallery, "nearest", lambda run, parts: Nearest(classes))
    wall = hung(run, tmp_path).walls["MSP"]
    # row 18, of class 0, is taken for class 0; row 17 is taken for it too, and near class 1
    assert [one.nearest for one in wall["cats"][:2]] == ["", "<script>"]
    # the ID images of rows 1, 0 and 2, taken for classes 0, 1 and 0
    assert [one.nearest for one in wall[gallery.ID]] == ["", "tench", "<script>"]


def test_a_folder_that_moved_is_found_below_the_data_folder(run, tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "cats").rename(tmp_path / "data" / "cats")
    assert hung(run, tmp_path / "data").absent == {}


def test_images_that_are_gone_are_named_with_the_reason(run, tmp_path):
    for row in range(11, 19):
        (tmp_path / "cats" / str(row % 2) / f"{row}.png").unlink()
    made = hung(run, tmp_path)
    assert list(made.absent) == ["cats"] and "No such file" in made.absent["cats"]
    assert gallery.ID in made.walls["MSP"], "the ID images are there all the same"
    (tmp_path / "cats").rename(tmp_path / "elsewhere")
    assert "is not there any more" in hung(run, tmp_path).absent["cats"]


def test_one_broken_image_costs_no_other(run, tmp_path):
    (tmp_path / "cats" / "0" / "18.png").write_bytes(b"no image")
    assert hung(run, tmp_path).walls["MSP"]["cats"][0].score == "17"


def test_a_path_never_leads_out_of_its_folder(run, tmp_path):
    (tmp_path / "secret.png").write_bytes((tmp_path / "cats" / "0" / "0.png").read_bytes())
    run.ood[0].paths[:] = ["../secret.png"] * 20
    assert "lies outside its folder" in hung(run, tmp_path).absent["cats"]


def test_it_is_left_out_where_that_is_asked(run, tmp_path):
    made = hung(run, tmp_path, wanted=False)
    assert made.thumbnails == {} and set(made.absent.values()) == {
        "left out, as --no-gallery asked"
    }


def test_a_method_without_room_is_left_out(run, tmp_path, monkeypatch):
    for one in (run.id, *run.ood):
        one.scores["Energy"] = -one.scores["MSP"]
    monkeypatch.setattr(gallery, "MOST_BYTES", hung(run, tmp_path).size)
    monkeypatch.setattr(gallery, "ranked", lambda summary, run: ["MSP", "Energy"])
    size = sum(len(src) for src in hung(run, tmp_path).thumbnails.values())
    assert size <= gallery.MOST_BYTES


def test_sets_that_are_read_whole_come_from_the_data(tmp_path):
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    import data

    rows = len(data.digits("test", data.Preprocessing(16, (0,) * 3, (1,) * 3), tmp_path))
    scores = np.linspace(0, 1, rows)
    said = {"place": "digits", "preprocessing": {"size": 16}, "class_names": list("0123456789")}
    kept = load_digits()
    _, chosen = train_test_split(
        np.arange(1797), test_size=1 / 3, random_state=0, stratify=kept.target
    )
    labels = kept.target[np.sort(chosen)]
    inside = ScoredSet("digits", {"MSP": scores}, None, labels, None, said)
    made = hung(ScoredRun(inside, [], {}), tmp_path)
    shown = made.walls["MSP"][gallery.ID]
    assert [one.label for one in shown] == [str(label) for label in labels[:8]]
    assert len(made.thumbnails) == 8
