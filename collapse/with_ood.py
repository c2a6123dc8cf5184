"""Collapse of ID and OOD together: an OOD set as class C + 1 of the training images.

    table = with_ood.tabulate(inputs)     # one row per OOD set and metric

NC1 and NC2 of C + 1 classes say whether OOD images lie as one more cluster (NC1 stays low) and
whether its mean completes the simplex (NC2); the row of set "" is of the C classes alone. These
numbers stand in a table of their own: nothing in nc_metrics.csv goes by them."""

import numpy as np
import pandas as pd

from artifacts.blocks import Stored
from collapse import table
from collapse.measuring import Inputs
from moments import Accumulator, Moments

ALONE = ""  # the column `ood` of the rows without an OOD set
# What is printed of each set: {metric: label}.
PRINTED = {
    "nc1": "NC1",
    "nc1_trace_ratio": "trace ratio",
    "nc1_cdnv": "CDNV",
    "nc2_means_norm_cv": "norms, CV",
    "nc2_means_cosine_std": "cosines, std",
}


def tabulate(inputs: Inputs, exact: bool = False) -> pd.DataFrame:
    """nc_with_ood.csv: NC1 and NC2 of the training images, alone and with each OOD set as one more
    class."""
    parts = [rows(inputs, ALONE, moments_of(inputs, None, exact))]
    for name, features in inputs.ood.items():
        parts.append(rows(inputs, name, moments_of(inputs, features, exact)))
    return pd.concat(parts, ignore_index=True)


def moments_of(inputs: Inputs, other: Stored | None, exact: bool) -> Moments:
    """The moments of the training images, with another set as class C where one is given."""
    classes, width = len(inputs.class_names), inputs.train.width
    more = 0 if other is None else 1
    accumulator = Accumulator(classes + more, width, exact=exact)
    for block in inputs.train.blocks():
        accumulator.update(block.features, block.labels)
    if other is not None:
        for block in other.blocks():
            accumulator.update(block.features, np.full(len(block.labels), classes))
    return accumulator.finish()


def rows(inputs: Inputs, name: str, moments: Moments) -> pd.DataFrame:
    """The rows of one OOD set, or of the classes alone."""
    split = "train" if name == ALONE else "train and ood"
    absent = "" if len(moments.present) == len(moments.means) else "classes without images left out"
    lines = table.nc1(moments, split, absent) + table.nc2("means", moments.centred, split, absent)
    found = pd.DataFrame(lines)
    found.insert(0, "images", int(moments.counts.sum()))
    found.insert(0, "classes", len(moments.present))
    found.insert(0, "ood", name)
    found.insert(0, "checkpoint", inputs.run.folder.name)
    return found


def shown(found: pd.DataFrame) -> pd.DataFrame:
    """What is printed: one row per OOD set, the first of the classes alone."""
    wide = found.pivot(index="ood", columns="metric", values="value")
    ordered = wide.reindex(index=list(dict.fromkeys(found["ood"])), columns=list(PRINTED))
    named = ordered.rename(columns=PRINTED).astype(float).round(4).reset_index()
    named["ood"] = named["ood"].replace(ALONE, "(none)")
    return named.rename(columns={"ood": "class C+1"}).rename_axis(columns=None)
