"""The collapse metrics, one row each: what tables, prints, figures and the report say of a metric.

A new metric is a function in collapse/metrics.py and a row here. Nothing else names it.
"""

from collections.abc import Callable
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Row:
    """One metric of nc_metrics.csv.

    key         its name there
    centring    "mu_G" where vectors are centred at the global mean, else "none"
    source      author and year, or the formula
    target      its value under full collapse, as text; empty where there is none
    meaning     one line for the report
    labels      {split: label} of the splits that are printed for a checkpoint and drawn by epoch
    of_layers   {split: label} of the splits that are drawn by layer, where the head is a probe
    beside      {split: label} of further splits that are drawn beside the AUROC of OOD methods
    short       a label that takes less room in a figure, where `labels` is long
    """

    key: str
    centring: str
    source: str
    target: str
    meaning: str
    labels: dict[str, str] = field(default_factory=dict)
    of_layers: dict[str, str] = field(default_factory=dict)
    beside: dict[str, str] = field(default_factory=dict)
    short: str = ""

    def target_for(self, classes: int | None) -> str:
        """The value under full collapse, worked out where it depends on the number of classes."""
        if self.target != "-1/(C-1)" or classes is None or classes < 2:
            return self.target
        value = -1 / (classes - 1)
        return f"{self.target} = {value:.4g}"


def nc2_rows(
    name: str,
    source: str,
    target: str,
    meaning: str,
    of_means: str = "",
    of_weights: str = "",
) -> tuple[Row, Row]:
    """The two rows of an NC2 metric: of the centred class means, and of the weight rows.

    of_means and of_weights are their labels, empty where nothing is printed or drawn.
    """
    shown_of_means = {"train": f"NC2  {of_means}"} if of_means else {}
    shown_of_weights = {"head": f"NC2  {of_weights}"} if of_weights else {}
    means = Row(
        f"nc2_means_{name}",
        "mu_G",
        source,
        target,
        meaning,
        labels=shown_of_means,
        of_layers=shown_of_means,
    )
    weights = Row(
        f"nc2_weights_{name}",
        "none",
        source,
        target,
        f"classifier's weight rows: {meaning}",
        labels=shown_of_weights,
    )
    return means, weights


ALL = (
    Row(
        "nc1",
        "mu_G",
        "Papyan et al. 2020",
        "0",
        "spread within classes against that between them, Tr(Σ_W Σ_B⁺)/C",
        labels={"train": "NC1  Tr(Sigma_W Sigma_B^+)/C"},
        of_layers={"train": "NC1  Tr(Sigma_W Sigma_B^+)/C"},
    ),
    Row(
        "nc1_rank",
        "mu_G",
        "rank of Sigma_B kept in NC1",
        "min(C-1, D)",
        "directions of Σ_B that NC1 used; fewer than C-1 leaves some out",
    ),
    Row(
        "nc1_condition",
        "mu_G",
        "condition number of Sigma_B at that rank",
        "1",
        "largest over smallest of those directions' variances",
    ),
    Row(
        "nc1_trace_ratio",
        "mu_G",
        "Tr(Sigma_W)/Tr(Sigma_B), Tirer et al. 2023",
        "0",
        "total variance within classes over that between them",
        labels={"train": "NC1  Tr(Sigma_W)/Tr(Sigma_B)"},
        of_layers={"train": "NC1  Tr(Sigma_W)/Tr(Sigma_B)"},
    ),
    Row(
        "nc1_cdnv",
        "none",
        "Galanti et al. 2022",
        "0",
        "variance of a pair of classes over their squared distance, mean of all pairs",
        labels={"train": "NC1  class-distance normalised variance"},
        of_layers={"train": "NC1  CDNV"},
        short="NC1  CDNV",
    ),
    *nc2_rows(
        "norm_cv",
        "equinorm, Papyan et al. 2020",
        "0",
        "how unequal the norms are: standard deviation over mean",
        of_means="norms of class means, CV",
        of_weights="norms of weights, CV",
    ),
    *nc2_rows(
        "cosine_mean",
        "mean cosine of pairs; centring alone forces about -1/(C-1)",
        "-1/(C-1)",
        "mean cosine of all pairs; centring alone forces it on class means: no evidence",
    ),
    *nc2_rows(
        "cosine_std",
        "equiangularity, Papyan et al. 2020",
        "0",
        "how unequal the angles are",
        of_means="cosines of class means, std",
    ),
    *nc2_rows(
        "angle_deviation_mean",
        "mean |cos + 1/(C-1)|, Papyan et al. 2020",
        "0",
        "mean distance of a pair's cosine from -1/(C-1)",
        of_means="mean |cos + 1/(C-1)|",
    ),
    *nc2_rows(
        "angle_deviation_max",
        "largest |cos + 1/(C-1)|",
        "0",
        "that of the worst pair",
    ),
    *nc2_rows(
        "gram_distance",
        "Gram matrix to the simplex ETF's, Zhu et al. 2021",
        "0",
        "distance of the Gram matrix from the simplex ETF's: norms and angles at once",
        of_means="Gram matrix to simplex ETF",
    ),
    *nc2_rows(
        "cosine_max",
        "smallest angle (one-vs-one distance), Jiang et al. 2024",
        "-1/(C-1)",
        "cosine of the closest pair of classes",
    ),
    *nc2_rows(
        "one_vs_rest",
        "least distance to the hull of the others, unit vectors, Jiang et al. 2024",
        "C/(C-1); 1 where D+1 < C ≤ 2D",
        "distance of a class from the hull of all others, of the closest one; "
        "defined also where D is too small for a simplex",
    ),
    *nc2_rows(
        "tight_frame_distance",
        "Gram matrix to the nearest tight frame's of rank min(D, C-1)",
        "0",
        "distance from the nearest tight frame; also where D is too small for a simplex",
        of_means="Gram matrix to tight frame",
    ),
    Row(
        "nc3_self_duality",
        "mu_G",
        "||W/|W| - M/|M|||_F^2, Papyan et al. 2020",
        "0",
        "squared distance of the weight matrix from the class means, both scaled to norm 1",
        labels={"train": "NC3  ||W/|W| - M/|M|||^2"},
    ),
    Row(
        "nc3_cosine_mean",
        "mu_G",
        "mean cos(w_c, mu_c - mu_G)",
        "1",
        "do weight rows point where their class means do",
        labels={"train": "NC3  mean cos(w_c, mu_c - mu_G)"},
    ),
    Row(
        "nc3_cosine_min",
        "mu_G",
        "least cos(w_c, mu_c - mu_G)",
        "1",
        "the same for the worst class",
    ),
    Row(
        "head_bias_std",
        "none",
        "equal biases, Zhu et al. 2021",
        "0",
        "how unequal the classifier's biases are",
    ),
    Row(
        "nc4_mismatch",
        "none",
        "Papyan et al. 2020, bias included",
        "0",
        "share of images where the nearest class mean is not the class that the classifier picks",
        labels={"train": "NC4  mismatch, train", "test": "NC4  mismatch, test"},
        of_layers={"train": "NC4  mismatch, train", "test": "NC4  mismatch, test"},
    ),
    Row(
        "nc4_nearest_mean_accuracy",
        "none",
        "share of images whose nearest class mean is their own",
        "1 on training images",
        "accuracy of choosing the nearest class mean",
        of_layers={"test": "NC4  nearest mean right, test"},
    ),
    Row(
        "nc4_head_accuracy",
        "none",
        "share of images that the last layer classifies right",
        "1 on training images",
        "accuracy of the classifier on the same images",
        of_layers={"test": "NC4  probe right, test"},
    ),
    Row(
        "nc5",
        "none",
        "mean |cos(mu_c, mu_OOD)|, Ammar et al. 2023",
        "0",
        "mean |cosine| of class means and this set's mean, as published; "
        "high for any common offset",
        beside={"ood": "NC5  uncentred, this set"},
    ),
    Row(
        "nc5_centred",
        "mu_G",
        "mean |cos(mu_c - mu_G, mu_OOD - mu_G)|",
        "compare with test",
        "the same after centring both; the ID test images give the null",
        beside={"ood": "NC5  centred, this set"},
    ),
    Row(
        "nc5_shift",
        "mu_G",
        "|mu_OOD - mu_G| over the mean |mu_c - mu_G|",
        "",
        "distance of this set's mean from the global mean, in class-mean norms; "
        "near 0 angles are noise",
    ),
)
ROWS = {row.key: row for row in ALL}

# Printed over epochs and over layers, where a whole table would be too wide.
PRINTED = (
    ("nc1", "train"),
    ("nc2_means_cosine_std", "train"),
    ("nc4_mismatch", "train"),
    ("nc4_mismatch", "test"),
    ("nc4_head_accuracy", "test"),
    ("nc5", "test"),
)


Labels = dict[tuple[str, str], str]  # {(key, split): label}


def labels_of(kind: Callable[[Row], dict[str, str]]) -> Labels:
    """One kind of labels of all rows, such as `row.labels`, in the order of the rows."""
    found = {}
    for row in ALL:
        for split, label in kind(row).items():
            found[row.key, split] = label
    return found


def printed() -> Labels:
    """What is printed for one checkpoint."""
    return labels_of(lambda row: row.labels)


def curves() -> Labels:
    """What is drawn over epochs."""
    found = {}
    for (key, split), label in printed().items():
        found[key, split] = ROWS[key].short or label
    return found


def layers() -> Labels:
    """What is drawn over layers."""
    return labels_of(lambda row: row.of_layers)


def beside_methods() -> Labels:
    """What is correlated with the AUROC of OOD methods."""
    of_one_set = labels_of(lambda row: row.beside)
    return curves() | of_one_set
