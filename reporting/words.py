"""How the report writes: numbers and lists as text, where each figure stands, and how to
read it all."""

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
PLACES = [  # file names and their section, in the order of the page; the first that matches
    ("^training_curves", "run"),
    ("^auroc", "ood"),
    ("^(score|hist)", "ood"),
    ("^(principal_components$|pca)", "ood"),
    ("^principal", "ood"),
    ("^(nc1|within)", "nc"),
    ("^(nc2|cosine)", "nc"),
    ("^nc_angles", "nc"),
    ("^nc_gram", "nc"),
    ("^class_mean_dist", "nc"),
    ("^(nc3|weight)", "nc"),
    ("^nc4_agree", "nc"),
    ("^nc4_mis", "nc"),
    ("^nc5$", "nc"),
    ("^nc_centre", "nc"),
    ("^nc_neco", "nc"),
    ("^nc_pca", "nc"),
    ("^nc_tsne", "nc"),
    ("^nc_layers$", "nc"),
    ("^nc5_layers", "nc"),
    ("^nc_epochs", "nc"),
    ("^nc5_epochs", "nc"),
    ("^nc_layers_epochs", "nc"),
    ("^nc_ood", "nc"),
    ("^nc", "nc"),
    ("", "other"),
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
