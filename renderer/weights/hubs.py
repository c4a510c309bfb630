"""The two hubs behind one face: their clients' calls, and their clients' errors in our words.

Each client brings its own HTTP, retries, resumption and tokens; they are imported when they are called. Nothing else in
the house knows them.
"""

from __future__ import annotations

import errno
import http
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Protocol

from renderer import folders
from renderer.errors import ModelError, RendererError
from renderer.weights.headers import disk_error

_WORKERS = 4
_DISK_ERRORS = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM}
_SHOWN_CHARACTERS = 160
_AGAIN = "check the network and run the same command again: what is whole is kept"


@dataclass(frozen=True, slots=True)
class RemoteFile:
    """A file that a hub has: its name in the repository, its bytes, and its SHA-256 where the hub tells it.

    Of small files Hugging Face tells the name that git has for them, `git_id`: a SHA-1 over their length and bytes.
    """

    name: str
    bytes: int
    sha256: str | None
    git_id: str | None = None


@dataclass(frozen=True, slots=True)
class Listing:
    """All files of a repository at a revision; where the hub tells it, the revision is the commit."""

    revision: str
    files: tuple[RemoteFile, ...]


class Hub(Protocol):
    """What is asked of a hub. Both raise `ModelError` and `DiskError`."""

    def list_files(self, repository: str, revision: str | None) -> Listing:
        """What a repository has at a revision (None: the newest)."""

    def download(self, repository: str, revision: str, names: Sequence[str], folder: Path) -> None:
        """Bring files into a folder, each under its name in the repository; what is there already is not fetched."""


class HuggingFace:
    """huggingface_hub; `$HF_ENDPOINT` names a mirror, `$HF_TOKEN` who asks."""

    def list_files(self, repository: str, revision: str | None) -> Listing:
        from huggingface_hub import HfApi  # noqa: PLC0415  # its HTTP library, only where a hub is asked

        with _explained_hugging_face(repository, revision, None):
            info = HfApi(endpoint=_mirror("HF_ENDPOINT")).model_info(repository, revision=revision, files_metadata=True)
        files = tuple(
            RemoteFile(each.rfilename, each.size or 0, each.lfs.sha256 if each.lfs else None, each.blob_id)
            for each in info.siblings or ()
        )
        return Listing(info.sha or revision or "main", files)

    def download(self, repository: str, revision: str, names: Sequence[str], folder: Path) -> None:
        from huggingface_hub import snapshot_download  # noqa: PLC0415  # as above
        from huggingface_hub.utils.tqdm import disable_progress_bars  # noqa: PLC0415  # as above

        disable_progress_bars()
        with _explained_hugging_face(repository, revision, folder):
            snapshot_download(
                repository,
                revision=revision,
                endpoint=_mirror("HF_ENDPOINT"),
                local_dir=folder,
                allow_patterns=[_literally(name) for name in names],
                max_workers=_WORKERS,
            )


class ModelScope:
    """modelscope_hub, the client beneath modelscope's `snapshot_download`; `$MODELSCOPE_ENDPOINT` names a mirror."""

    def list_files(self, repository: str, revision: str | None) -> Listing:
        from modelscope_hub import HubApi  # noqa: PLC0415  # as above

        with _explained_modelscope(repository, revision, None):
            found = HubApi(endpoint=_mirror("MODELSCOPE_ENDPOINT")).list_repo_files(
                repository, "model", revision=revision
            )
        files = tuple(RemoteFile(each.path, each.size, each.sha256) for each in found if not each.is_dir)
        return Listing(revision or "master", files)

    def download(self, repository: str, revision: str, names: Sequence[str], folder: Path) -> None:
        from modelscope_hub.compat import snapshot_download  # noqa: PLC0415  # as above

        with _explained_modelscope(repository, revision, folder):
            snapshot_download(
                repository,
                revision=revision,
                endpoint=_mirror("MODELSCOPE_ENDPOINT"),
                local_dir=str(folder),
                allow_patterns=[_literally(name) for name in names],
                max_workers=_WORKERS,
            )


HUBS: Mapping[str, Hub] = MappingProxyType({"huggingface": HuggingFace(), "modelscope": ModelScope()})


def _mirror(variable: str) -> str | None:
    """The address that a hub is asked at, if it is not its own; the clients read this but once, at their import."""
    return os.environ.get(variable) or None


def _literally(name: str) -> str:
    """A name as a pattern that matches nothing else."""
    return name.replace("[", "[[]").replace("*", "[*]").replace("?", "[?]")


# ---- their errors ----------------------------------------------------------------------------------------------------


@contextmanager
def _explained_hugging_face(repository: str, revision: str | None, folder: Path | None) -> Iterator[None]:
    """Turn what huggingface_hub raises into our errors."""
    try:
        yield
    except RendererError:
        raise
    except Exception as error:  # its own, its HTTP library's, its storage library's
        from huggingface_hub import errors  # noqa: PLC0415  # as above

        where = f"Hugging Face's {repository}"
        if isinstance(error, errors.GatedRepoError):
            raise _denied(where, "hf auth login") from error
        if isinstance(error, errors.RevisionNotFoundError):
            raise _unknown_revision(where, revision) from error
        if isinstance(error, errors.HfHubHTTPError):
            status = error.response.status_code
            raise _refused(where, status, "hf auth login") from error
        if isinstance(error, errors.OfflineModeIsEnabled):
            raise ModelError(
                f"{where} may not be asked: HF_HUB_OFFLINE is set", hint="unset it, or --offline"
            ) from error
        raise _explained(where, folder, error) from error


@contextmanager
def _explained_modelscope(repository: str, revision: str | None, folder: Path | None) -> Iterator[None]:
    """Turn what modelscope_hub raises into our errors."""
    try:
        yield
    except RendererError:
        raise
    except Exception as error:  # its own, its HTTP library's
        from modelscope_hub import errors  # noqa: PLC0415  # as above

        where = f"ModelScope's {repository}"
        cause = _first_failure(error)
        if isinstance(cause, errors.AuthenticationError | errors.PermissionDeniedError):
            raise _denied(where, "modelscope login") from error
        if isinstance(cause, errors.NotExistError):
            raise (
                _unknown_revision(where, revision) if revision else _refused(where, 404, "modelscope login")
            ) from error
        if isinstance(cause, errors.FileIntegrityError):
            raise ModelError(f"{where} gave a damaged file: {_words(cause)}", hint=_AGAIN) from error
        raise _explained(where, folder, cause) from error


def _first_failure(error: BaseException) -> BaseException:
    """Of a download of several files, what happened to the first."""
    failed: Mapping[str, BaseException] = getattr(error, "failed_files", None) or {}
    return next(iter(failed.values()), error)


def _explained(where: str, folder: Path | None, error: BaseException) -> RendererError:
    """What both clients can raise: a disk that does not take it, a network that does not give it."""
    for cause in _chain(error):
        if folder is not None and isinstance(cause, OSError) and cause.errno in _DISK_ERRORS:
            return disk_error(folder, cause)
    if folder is None:
        return ModelError(f"{where} cannot be reached: {_words(error)}", hint=_reach_hint())
    return ModelError(f"the download of {where} broke off: {_words(error)}", hint=_AGAIN)


def _refused(where: str, status: int, login: str) -> ModelError:
    if status in (http.HTTPStatus.UNAUTHORIZED, http.HTTPStatus.FORBIDDEN):
        return _denied(where, login)
    if status == http.HTTPStatus.NOT_FOUND:
        return ModelError(f"{where} is not there (404)", hint="a private one needs a token; the other hub: --source")
    return ModelError(f"{where} cannot be had: the server answered {status}", hint=_AGAIN)


def _denied(where: str, login: str) -> ModelError:
    hint = f"accept its conditions on its page, then log in here: {login}"
    return ModelError(f"{where} is not open to this user, or is not there", hint=hint)


def _unknown_revision(where: str, revision: str | None) -> ModelError:
    return ModelError(f"{where} has no revision {revision}", hint="its page lists them under history")


def _reach_hint() -> str:
    return "check the network; a mirror: HF_ENDPOINT or MODELSCOPE_ENDPOINT; the other hub: --source"


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _words(error: BaseException) -> str:
    """The first line of an error, without what could be long or private."""
    line = str(error).strip().partition("\n")[0] or type(error).__name__
    return folders.hidden(line)[:_SHOWN_CHARACTERS]
