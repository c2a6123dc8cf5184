"""How a checkpoint's images are prepared, and who says so."""

import warnings

import data
from extraction import expected_inputs
from extraction.expected_inputs import Choice, Source
from extraction.options import Options
from extraction.work import Trained
from networks import registry, source_files
from utils import SetName


def choose_inputs(trained: Trained, options: Options) -> Choice:
    """What the network expects of its images; a warning where flags contradict the checkpoint.

    ValueError, with a command that mends it, where size, mean or std is known from nowhere."""
    flags, own = options.preprocessing, trained.content.get("preprocessing")
    try:
        choice = expected_inputs.choose(sources(trained, options))
    except LookupError as error:
        raise ValueError(unknown_inputs(trained, options, error.args[0])) from None
    contradictions = expected_inputs.contradictions(flags, own) if own else []
    if contradictions:
        warnings.warn(
            f"{trained.path} says itself what its images must be like, and the command line "
            f"contradicts it: {', '.join(contradictions)}; leave that out to measure the network "
            "as it was trained",
            stacklevel=2,
        )
    return choice


def sources(trained: Trained, options: Options) -> list[Source]:
    """The command line, then the checkpoint; where that says nothing, the network's own file or
    library, and a named data set."""
    flags, own = options.preprocessing, trained.content.get("preprocessing")
    found = [Source("the command line", flags), Source("the checkpoint", own or {})]
    dataset = options.dataset or SetName.parse(trained.content["dataset"])
    data.check_id(dataset)
    if own:
        return found
    if len(flags) < len(expected_inputs.WORDS):
        found.append(own_word(trained))
    if dataset.folder is None:
        row = data.ID[dataset.name]
        values = {"size": row.size, "mean": row.mean, "std": row.std}
        found.append(Source(f"the data set {dataset.name}, as the checkpoint names none", values))
    return found


def own_word(trained: Trained) -> Source:
    """What a person's own network file, or the library of the network, says of its images."""
    model = trained.model
    said = registry.preprocessing_of(trained.network, model)
    place = registry.place_of(model)
    if said is None:
        return Source(place, {})
    return Source(place, expected_inputs.check_stated(said, f"--model {model}"))


def unknown_inputs(trained: Trained, options: Options, missing: list[str]) -> str:
    """The message that asks for the values of a preprocessing which nobody knows."""
    path, model = trained.path, trained.model
    words = expected_inputs.listed([expected_inputs.WORDS[name] for name in missing])
    flags = " ".join(expected_inputs.FLAGS[name] for name in missing)
    place = ""
    if ":" in model:
        place = f", or by a line preprocessing = {{...}} in {source_files.parts(model)[0]}"
    remedy = options.command(checkpoint=[path], **options.example_inputs)
    return (
        f"{path} does not say what its images must be like, and neither does the folder"
        f" {options.dataset}: its {words} in training are known from nowhere."
        f" Say them with {flags}{place}, such as, where they are ImageNet's: {remedy}"
        " (--mean 0 --std 1 leaves pixels in [0, 1] as they are)"
    )
