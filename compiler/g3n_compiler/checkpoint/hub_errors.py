"""What the hub's client meets, in words of ours: what was found, and what to do."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from typing import cast

from g3n_compiler.checkpoint.hub_id import HubId
from g3n_compiler.errors import CheckpointError, DiskError, HubError, OutOfReach

ELSEWHERE = "or download it elsewhere and pass its folder (--checkpoint DIR)"
MOST_SHOWN = 200


@contextmanager
def explained(named: HubId, file: str | None = None) -> Iterator[None]:
    """Turn what the client raises into an error that says what to do.

    Args:
        file: what is being fetched, if it is one file.
    """
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    # The transport's own, of whichever library and version the client has.
    transport = cast(type[Exception], HfHubHTTPError.__mro__[1])
    try:
        yield
    except HfHubHTTPError as error:
        raise _answered(named, error) from None
    except LocalEntryNotFoundError as error:
        cause = error.__cause__
        if isinstance(cause, HfHubHTTPError):
            raise _answered(named, cause) from None
        raise _no_network(named, file, cause or error) from None
    except HFValidationError as error:
        raise CheckpointError(f"{named} is not the name of a repository on the hub ({_first_line(error)})") from None
    except transport as error:
        raise _no_network(named, file, error) from None
    except RuntimeError as error:  # of the client's native part
        raise _no_network(named, file, error) from None
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            from huggingface_hub import constants

            raise DiskError(
                f"no space left in {constants.HF_HUB_CACHE} while fetching {named}: free some, or set HF_HOME to a "
                "folder on a larger disk. Files that were complete are kept"
            ) from None
        if error.errno is not None:
            raise
        raise _no_network(named, file, error) from None


def _answered(named: HubId, error: Exception) -> HubError:
    """The error for an answer of the hub that is no success."""
    from huggingface_hub import get_token
    from huggingface_hub.errors import (
        DisabledRepoError,
        EntryNotFoundError,
        GatedRepoError,
        HfHubHTTPError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    assert isinstance(error, HfHubHTTPError)
    status, known = error.response.status_code, get_token() is not None
    if isinstance(error, GatedRepoError):
        login = "with the account that you are logged in with" if known else "and log in with `hf auth login`"
        return OutOfReach(
            f"{named.repo} is gated and this machine has no access: accept its licence on the model's page on the hub "
            f"{login}, {ELSEWHERE}"
        )
    if isinstance(error, RevisionNotFoundError):
        return HubError(
            f"{named.repo} has no revision {named.revision or 'main'!r}: name a branch, a tag or a whole commit hash"
        )
    if isinstance(error, DisabledRepoError):
        return OutOfReach(f"the hub has disabled {named.repo}: no one can download it, {ELSEWHERE}")
    if isinstance(error, EntryNotFoundError):
        return HubError(f"the hub lists a file of {named} that it does not have: run the command again")
    # It also answers 401 for what is not there, so that nobody learns the names of private repositories.
    if isinstance(error, RepositoryNotFoundError) or (status == 401 and not known):
        login = (
            "or the account that you are logged in with may not see it"
            if known
            else "or it is private and you are not logged in (hf auth login)"
        )
        return OutOfReach(f"the hub has no {named.repo}, and there is no folder of that name: it is misspelt, {login}")
    if status == 401:
        return OutOfReach("the hub refused your login, which is wrong or expired: log in again with `hf auth login`")
    if status == 403:
        return OutOfReach(
            f"your login may not read {named.repo}: give its token the permission to read gated repositories, "
            f"{ELSEWHERE}"
        )
    if status == 429:
        wait = error.response.headers.get("Retry-After", "")
        when = f"in {wait} seconds" if wait.isdigit() else "in some minutes"
        login = "" if known else ", or log in with `hf auth login`, which allows more"
        return OutOfReach(f"the hub gets too many requests from here (429): try again {when}{login}")
    if status >= 500:
        return OutOfReach(
            f"the hub fails at the moment ({status}) and {named} cannot be fetched: run the same command again later"
        )
    return HubError(f"the hub refuses {named} ({status}: {_first_line(error)})")


def _no_network(named: HubId, file: str | None, error: BaseException) -> HubError:
    if file is None:
        return OutOfReach(
            f"the hub cannot be reached for {named} ({_first_line(error)}): check the network and its proxy settings, "
            f"{ELSEWHERE}"
        )
    return HubError(
        f"the connection broke while fetching {file} of {named} ({_first_line(error)}): run the same command again; "
        "files that were complete are kept"
    )


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0][:MOST_SHOWN] if lines else type(error).__name__
