"""Opening a file of arrays by its ending."""

from collections.abc import Callable
from pathlib import Path

from dumps import numpy_files, tables
from dumps.entries import Dump

PICKLES = (".pkl", ".pickle", ".p", ".joblib", ".dill")
TENSORS = {".pt": "read_torch", ".pth": "read_torch", ".safetensors": "read_safetensors"}
READERS: dict[str, Callable[[Path], Dump]] = {
    ".npz": numpy_files.read_npz,
    ".npy": numpy_files.read_npy,
    ".parquet": tables.read_parquet,
    ".csv": tables.read_csv,
}
ENDINGS = (*READERS, *TENSORS)


def open_dump(path: Path) -> Dump:
    """The arrays of a file; ValueError for one that is missing, damaged, or of another kind."""
    ending = path.suffix.lower()
    if not path.is_file():
        what = "is a folder" if path.is_dir() else "is not there"
        raise ValueError(f"{path} {what}; expected a file of arrays: {', '.join(ENDINGS)}")
    if ending in PICKLES:
        raise ValueError(
            f"{path} is a pickle, which runs code when it is read, and is not read; save its arrays"
            " where you trust it, such as: np.savez('features.npz', features=x, labels=y)"
        )
    if ending in TENSORS:
        from dumps import tensors  # which imports torch

        return getattr(tensors, TENSORS[ending])(path)
    if ending not in READERS:
        raise ValueError(
            f"{path} ends in {ending or 'nothing'}; expected one of {', '.join(ENDINGS)}"
        )
    return READERS[ending](path)
