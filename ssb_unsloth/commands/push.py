"""`ssb push`: an export to the hub, private unless it is said otherwise, and only after asking."""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path

from ..errors import UserError
from ..io.progress import hush
from ..io.terminal import tell, visible
from ..pipeline.students import finished
from ..run import manifests
from ..run.rundir import RunDir
from .export import export, key


def main(arguments: argparse.Namespace) -> int:
    hush()
    tell(push(arguments.folder, arguments.repo_id, arguments.format, arguments.public, arguments.yes))
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

    Private unless `public`; asks on the terminal unless `yes`.

    Raises:
        UserError: no token, no network, no permission, or nobody to ask. No message holds the token.
    """
    from huggingface_hub import HfApi, constants, get_token

    if not re.fullmatch(r"[\w-]+/[\w.-]+", repo_id, re.ASCII):
        raise UserError(f"{repo_id!r} is no name of a hub repository; expected one such as user/my-model.")
    if constants.HF_HUB_OFFLINE:
        raise UserError("HF_HUB_OFFLINE is set, so nothing can be uploaded; unset it first.")
    token = get_token()
    if token is None:
        raise UserError("The hub wants a token and there is none: run `hf auth login`, or set HF_TOKEN.")
    format_ = format_ or format_of(folder)
    source, files = folder / "export" / format_, pushable(folder, format_)
    size = sum(path.stat().st_size for path in files) / 1e6
    seen = "PUBLIC, for everybody to see" if public else "private"
    what = f"{len(files)} files, {size:,.1f} MB, of {source} to {repo_id}, {seen}"
    if not yes:
        if not sys.stdin.isatty():
            raise UserError(f"Would upload {what}: say --yes, since there is nobody at the terminal to ask.")
        if input(visible(f"Upload {what}? [y/N] ")).strip().lower() not in ("y", "yes"):
            raise UserError("Nothing was uploaded.")
    api = HfApi(token=token)
    try:
        address = api.create_repo(repo_id, private=not public, exist_ok=True)
        if not public and not api.repo_info(address.repo_id).private:
            raise UserError(f"{repo_id} is there already and is public: say --public, or take another name.")
        api.upload_folder(
            repo_id=address.repo_id,
            folder_path=source,
            allow_patterns=[path.relative_to(source).as_posix() for path in files],
            commit_message=f"Student of run {folder.name}, by ssb_unsloth",
        )
    except UserError:
        raise
    except Exception as error:  # the client's own, its transport's, and those of the network below
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise UserError(f"The hub did not take {repo_id}: {first.replace(token, '(token)')}") from None
    return str(address)
