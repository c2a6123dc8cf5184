"""How the report writes: numbers and lists as text, captions, and how to read it all."""

import math
from string import Template

import figures

EMPTY = "–"


def finite(value):
    return isinstance(value, (int, float)) and math.isfinite(value)


def percent(share, digits=1):
    return f"{figures.percent(share, digits)}%" if finite(share) else EMPTY


def kept(tpr):
    """The share of ID images that a threshold keeps, in percent without the sign: 0.955 is 95.5,
    not 96."""
    return f"{100 * tpr:.10g}"


def interval(row):
    """ "94.1–95.9", the 95% interval of an AUROC in percent."""
    return f"{percent(row['auroc_low'])[:-1]}–{percent(row['auroc_high'])[:-1]}"


def number(value, digits=4):
    return f"{value:.{digits}g}" if finite(value) else EMPTY


def show(value):
    return EMPTY if value is None else f"{value:.6g}" if isinstance(value, float) else str(value)


def duration(seconds):
    if not finite(seconds):
        return None
    if seconds < 90:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def commit(record):
    changed = ", with changes" if record.get("git_dirty") else ""
    return f"{record['git_commit'][:10]}{changed}" if record.get("git_commit") else None


def listed(words, further=0):
    """["a", "b"], 3 further -> "a, b and 3 more"."""
    words = list(words) + ([f"{further} more"] if further > 0 else [])
    return " and ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)


OOD_LEGEND = Template(
    """<p class="note">${against}AUROC in percent with its 95% DeLong interval; beneath it FPR@$tpr in percent,
at the threshold that keeps $tpr% of ID. Methods by their mean over all sets$groups. <b class="best">★</b> marks the
highest AUROC of a set, shade the intervals that overlap its own.</p>"""
)
CAPTIONS = [  # file name, section, caption, in the order of the page; the first that matches
    (
        "^training_curves",
        "run",
        (
            "Accuracy and loss by epoch on training images, and on validation images where some"
            " were kept. A dot marks the best validation accuracy, a dashed line the first epoch"
            " with every training image right."
        ),
    ),
    (
        "^auroc",
        "ood",
        (
            "AUROC of each method on each OOD set, methods sorted by their mean, the best of each"
            " set dark; bars start at 50%, which is chance."
        ),
    ),
    (
        "^(score|hist)",
        "ood",
        (
            "Densities of the score of ID (blue) and OOD images. The less they overlap, the better "
            "the score tells them apart."
        ),
    ),
    (
        "^(principal_components$|pca)",
        "ood",
        (
            "Features on the two directions in which ID features vary most. Two of many "
            "directions: sets that overlap here may be apart in others."
        ),
    ),
    (
        "^principal",
        "ood",
        (
            "The same with a third direction, each pair of the three in a panel of its own: a set"
            " that hides behind ID in one view may stand apart in another."
        ),
    ),
    (
        "^(nc1|within)",
        "nc",
        "NC1 by class: mean squared distance of a class's training features from their mean.",
    ),
    (
        "^(nc2|cosine)",
        "nc",
        "NC2: cosines between all pairs of classes. Under collapse all stand at the dashed line.",
    ),
    (
        "^nc_angles",
        "nc",
        (
            "Angles of pairs of class means and of weight rows, and of each weight row and its"
            " class mean."
        ),
    ),
    (
        "^nc_gram",
        "nc",
        "Cosines of class means and of weight rows, and the eigenvalues of both Gram matrices.",
    ),
    (
        "^class_mean_dist",
        "nc",
        (
            "Distance between each pair of class means. Under collapse all are equal; dark cells "
            "are classes that lie close together."
        ),
    ),
    (
        "^(nc3|weight)",
        "nc",
        "NC3 by class: cosine between the classifier's weight row and the centred class mean.",
    ),
    (
        "^nc4_agree",
        "nc",
        "NC4 by class: share of test images on which nearest class mean and classifier agree.",
    ),
    ("^nc4_mis", "nc", "Which class each of the two says where they differ, in test images."),
    (
        "^nc5$",
        "nc",
        (
            "NC5: mean |cosine| between the class means and each OOD set's mean, beside the ID test"
            " images as the null (dashed)."
        ),
    ),
    ("^nc_centre", "nc", "Distance of ID and OOD images to the nearest class mean."),
    ("^nc_neco", "nc", "NECO's share against the largest logit, image by image."),
    ("^nc_pca", "nc", "Variance by principal component; collapsed features end at C - 1."),
    ("^nc_tsne", "nc", "t-SNE of a sample; distances between groups mean nothing."),
    (
        "^nc_layers$",
        "nc",
        "Each metric against depth, with a least-squares probe in place of the head.",
    ),
    (
        "^nc5_layers",
        "nc",
        "NC5 of each OOD set against depth; dashed blue: the ID test images, the null.",
    ),
    (
        "^nc_epochs",
        "nc",
        (
            "Each metric over training. Dashed: the first checkpoint with every clean training"
            " image right."
        ),
    ),
    (
        "^nc5_epochs",
        "nc",
        "NC5 of each OOD set over training; dashed blue: the ID test images, the null.",
    ),
    ("^nc_layers_epochs", "nc", "Layer by epoch: where and when collapse happens."),
    (
        "^nc_ood",
        "nc",
        (
            "Spearman correlation over checkpoints of each metric with each method's AUROC; red:"
            " less of the metric, better detection."
        ),
    ),
    ("^nc", "nc", ""),
    ("", "other", ""),
]
HOW_TO_READ = Template("""<dl>
<dt>Scores</dt><dd>Every score is higher for images that look more in-distribution (ID). ID is the positive
class.</dd>
<dt>AUROC</dt><dd>The chance that a random ID image scores higher than a random OOD image, ties counted half. 50% is
guessing. The interval is DeLong's, at 95%; it covers the choice of images, not that of seeds. Overlapping intervals
do not settle an order; a paired test may: <code>best</code> is true where DeLong's sets the highest apart from every
other.</dd>
<dt>FPR@$tpr, headline</dt><dd>The threshold keeps $tpr% of ID images; this is the share of OOD images that pass it all
the same (as in the ViM and NECO papers). Lower is better.</dd>
<dt>FPR@$tpr, OOD-positive</dt><dd>OpenOOD's: the threshold catches $tpr% of OOD images; this is the share of ID images
rejected with them. The two differ.</dd>
<dt>AUPR-In, AUPR-Out</dt><dd>Average precision with ID, or OOD, as the class sought. Both depend on the share of ID
images (<code>id_share</code>).</dd>
<dt>Detection error</dt><dd>Least mean of the two error rates over all thresholds.</dd>
<dt>Neural collapse</dt><dd>Late in training, features of a class gather at its mean (NC1), the means spread to equal
norms and angles (NC2), the classifier's weights align with them (NC3), and it decides by the nearest mean (NC4). NC5
asks whether OOD features are orthogonal to them.</dd>
</dl>""")
