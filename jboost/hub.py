"""Bundles on the Hugging Face Hub: ``hf://user/repo@revision`` is downloaded, and a bundle is uploaded with a model card.

A downloaded bundle is a stranger's until the user trusts its digest. Of one that is not trusted, only data is downloaded:
``config.json``, weights, ONNX graphs and ``README.md``.
"""

from __future__ import annotations

import glob
import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

from jboost.engine.bundle import CONFIG, Bundle, is_data
from jboost.engine.errors import BadInputError, FailureError, JboostError, first_line
from jboost.engine.system.commands import in_shell
from jboost.engine.system.replacing import replacing
from jboost.model_card import CARD, model_card

#: A path loses one of the slashes: ``Path("hf://user/repo")`` is ``hf:/user/repo``.
_REFERENCE = re.compile(r"hf:/{1,2}(?P<repo>[^@]*)(@(?P<revision>.+))?")
_REPO = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*/[A-Za-z0-9][A-Za-z0-9._-]*")
_INSTALL = 'huggingface_hub is not installed; install it: pip install "jboost[hub]"'
_LOGIN = "log in with: hf auth login (or set HF_TOKEN)"
# By name: the library raises those of httpx or requests, whichever its version uses.
_NO_NETWORK = (
    "ConnectError", "ConnectTimeout", "ReadTimeout", "ReadError", "RemoteProtocolError", "ProxyError", "ConnectionError", "Timeout",
    "SSLError", "OfflineModeIsEnabled", "LocalEntryNotFoundError", "IncompleteSnapshotError",
)  # fmt: skip
_log = logging.getLogger("jboost")


class Reference(NamedTuple):
    """A bundle on the Hub: ``user/repo``, and a branch, tag or commit; None: the main branch."""

    repo: str
    revision: str | None

    def __str__(self) -> str:
        return f"hf://{self.repo}" + (f"@{self.revision}" if self.revision else "")


def reference(bundle: str | Path) -> Reference | None:
    """The reference that `bundle` is; None for a folder.

    Raises:
        BadInputError: it begins with ``hf://`` and is not ``hf://user/repo`` or ``hf://user/repo@revision``.
    """
    found = _REFERENCE.fullmatch(str(bundle).replace("\\", "/"))
    if found is None:
        return None
    if not _REPO.fullmatch(found["repo"]):
        raise BadInputError(f"{bundle} is not a bundle on the Hub; write hf://user/repo or hf://user/repo@revision")
    return Reference(found["repo"], found["revision"])


def download(at: Reference, *, trust_code: bool = False) -> tuple[Path, Reference]:
    """Get a bundle from the Hub, or from its library's cache.

    Args:
        at: the bundle.
        trust_code: also get its code; without it, code comes only with a bundle whose digest the user trusts.

    Returns:
        The folder in the library's cache, and the reference with the commit.

    Raises:
        BadInputError: there is no such repository, revision or bundle, or no access to it; huggingface_hub is not installed.
        FailureError: the Hub cannot be reached, and the cache does not hold the bundle.
    """
    library = _library()
    with _explained(str(at)):
        first = library.snapshot_download(at.repo, revision=at.revision, allow_patterns=[CONFIG])
    folder = Path(first)
    exact = Reference(at.repo, folder.name)  # the commit: a branch may move between two downloads
    if not (folder / CONFIG).is_file():
        raise BadInputError(
            f"{at} is not a jboost bundle (it has no {CONFIG}); name another repository, or push a bundle with: "
            f"jboost export --ckpt FILE --push {at.repo}"
        )
    try:
        bundle = Bundle(folder, trust_code=trust_code)
    except BadInputError as e:
        raise BadInputError(f"{at} cannot be used: {e}") from e
    artefacts = bundle.config.artefacts.items()
    files = [CONFIG, CARD, *(a.file for name, a in artefacts if bundle.trusted or is_data(name))]
    _log.info("%s: commit %s%s", at, folder.name, "" if bundle.trusted else ", data only (its code is not trusted)")
    with _explained(str(at)):
        folder = Path(
            library.snapshot_download(
                at.repo, revision=exact.revision, allow_patterns=[glob.escape(file) for file in dict.fromkeys(files)]
            )
        )
    return folder, exact


def check_push(repo: str) -> None:
    """Check what can be checked before an export that is to be pushed.

    Raises:
        BadInputError: `repo` is not ``user/repo``, huggingface_hub is not installed, or there is no token.
    """
    if not _REPO.fullmatch(repo):
        raise BadInputError(f"--push {repo}: name the repository as user/repo")
    if _library().get_token() is None:
        raise BadInputError(f"--push {repo}: there is no token for the Hub; {_LOGIN}")


def push(bundle: Bundle, repo: str, *, license: str | None = None, private: bool = False) -> str:
    """Upload a bundle, with a model card that is written into its folder.

    Args:
        bundle: an exported bundle.
        repo: ``user/repo``; made if it does not exist.
        license: the licence's identifier on the Hub, such as ``"apache-2.0"``; None: that of the repository's model card, if
            there is one. jboost cannot know it.
        private: make a new repository private.

    Returns:
        The repository's address.

    Raises:
        FailureError: the Hub cannot be reached, or refuses; the bundle's folder is complete, and the message says how to upload
            it.
    """
    library = _library()
    again = f"hf upload {repo} {in_shell(bundle.path)}"
    with _explained(f"--push {repo}", f"the bundle is written; upload it with: {again}"):
        address = library.create_repo(repo, private=private or None, exist_ok=True)
        text = model_card(bundle.config, repo, license or _license_of(library, repo))
        with replacing(bundle.path / CARD) as aside:
            aside.write_text(text, encoding="utf-8")
        files = [CONFIG, CARD, *(artefact.file for artefact in bundle.config.artefacts.values())]
        library.upload_folder(
            repo_id=repo, folder_path=bundle.path, allow_patterns=[glob.escape(file) for file in dict.fromkeys(files)],
            commit_message="jboost export",
        )  # fmt: skip
    return str(address)


def _library() -> Any:
    """huggingface_hub, without its progress bars and remarks."""
    try:
        library, utils = import_module("huggingface_hub"), import_module("huggingface_hub.utils")
    except ImportError as e:
        raise BadInputError(_INSTALL) from e
    utils.disable_progress_bars()
    utils.logging.set_verbosity_error()
    return library


def _license_of(library: Any, repo: str) -> str | None:
    """The licence in the front matter of a repository's model card; None if there is none."""
    try:
        text = Path(library.hf_hub_download(repo, CARD)).read_text(encoding="utf-8")
    except Exception:  # no card yet, or it cannot be read
        return None
    front = re.match(r"---\n(.*?)\n---", text, re.DOTALL)
    found = front and re.search(r"^license: *([A-Za-z0-9._-]+)$", front[1], re.MULTILINE)
    return found[1] if found else None


@contextmanager
def _explained(what: str, kept: str = "") -> Iterator[None]:
    """Turn the library's errors into one line: bad input, or, where work is `kept`, a failure that says so."""
    try:
        yield
    except JboostError:
        raise
    except Exception as e:
        message, bad_input = _explanation(e)
        text = f"{what}: {message}" + (f"; {kept}" if kept else "")
        raise (BadInputError if bad_input and not kept else FailureError)(text) from e


def _explanation(e: Exception) -> tuple[str, bool]:
    """What an error of the library means and what to do; whether the input is to blame."""
    names = {kind.__name__ for kind in type(e).__mro__}
    status = getattr(getattr(e, "response", None), "status_code", None)
    if "GatedRepoError" in names:
        return f"the repository is gated; ask for access on its page, then {_LOGIN}", True
    if "RevisionNotFoundError" in names:
        return "the repository has no such revision; name a branch, tag or commit after @, or leave it out", True
    if status == 401:
        return (
            f"no such repository, or it is private and the token is missing or wrong; check the name, or {_LOGIN}",
            True,
        )
    if status == 403:
        return (
            "the token may not do this; use one with write access to the repository: https://huggingface.co/settings/tokens",
            True,
        )
    if "RepositoryNotFoundError" in names or status == 404:
        return f"no such repository; check the name, and if it is private, {_LOGIN}", True
    if "HFValidationError" in names:
        return first_line(e), True
    if names & set(_NO_NETWORK):
        return (
            "the Hub cannot be reached and the cache does not hold the files; check the network, HF_ENDPOINT and HF_HUB_OFFLINE",
            False,
        )
    return f"{type(e).__name__}: {first_line(e)}", False
