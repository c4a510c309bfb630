"""The two hubs behind one face: their clients' calls, and their clients' errors in our words.

Each client brings its own HTTP, resumption and tokens; they are imported when they are called. A hub that is busy is
asked again within bounds, and its own words are passed on. Nothing else in the house knows them.
"""

from __future__ import annotations

import errno
import http
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Literal, Protocol, TypeVar

from renderer.errors import ModelError, RendererError, shorten
from renderer.system import folders
from renderer.weights.headers import disk_error
from renderer.weights.patience import Patience, Refusal, pause

HubAnswer = TypeVar("HubAnswer")
Token = Literal[False] | None
"""Who asks: whoever the environment says, or nobody."""

_NOBODY: Literal[False] = False

_WORKERS = 4
_DISK_ERRORS = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM}
_SHOWN_CHARACTERS = 160
_RENEW = "renew it ({}), or take it away: what is open to everybody needs none"
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
    """All files of a repository at a revision; where the hub tells it, the revision is the commit.

    `note` is what whoever asked should know: a token that the hub did not take.
    """

    revision: str
    files: tuple[RemoteFile, ...]
    note: str = ""


class Hub(Protocol):
    """What is asked of a hub. Both raise `ModelError` and `DiskError`."""

    def list_files(self, repository: str, revision: str | None) -> Listing:
        """What a repository has at a revision (None: the newest)."""

    def download(self, repository: str, revision: str, names: Sequence[str], folder: Path) -> None:
        """Bring files into a folder, each under its name in the repository; what is there already is not fetched."""


@dataclass(frozen=True, slots=True)
class HuggingFace:
    """huggingface_hub; `$HF_ENDPOINT` names a mirror, `$HF_TOKEN` who asks. A token that is not taken is left out."""

    patience: Patience = field(default_factory=Patience)

    def list_files(self, repository: str, revision: str | None) -> Listing:
        from huggingface_hub import HfApi  # noqa: PLC0415  # its HTTP library, only where a hub is asked

        api = HfApi(endpoint=_mirror("HF_ENDPOINT"))
        with _explained_hugging_face(repository, revision, None):
            info, note = self._asked(
                repository,
                lambda token: api.model_info(repository, revision=revision, files_metadata=True, token=token),
            )
        files = tuple(
            RemoteFile(each.rfilename, each.size or 0, each.lfs.sha256 if each.lfs else None, each.blob_id)
            for each in info.siblings or ()
        )
        return Listing(info.sha or revision or "main", files, note)

    def download(self, repository: str, revision: str, names: Sequence[str], folder: Path) -> None:
        from huggingface_hub import snapshot_download  # noqa: PLC0415  # as above
        from huggingface_hub.utils.tqdm import disable_progress_bars  # noqa: PLC0415  # as above

        def bring(token: Token) -> None:
            snapshot_download(
                repository,
                revision=revision,
                endpoint=_mirror("HF_ENDPOINT"),
                local_dir=folder,
                allow_patterns=[_literally(name) for name in names],
                max_workers=_WORKERS,
                token=token,
            )
            if lacking := [name for name in names if not (folder / name).is_file()]:
                raise ConnectionResetError(
                    f"{lacking[0]} did not come"
                )  # where the hub refuses, the client may be silent

        disable_progress_bars()
        with _explained_hugging_face(repository, revision, folder):
            self._asked(repository, bring)

    def _asked(self, repository: str, question: Callable[[Token], HubAnswer]) -> tuple[HubAnswer, str]:
        """The answer, and what is to be said of the token; without it where the hub does not take it."""
        try:
            return self.patience.ask(lambda: question(None), _refusal_of_hugging_face), ""
        except Exception as error:
            told, token = _refusal_of_hugging_face(error), _token_of_hugging_face()
            if told is None or told.status != http.HTTPStatus.UNAUTHORIZED or not token:
                raise
            words = f"Hugging Face does not take the token {token}" + (f": {told.words}" if told.words else "")
            try:
                answer = self.patience.ask(lambda: question(_NOBODY), _refusal_of_hugging_face)
            except Exception as second:
                again = _refusal_of_hugging_face(second)
                if again is None or again.transient:
                    raise
                message = f"{words}; and without it {repository} is not open"
                raise ModelError(message, hint=_RENEW.format("hf auth login")) from error
            return answer, f"{words}; asked without it"


@dataclass(frozen=True, slots=True)
class ModelScope:
    """modelscope_hub, the client beneath modelscope's `snapshot_download`; `$MODELSCOPE_ENDPOINT` names a mirror."""

    patience: Patience = field(default_factory=Patience)

    def list_files(self, repository: str, revision: str | None) -> Listing:
        from modelscope_hub import HubApi  # noqa: PLC0415  # as above

        api = HubApi(endpoint=_mirror("MODELSCOPE_ENDPOINT"))
        with _explained_modelscope(repository, revision, None):
            found = self.patience.ask(
                lambda: api.list_repo_files(repository, "model", revision=revision), _refusal_of_modelscope
            )
        files = tuple(RemoteFile(each.path, each.size, each.sha256) for each in found if not each.is_dir)
        return Listing(revision or "master", files)

    def download(self, repository: str, revision: str, names: Sequence[str], folder: Path) -> None:
        from modelscope_hub.compat import snapshot_download  # noqa: PLC0415  # as above

        def bring() -> None:
            snapshot_download(
                repository,
                revision=revision,
                endpoint=_mirror("MODELSCOPE_ENDPOINT"),
                local_dir=str(folder),
                allow_patterns=[_literally(name) for name in names],
                max_workers=_WORKERS,
            )

        with _explained_modelscope(repository, revision, folder):
            self.patience.ask(bring, _refusal_of_modelscope)


def known(patience: Patience) -> Mapping[str, Hub]:
    """Both hubs by name, asked with so much patience."""
    return MappingProxyType({"huggingface": HuggingFace(patience), "modelscope": ModelScope(patience)})


HUBS = known(Patience())


def _mirror(variable: str) -> str | None:
    """The address that a hub is asked at, if it is not its own; the clients read this but once, at their import."""
    return os.environ.get(variable) or None


def _literally(name: str) -> str:
    """A name as a pattern that matches nothing else."""
    return name.replace("[", "[[]").replace("*", "[*]").replace("?", "[?]")


# ---- what they refuse ------------------------------------------------------------------------------------------------


def _refusal_of_hugging_face(error: Exception) -> Refusal | None:
    """What the hub said, where an error is its answer or a connection that broke; None for all else."""
    import httpx  # noqa: PLC0415  # as above
    from huggingface_hub import errors  # noqa: PLC0415  # as above

    for cause in _chain(error):
        if isinstance(cause, errors.HfHubHTTPError):
            headers = cause.response.headers
            words = headers.get("X-Error-Message") or cause.server_message or ""
            return Refusal(cause.response.status_code, pause(headers.get("Retry-After")), _short(words))
    broken = httpx.RemoteProtocolError | httpx.ReadError | httpx.ReadTimeout | ConnectionResetError
    return Refusal(None) if any(isinstance(cause, broken) for cause in _chain(error)) else None


def _token_of_hugging_face() -> str:
    """Where the token comes from that the hub is shown, in words; empty where there is none."""
    from huggingface_hub import get_token  # noqa: PLC0415  # as above

    for variable in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
        if os.environ.get(variable):
            return f"in {variable}"
    with suppress(Exception):  # a token that cannot be had is none
        return "that `hf auth login` left" if get_token() else ""
    return ""


def _refusal_of_modelscope(error: Exception) -> Refusal | None:
    """As above."""
    from modelscope_hub import errors  # noqa: PLC0415  # as above

    cause = _first_failure(error)
    match cause:
        case errors.RateLimitError():
            return Refusal(http.HTTPStatus.TOO_MANY_REQUESTS, cause.retry_after, _short(str(cause)))
        case errors.ServerError():
            return Refusal(cause.status_code or http.HTTPStatus.SERVICE_UNAVAILABLE, None, _short(str(cause)))
    return None


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
            told = _refusal_of_hugging_face(error)
            raise _denied(where, "hf auth login", told.words if told else "") from error
        if isinstance(error, errors.RevisionNotFoundError):
            raise _unknown_revision(where, revision) from error
        if (told := _refusal_of_hugging_face(error)) and told.status is not None:
            raise _refused(where, told, "hf auth login") from error
        if isinstance(error, errors.OfflineModeIsEnabled):
            raise ModelError(
                f"{where} may not be asked: HF_HUB_OFFLINE is set", hint="unset it, or take --offline"
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
        if isinstance(cause, errors.AuthenticationError) and os.environ.get("MODELSCOPE_API_TOKEN"):
            message = f"ModelScope does not take the token in MODELSCOPE_API_TOKEN: {_words(cause)}"
            raise ModelError(message, hint=_RENEW.format("modelscope login")) from error
        if isinstance(cause, errors.AuthenticationError | errors.PermissionDeniedError):
            raise _denied(where, "modelscope login", _words(cause)) from error
        if isinstance(cause, errors.NotExistError):
            absent = _refused(where, Refusal(http.HTTPStatus.NOT_FOUND), "modelscope login")
            raise (_unknown_revision(where, revision) if revision else absent) from error
        if isinstance(cause, errors.FileIntegrityError):
            raise ModelError(f"{where} gave a damaged file: {_words(cause)}", hint=_AGAIN) from error
        if (told := _refusal_of_modelscope(error)) and told.status is not None:
            raise _refused(where, told, "modelscope login") from error
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
    if any(isinstance(cause, ValueError) and "JSON" in type(cause).__name__ for cause in _chain(error)):
        message = f"{where} answered with something else than a hub's data: a proxy's or a network's page of its own?"
        return ModelError(message, hint="open any page in a browser here, and log in; or set HTTPS_PROXY, or --source")
    if folder is None:
        return ModelError(f"{where} cannot be reached: {_words(error)}", hint=_reach_hint())
    return ModelError(f"the download of {where} broke off: {_words(error)}", hint=_AGAIN)


def _refused(where: str, told: Refusal, login: str) -> ModelError:
    if told.status in (http.HTTPStatus.UNAUTHORIZED, http.HTTPStatus.FORBIDDEN):
        return _denied(where, login, told.words)
    words = _quoted(told.words)
    if told.status == http.HTTPStatus.NOT_FOUND:
        hint = "log in, if it is private; or ask the other hub: --source"
        return ModelError(f"{where} is not there (404){words}", hint=hint)
    hint = _AGAIN
    if told.pause_s:
        hint = f"wait {told.pause_s:.0f} s, as it asks, and run the same command again; or ask the other hub: --source"
    return ModelError(f"{where} cannot be had: the server answered {told.status}{words}", hint=hint)


def _denied(where: str, login: str, words: str = "") -> ModelError:
    hint = f"accept its conditions on its page, then log in here: {login}"
    return ModelError(f"{where} is not open to this user, or is not there{_quoted(words)}", hint=hint)


def _quoted(words: str) -> str:
    """What a server said, behind what we say; nothing where it said nothing."""
    return f': "{words}"' if words else ""


def _unknown_revision(where: str, revision: str | None) -> ModelError:
    return ModelError(f"{where} has no revision {revision}", hint="look for one on its page, under history")


def _reach_hint() -> str:
    return "check the network; name a mirror by HF_ENDPOINT or MODELSCOPE_ENDPOINT; ask the other hub: --source"


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _words(error: BaseException) -> str:
    """The first line of an error, without what could be long or private."""
    return _short(folders.hidden(str(error))) or type(error).__name__


def _short(text: str) -> str:
    """The first line of what a server said, as it can be shown."""
    return shorten(text.strip().partition("\n")[0], _SHOWN_CHARACTERS)
