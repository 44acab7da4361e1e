"""`ssb push`: a student, or what a run has made, to the hub: private unless said otherwise, and only after asking.

A student goes as one of its exports, into a repository of models; pairs, targets and rollouts (`data_set`) go into one
of data sets, or into a folder.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

from ..errors import UserError
from ..io.progress import hush
from ..io.terminal import tell, visible
from ..pipeline.students import finished
from ..run import manifests
from ..run.rundir import RunDir
from .data_set import Content, files_of, write
from .export import export, key


def main(arguments: argparse.Namespace) -> int:
    hush()
    folder, what, repo_id, to = arguments.folder, arguments.what, arguments.repo_id, arguments.to
    if (repo_id is None) == (to is None):
        raise UserError("Where to? Give the name of a repository (user/name), or a folder by --to; one of the two.")
    if what == "adapter":
        if to is not None:
            raise UserError("--to: is for pairs, targets and rollouts; `ssb export RUN --out DIR` writes a student.")
        tell(push(folder, repo_id, arguments.format, arguments.public, arguments.yes))
    elif arguments.format is not None:
        raise UserError(f"--format: is a student's; leave it out with --what {what}.")
    elif to is not None:
        tell(str(write(folder, what, to)))
    else:
        tell(push_data_set(folder, repo_id, what, arguments.public, arguments.yes))
    return 0


def format_of(folder: Path) -> str:
    """The export that is pushed unless another is named: what was trained."""
    return "merged" if finished(folder).adapter is None else "adapter"


def pushable(folder: Path, format_: str) -> list[Path]:
    """The files to upload: of an export that is there, or where there is none of this training, of a new one.

    Raises:
        UserError: one of them has been changed since the export.
    """
    exported = RunDir(folder / "export")
    if not exported.is_fresh(format_, key(finished(folder))[0]):
        export(folder, [format_])
    exported.check(format_)
    return [path for path in manifests.files_in(exported.stage(format_)) if path.name != manifests.NAME]


def push(folder: Path, repo_id: str, format_: str | None, public: bool, yes: bool) -> str:
    """Upload one exported format (exported first if it is not there) to the hub. Returns the repository's address.

    `format_` None: the adapter, or the whole model where all its weights were trained.

    Raises:
        UserError: as `_upload`; or there is nothing to export.
    """

    def files() -> Mapping[str, Content]:
        name = format_ or format_of(folder)
        source = folder / "export" / name
        return {path.relative_to(source).as_posix(): path for path in pushable(folder, name)}

    return _upload(files, folder, repo_id, "model", "Student", public, yes)


def push_data_set(folder: Path, repo_id: str, what: str, public: bool, yes: bool) -> str:
    """Upload pairs, targets or rollouts of a run as a data set. Returns its address. Files go from where they lie.

    Raises:
        UserError: as `_upload` and `files_of`.
    """
    return _upload(partial(files_of, folder, what, repo_id), folder, repo_id, "dataset", what.capitalize(), public, yes)


def _upload(
    made: Callable[[], Mapping[str, Content]],
    folder: Path,
    repo_id: str,
    kind: str,
    title: str,
    public: bool,
    yes: bool,
) -> str:
    """One commit of these files, by their names in the repository. `made`: gives them, when name and token are there.

    Private unless `public`; asks on the terminal unless `yes`.

    Raises:
        UserError: no token, no network, no permission, or nobody to ask. No message holds the token.
    """
    from huggingface_hub import CommitOperationAdd, HfApi, constants, get_token

    if not re.fullmatch(r"[\w-]+/[\w.-]+", repo_id, re.ASCII):
        raise UserError(f"{repo_id!r} is no name of a hub repository; expected one such as user/my-model.")
    if constants.HF_HUB_OFFLINE:
        raise UserError("HF_HUB_OFFLINE is set, so nothing can be uploaded; unset it first.")
    token = get_token()
    if token is None:
        raise UserError("The hub wants a token and there is none: run `hf auth login`, or set HF_TOKEN.")
    files = made()
    size = sum(one.stat().st_size if isinstance(one, Path) else len(one) for one in files.values()) / 1e6
    seen = "PUBLIC, for everybody to see" if public else "private"
    what = f"{len(files)} files, {size:,.1f} MB, of {folder} to {repo_id}, {seen}"
    if not yes:
        if not sys.stdin.isatty():
            raise UserError(f"Would upload {what}: say --yes, since there is nobody at the terminal to ask.")
        if input(visible(f"Upload {what}? [y/N] ")).strip().lower() not in ("y", "yes"):
            raise UserError("Nothing was uploaded.")
    api = HfApi(token=token)
    try:
        address = api.create_repo(repo_id, private=not public, exist_ok=True, repo_type=kind)
        if not public and not api.repo_info(address.repo_id, repo_type=kind).private:
            raise UserError(f"{repo_id} is there already and is public: say --public, or take another name.")
        api.create_commit(
            repo_id=address.repo_id,
            repo_type=kind,
            operations=[CommitOperationAdd(name, one) for name, one in files.items()],
            commit_message=f"{title} of run {folder.name}, by ssb_unsloth",
        )
    except UserError:
        raise
    except Exception as error:  # the client's own, its transport's, and those of the network below
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise UserError(f"The hub did not take {repo_id}: {first.replace(token, '(token)')}") from None
    return str(address)
