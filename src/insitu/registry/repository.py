"""A project in git and DVC, asked through their own commands: commits, tags, what is stale."""

import json
import re
import shlex
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from insitu.errors import UserError
from insitu.registry.dvc_lock import LOCK, Stage, parse, read, written

HEADS, TAGS = "refs/heads/", "refs/tags/"
GC = "dvc gc --all-branches --all-tags"
"""What `holders` speaks of. It also keeps what the working tree's dvc.lock names."""


class Repository:
    """The folder of a dvc.yaml, in a git repository."""

    def __init__(self, root: Path) -> None:
        """Open it.

        Raises:
            UserError: git or a commit is missing.
        """
        self.root = root.resolve()
        self.commit("HEAD")

    def lock(self, rev: str | None = None) -> Mapping[str, Stage]:
        """The stages of dvc.lock at a revision, or in the working tree; none if it has none."""
        return read(self.root) if rev is None else parse(self._lock_text(rev))

    def commit(self, rev: str) -> str:
        """The commit of a revision, 40 hex digits.

        Raises:
            UserError: there is no such revision.
        """
        return self.git(
            "rev-parse", "--verify", "--quiet", f"{rev}^{{commit}}",
            todo=f"Run from the repository's root, with {rev} committed.",
        )  # fmt: skip

    def tags(self, prefix: str) -> list[str]:
        """The names of the tags that begin so, as git sorts versions."""
        said = self.git(
            "for-each-ref", "--sort=version:refname", "--format=%(refname)", f"{TAGS}{prefix}"
        )
        return [line.removeprefix(TAGS) for line in said.splitlines()]

    def add_tag(self, name: str, commit: str, message: str) -> None:
        """Make an annotated tag.

        Raises:
            UserError: git refuses.
        """
        self.git("tag", "--annotate", name, commit, "--message", message)

    def holders(self, path: str, md5: str) -> list[str]:
        """The tags and branches whose dvc.lock holds this hash for a path, tags first.

        `dvc gc --all-branches --all-tags` keeps what these hold; older commits of a branch do not
        count for it, nor do branches of remotes.
        """
        refs = self.git("for-each-ref", "--format=%(refname)", TAGS, HEADS).splitlines()
        found = [ref for ref in refs if self._holds(ref, path, md5)]
        short = [ref.removeprefix(TAGS).removeprefix(HEADS) for ref in found]
        return sorted(short, key=lambda name: f"{TAGS}{name}" not in found)

    def commit_with(self, path: str, md5: str) -> str | None:
        """The newest commit that brought this hash of a path, on any branch or tag."""
        commits = self.git("log", "--all", "--format=%H", f"-S{md5}", "--", LOCK).splitlines()
        return next((commit for commit in commits if self._holds(commit, path, md5)), None)

    def uncommitted(self, *paths: str) -> list[str]:
        """Which of these files differ from the last commit, or are in none."""
        said = self.git("status", "--porcelain", "--untracked-files=all", "--", *paths)
        return [line[2:].strip() for line in said.splitlines()]

    def changed(self, stage: str) -> list[str]:
        """What DVC finds changed about a stage since it was recorded, in words; none if clean."""
        said = self._run(
            [sys.executable, "-m", "dvc", "status", "--json", stage],
            "Wait for what else runs DVC here, or see `dvc doctor`.",
        )
        stages: dict[str, list[Any]] = json.loads(said or "{}")
        return [words for own in stages.values() for change in own for words in _in_words(change)]

    def get_command(self, path: str, rev: str) -> str:
        """The command that fetches a path as it was at a revision, from anywhere."""
        inside = self.git("rev-parse", "--show-prefix") + path
        return f"dvc get {shlex.quote(self.address())} {shlex.quote(inside)} --rev {rev}"

    def address(self) -> str:
        """Where others reach the repository: its remote `origin`, else its folder."""
        return self.origin() or self.git("rev-parse", "--show-toplevel")

    def origin(self) -> str | None:
        """The address of the remote `origin`, without a name or password that stands in it."""
        if "origin" not in self.git("remote").split():
            return None
        return re.sub(r"(?<=://)[^/@]*@", "", self.git("remote", "get-url", "origin"))

    def git(self, *arguments: str, todo: str = "Mend that, and try again.") -> str:
        """What git answers."""
        return self._run(["git", *arguments], todo)

    def _run(self, command: list[str], todo: str) -> str:
        try:
            done = subprocess.run(command, cwd=self.root, capture_output=True, text=True)
        except OSError as error:
            why = str(error.strerror)
        else:
            if done.returncode == 0:
                return done.stdout.rstrip("\n")
            said = done.stderr.strip().splitlines() or ["it says no more"]
            why = said[0].removeprefix("ERROR: ").removeprefix("fatal: ")
        shown = " ".join(command).replace(f"{sys.executable} -m ", "")
        raise UserError(f"`{shown}` was run in {self.root}.", f"It failed: {why}.", todo)

    def _lock_text(self, rev: str) -> str:
        done = subprocess.run(
            ["git", "show", f"{rev}:./{LOCK}"], cwd=self.root, capture_output=True, text=True
        )
        return done.stdout if done.returncode == 0 else ""

    def _holds(self, rev: str, path: str, md5: str) -> bool:
        text = self._lock_text(rev)
        # Most do not even name it, and parsing takes a second where there are many stages.
        return md5 in text and written(parse(text)).get(path) == md5


def _in_words(change: Any) -> list[str]:
    if isinstance(change, str):
        return [change]
    return [
        f"{path} ({kind if isinstance(kind, str) else 'changed'})"
        for paths in change.values()
        for path, kind in paths.items()
    ]
