"""Image files through an ONNX network, one batch after the other: for detect.py, without torch.

    network = onnx_streaming.opened("net.onnx", facts, head)
    found = network.features(["a.jpg", "b.png"])
    found.features, found.broken           # (n, D) of those that can be read; {path: why}

The images are read and prepared as run_networks.py does it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

import machine_memory
from artifacts import records
from extraction import batching, pictures
from extraction.pictures import Found
from head import Head
from networks import onnx_graphs, onnx_sessions
from networks.onnx_sessions import Session

CHECKPOINT = "checkpoint_sha256"  # the key of what run_networks.py exports, and of a detector


@dataclass(frozen=True, eq=False)
class Network:
    """A graph that was opened, and the threads that decode for it."""

    session: Session
    reader: pictures.Reader
    batch_size: int

    def features(self, paths: Sequence[str]) -> Found:
        """The features of image files; what cannot be read is among `broken`."""
        read = self.reader.read(paths)
        if read.pixels is None:
            return Found.none(read.broken)
        images = self.reader.preprocessing.normalised(read.pixels)
        return Found(read.paths, self.session.features(images), read.broken)


def opened(
    path: str,
    facts: Mapping[str, Any],
    head: Head | None,
    batch_size: int | None = None,
    workers: int | None = None,
) -> Network:
    """The network of an ONNX file, by what a detector says of it: `facts` as detection.keeping
    writes them, and its `head`.

    ValueError for another network than the one that the detector was fitted to, and for a graph
    whose images are of another size."""
    preprocessing = pictures.preprocessing_of(facts)
    graph = onnx_graphs.read(Path(path))
    chosen = onnx_graphs.choose(graph, None, None)
    if not is_network(graph, chosen, facts, head):
        raise ValueError(pictures.of_another_network(path, facts))
    session = Session(graph, chosen)
    if session.fixed_size not in (None, preprocessing.size):
        raise ValueError(
            f"{path} takes images of {session.fixed_size} pixels alone, and the detector's are of"
            f" {preprocessing.size}"
        )
    memory = machine_memory.total()
    size, _ = batching.choose(batch_size, preprocessing.size, "cpu", memory)
    return Network(session, pictures.Reader(preprocessing, workers), size)


def is_network(
    graph: onnx_graphs.Graph,
    chosen: onnx_graphs.Chosen,
    facts: Mapping[str, Any],
    head: Head | None,
) -> bool:
    """True where a graph is the detector's network: the very file that the features came from, or
    one that was exported from its checkpoint and has the detector's last layer."""
    mine = {"weights_sha256": onnx_sessions.digest(onnx_graphs.sha256(graph), chosen)}
    if records.same_network(mine, facts):
        return True
    exported_from = onnx_graphs.metadata(graph).get(CHECKPOINT)
    if not exported_from or exported_from != facts.get(CHECKPOINT):
        return False
    return head is None or chosen.head is None or has_rows(chosen.head, head)


def has_rows(layer: onnx_graphs.Head, head: Head) -> bool:
    """True where a layer has every class of a head; it may have more, of which some were chosen."""
    W, b = layer
    rows = {row.tobytes() for row in np.column_stack([W, b]).astype(np.float32)}
    wanted = np.column_stack([head.W, head.b]).astype(np.float32)
    return all(row.tobytes() in rows for row in wanted)
