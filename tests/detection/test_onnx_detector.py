"""detection/onnx_detector.py and onnx_forms.py: a detector behind a network, in one ONNX file."""

import json
import warnings
from dataclasses import dataclass

import numpy as np
import pytest
from score_cases import random_case

onnx = pytest.importorskip("onnx", reason="onnx is not installed: requirements-onnx.txt")
pytest.importorskip("onnxruntime", reason="onnxruntime is not installed: requirements-onnx.txt")

from detection import onnx_forms  # noqa: E402
from detection.detector import Detector  # noqa: E402
from detection.onnx_detector import ACCEPTED, LOGITS, SCORE, Exported, check_target  # noqa: E402
from networks import onnx_graphs  # noqa: E402
from networks.onnx_building import Builder  # noqa: E402
from networks.onnx_sessions import Session, runtime  # noqa: E402
from scores import registry  # noqa: E402

WIDTH, CLASSES, SIDE, KEEP = 24, 5, 2, 0.9
CASE = random_case(n=400, width=WIDTH, classes=CLASSES)
PROJECTION = np.random.default_rng(0).normal(size=(3 * SIDE * SIDE, WIDTH)).astype(np.float32)


def graph(tmp_path, opset=17, batch="n", logits="logits", W=CASE.W, b=CASE.b):
    """A network: images (n, 3, 2, 2) -> a linear layer, ReLU: features; and logits."""
    helper, constant = onnx.helper, onnx.numpy_helper.from_array
    node = helper.make_node
    nodes = [
        node("Reshape", ["images", "shape"], ["flat"]),
        node("MatMul", ["flat", "projection"], ["before"]),
        node("Relu", ["before"], ["features"]),
        node("Gemm", ["features", "W", "b"], [logits], transB=1),
    ]
    constants = [
        constant(np.array([-1, 3 * SIDE * SIDE]), "shape"),
        constant(PROJECTION, "projection"),
        constant(W, "W"),
        constant(b, "b"),
    ]
    kind = onnx.TensorProto.FLOAT
    value = helper.make_tensor_value_info
    inner = helper.make_graph(
        nodes,
        "net",
        [value("images", kind, [batch, 3, SIDE, SIDE])],
        [value("features", kind, [batch, WIDTH]), value(logits, kind, [batch, len(W)])],
        constants,
    )
    model = helper.make_model(inner, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    onnx.save(model, tmp_path / "net.onnx")
    return onnx_graphs.read(tmp_path / "net.onnx")


def images_of(count=12):
    """Random images, of which the last is black: its features are 0."""
    images = np.random.default_rng(1).normal(size=(count, 3, SIDE, SIDE)).astype(np.float32)
    images[-1] = 0
    return images


def session_of(found):
    return Session(found, onnx_graphs.choose(found, None, None))


@dataclass(frozen=True)
class Kept:
    session: Session
    detector: Detector

    def exported(self, name):
        return Exported(self.session, self.detector, name, KEEP)


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    """A detector of features that the network makes, and all methods that a file holds."""
    session = session_of(graph(tmp_path_factory.mktemp("graph")))
    generator = np.random.default_rng(2)
    images = generator.normal(size=(400, 3, SIDE, SIDE)).astype(np.float32)
    features = session.features(images)
    labels = (features @ CASE.W.T + CASE.b).argmax(1)
    labels[::9] = np.arange(len(labels[::9])) % CLASSES  # some are classified wrong
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        held = features[300:], labels[300:]
        detector = Detector.fit(
            features[:300],
            labels[:300],
            CASE.W,
            CASE.b,
            class_names=list("abcde"),
            validation=held,
            rest=CASE.rest,
            methods=list(registry.METHODS),
            with_bank=True,
            facts={"checkpoint": "net.pth", "preprocessing": {"size": SIDE}},
        )
    return Kept(session, detector)


def ran(path, images):
    session = runtime().InferenceSession(str(path))
    names = [each.name for each in session.get_outputs()]
    return dict(zip(names, session.run(None, {"images": images}), strict=True))


# ---- the numbers ---------------------------------------------------------------------------------


@pytest.mark.parametrize("name", onnx_forms.known())
@pytest.mark.filterwarnings("ignore:MSP")
def test_a_score_is_the_detectors(kept, tmp_path, name):
    """To 1e-5 of the largest, undefined where it is, and with its verdicts."""
    found = kept.exported(name).write(tmp_path / "whole.onnx", images_of())
    assert found.verdicts_differ == 0
    got = ran(tmp_path / "whole.onnx", images_of())
    features = kept.session.features(images_of())
    expected = kept.detector.score_samples(features, name)
    scale = max(1, np.nanmax(np.abs(expected)))
    np.testing.assert_allclose(got[SCORE] / scale, expected / scale, rtol=0, atol=1e-5)
    assert got[SCORE].dtype == np.float64
    accepted = kept.detector.predict(features, KEEP, name) == 1
    assert np.array_equal(got[ACCEPTED], accepted)
    np.testing.assert_allclose(got[LOGITS], features @ CASE.W.T + CASE.b, rtol=0, atol=1e-5)


def test_some_score_of_these_is_undefined_and_not_accepted(kept, tmp_path):
    """The black image has no direction."""
    kept.exported("Cosine").write(tmp_path / "whole.onnx", images_of())
    got = ran(tmp_path / "whole.onnx", images_of())
    assert np.isnan(got[SCORE][-1]) and not got[ACCEPTED][-1]
    assert np.isfinite(got[SCORE][:-1]).all()


def test_every_method_that_a_detector_recommends_can_be_written():
    from detection import recommending

    assert set(recommending.ORDER) <= set(onnx_forms.known())


def test_a_score_beyond_the_tolerance_is_not_written(kept, tmp_path, monkeypatch):
    monkeypatch.setitem(
        onnx_forms.FORMS,
        onnx_forms.finishing(registry.METHODS["Energy"]),
        lambda values, projected, state: values.energy * 1.0001,
    )
    with pytest.raises(ValueError, match=r"was not written.*above 1e-05"):
        kept.exported("Energy").write(tmp_path / "whole.onnx", images_of())
    assert not (tmp_path / "whole.onnx").exists()


# ---- the file ------------------------------------------------------------------------------------


def test_the_file_says_how_it_is_used(kept, tmp_path):
    kept.exported("Cosine").write(tmp_path / "whole.onnx", images_of())
    known = onnx_graphs.metadata(onnx_graphs.read(tmp_path / "whole.onnx"))
    assert json.loads(known["class_names"]) == list("abcde")
    assert json.loads(known["preprocessing"]) == {"size": SIDE}
    assert (known["method"], known["keep"]) == ("Cosine", "0.9")
    assert float(known["threshold"]) == kept.detector.threshold(KEEP, "Cosine")
    assert known["calibrated_on"] == "100 ID validation images"


@pytest.mark.parametrize("opset", [11, 13, 17, 18, 20])
def test_graphs_of_other_opsets(kept, tmp_path, opset):
    session = session_of(graph(tmp_path, opset))
    for name in ("ViM", "Mahalanobis", "GEN"):
        Exported(session, kept.detector, name, KEEP).write(tmp_path / f"{name}.onnx", images_of())


@pytest.mark.parametrize("batch", [1, 5])
def test_graphs_of_a_fixed_number_of_images(kept, tmp_path, batch):
    session = session_of(graph(tmp_path, batch=batch))
    found = Exported(session, kept.detector, "Cosine", KEEP).write(
        tmp_path / "whole.onnx", images_of()
    )
    assert found.images == 12


def test_a_graph_with_these_names_for_other_values(kept, tmp_path):
    """Its own `score` is another output, which goes."""
    session = session_of(graph(tmp_path, logits="score"))
    Exported(session, kept.detector, "Energy", KEEP).write(tmp_path / "whole.onnx", images_of())
    names = set(ran(tmp_path / "whole.onnx", images_of()))
    assert names == {"features", "logits", "score", "accepted"}


def test_a_head_of_fewer_classes_than_the_networks(kept, tmp_path):
    """Of 8 classes 5 were chosen: the logits are theirs, and the other rows are gone."""
    W = np.vstack([CASE.W, np.ones((3, WIDTH), np.float32)])
    b = np.concatenate([CASE.b, np.zeros(3, np.float32)])
    session = session_of(graph(tmp_path, W=W, b=b))
    Exported(session, kept.detector, "MSP", KEEP).write(tmp_path / "whole.onnx", images_of())
    assert ran(tmp_path / "whole.onnx", images_of())[LOGITS].shape == (12, CLASSES)
    model = onnx.load(tmp_path / "whole.onnx")
    assert "W" not in {each.name for each in model.graph.initializer}


def test_what_a_branch_reads_is_kept():
    """`If` reads `kept` from outside its branches."""
    helper, kind = onnx.helper, onnx.TensorProto.FLOAT
    value = helper.make_tensor_value_info
    branch = helper.make_graph(
        [helper.make_node("Neg", ["kept"], ["negative"])],
        "branch",
        [],
        [value("negative", kind, [2])],
    )
    nodes = [
        helper.make_node("Abs", ["x"], ["kept"]),
        helper.make_node("Abs", ["x"], ["unused"]),
        helper.make_node("If", ["flag"], ["y"], then_branch=branch, else_branch=branch),
    ]
    inner = helper.make_graph(
        nodes, "net", [value("x", kind, [2]), value("flag", onnx.TensorProto.BOOL, [1])], []
    )
    builder = Builder(helper.make_model(inner, opset_imports=[helper.make_opsetid("", 17)]))
    builder.output(builder.value("y", np.float32), "y", [2])
    kinds = [node.op_type for node in builder.finished().graph.node]
    assert kinds == ["Abs", "If"]


# ---- mistakes ------------------------------------------------------------------------------------


def test_a_graph_of_an_old_opset_is_refused(kept, tmp_path):
    with pytest.raises(ValueError, match=r"opset 10.*11 or newer: export it again"):
        Builder(graph(tmp_path, opset=10).model)


def test_a_method_without_a_form_names_those_that_have_one(tmp_path):
    with pytest.raises(ValueError, match=r"KNN cannot be written as ONNX.*Cosine"):
        check_target(tmp_path / "whole.onnx", "KNN")


def test_a_target_must_be_free_and_be_called_onnx(tmp_path):
    (tmp_path / "there.onnx").touch()
    with pytest.raises(ValueError, match="is there already"):
        check_target(tmp_path / "there.onnx", "Cosine")
    with pytest.raises(ValueError, match=r"ends in \.onnx"):
        check_target(tmp_path / "whole.pth", "Cosine")
    with pytest.raises(ValueError, match="there is no folder"):
        check_target(tmp_path / "none/whole.onnx", "Cosine")
