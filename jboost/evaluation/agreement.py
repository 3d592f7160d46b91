"""Settle the protocol of an evaluation, and keep numbers of different protocols apart."""

from __future__ import annotations

from collections.abc import Sequence

from jboost.engine.errors import BadInputError

from .protocols import PROTOCOLS, Protocol, find_protocol
from .sets import Source


def choose_protocol(stated: str | None, ref: Source, sets: Sequence[Source]) -> Protocol:
    """The protocol to follow.

    The stated one; else the one that saved features were made with; else OpenAI's if the reference is an npz file, which is
    how its evaluator takes references; else torch-fidelity's.

    Raises:
        BadInputError: there is no protocol of that name.
    """
    if stated is not None:
        return find_protocol(stated)
    for source in (ref, *sets):
        if source.features is not None:
            return PROTOCOLS[source.features.protocol]
    return PROTOCOLS["openai" if ref.images is None or ref.images.kind == "npz" else "torch-fidelity"]


def check_agreement(protocol: Protocol, stated: str | None, ref: Source, sets: Sequence[Source]) -> list[str]:
    """Check that Inception's features and statistics in files were made by `protocol`; returns notes.

    Statistics beside images are dropped from `ref` if they are another protocol's: the images give its own.

    Raises:
        BadInputError: features or statistics of another protocol, or statistics that do not name theirs while none is stated.
    """
    _check_features(protocol, ref, sets)
    if ref.moments is None:
        return []
    if ref.spatial is None:  # OpenAI's files hold mu_s and sigma_s, other programs' do not
        if stated is None:
            raise BadInputError(
                f"{ref.path} does not say which program made its statistics, and FID depends on it: add --protocol pytorch-fid "
                "if pytorch-fid wrote it, or --protocol openai for programs with TensorFlow's resize (TTUR, EDM, StyleGAN)"
            )
        return []
    if protocol.name == "openai":
        return []
    if ref.images is None:
        raise BadInputError(
            f"{ref.path} holds statistics of OpenAI's evaluator (it has mu_s), which do not compare with images by --protocol "
            f"{protocol.name}: give the reference's images as REF, or --protocol openai"
        )
    ref.moments = ref.spatial = None
    count = ref.images.shape[0]
    return [
        f"the statistics in {ref.path} are OpenAI's and left aside for {protocol.name}; its {count:,} images are used"
    ]


def _check_features(protocol: Protocol, ref: Source, sets: Sequence[Source]) -> None:
    kept = [(source.path, source.features.protocol) for source in (ref, *sets) if source.features is not None]
    names = {name for _, name in kept}
    bound = {"openai"} if ref.features is None and ref.spatial is not None and ref.images is None else set()
    for path, name in kept:
        if name == protocol.name:
            continue
        # One protocol fits all files only if none of them is bound to another.
        if names | bound == {name}:
            remedy = f"add --protocol {name}, or save them again with --save-features and --protocol {protocol.name}"
        else:
            remedy = f"save them again from their images with --save-features and --protocol {protocol.name}"
        raise BadInputError(
            f"the features in {path} were made with --protocol {name}, this evaluation follows {protocol.name}: they do not "
            f"compare; {remedy}"
        )
    wrong = bound - {protocol.name}
    if kept and wrong:
        path = kept[0][0]
        raise BadInputError(
            f"{ref.path} holds statistics of OpenAI's evaluator (it has mu_s), and the features in {path} were made with "
            f"--protocol {protocol.name}: they do not compare; save the features again from their images with --save-features "
            "and --protocol openai"
        )
