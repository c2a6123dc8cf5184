"""Tables for the tests of figures/, and what is read back from a drawn figure."""

import io

import numpy as np
import pandas as pd

SETS = [
    "held_out",
    "photos",
    "uniform",
    "gaussian",
    "svhn10k",
    "textures10",
    "a $2 and $3 folder",
    "<b>mine</b>",
]


def png(figure):
    """Render; a figure that cannot be laid out or drawn fails here."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=60)
    return buffer.getvalue()


def words(figure):
    return " | ".join(
        text.get_text() for text in figure.findobj(lambda artist: hasattr(artist, "get_text"))
    )


def history(epochs, validation=True, fitted=None):
    epoch = np.arange(1, epochs + 1)
    train = np.linspace(0.1, 0.99, epochs)
    if fitted:
        train[epoch >= fitted] = 1.0
    val = 0.8 - (epoch - 0.7 * epochs) ** 2 / epochs**2 if validation else np.full(epochs, np.nan)
    return pd.DataFrame(
        {
            "epoch": epoch,
            "train_loss": 5.0 / epoch**2,
            "train_acc": train,
            "val_acc": val,
            "val_loss": 2.0 / epoch if validation else np.nan,
            "lr": 0.1,
            "seconds": 1.0,
        }
    )


def metrics(methods, sets, seed=0):
    generator = np.random.default_rng(seed)
    rows = [
        {
            "ood": name,
            "method": f"method{index}",
            "parameters": np.nan,
            "auroc": value,
            "auroc_low": value - 0.01,
            "auroc_high": value + 0.005,
        }
        for name in sets
        for index, value in enumerate(generator.uniform(0.3, 0.99, methods))
    ]
    return pd.DataFrame(rows)


def per_class(classes, seed=0):
    generator = np.random.default_rng(seed)
    return pd.DataFrame(
        {
            "class_name": [f"class {index}" for index in range(classes)],
            "within_class_variance": generator.gamma(3, size=classes),
            "cosine_weight_mean": generator.uniform(-0.2, 1, classes),
        }
    )
