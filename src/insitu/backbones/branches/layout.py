"""Which branches there are, and who sees whom; what follows from that, worked out once."""

import functools
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

Spans = Mapping[str, tuple[slice, ...]]
Sees = Mapping[str, Mapping[str, Tensor | None]]
"""By branch: the branches that it attends to, each wholly (None) or through a token mask, bool
[B, queries or 1, keys or 1], true = sees."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Branch:
    """A run of tokens.

    Attributes:
        name: unlike any other in the layout.
        ids: position ids (type, row, column), [N, 3] or [B, N, 3].
        space: what its tokens are given in: `text` = the text encoder's features, `latent` = packed
            latents, `model` = the transformer's own width. Text has its own weights in the
            double-stream blocks; all else has the image's.
        adapters: that act on it, by name.
        clean: it is modulated as at timestep 0 with guidance 1, not as at the present step.
        shifted: its modulation is moved by `Inputs.offsets[name]`.
        present: bool [B, N], false for padding, which nobody sees; None = all are.
    """

    name: str
    ids: Tensor
    space: Literal["text", "latent", "model"] = "latent"
    adapters: tuple[str, ...] = ()
    clean: bool = False
    shifted: bool = False
    present: Tensor | None = None

    @property
    def length(self) -> int:
        return self.ids.shape[-2]

    @property
    def kind(self) -> tuple[bool, str | None, tuple[str, ...]]:
        """Branches with equal kinds have equal modulations."""
        return self.clean, self.name if self.shifted else None, self.adapters


@dataclass(frozen=True, kw_only=True, eq=False)
class View:
    """Queries that attend to the same keys, as spans of tokens: one call of attention.

    Attributes:
        mask: bool [B, 1, queries, keys], true = attends; None = all to all.
    """

    queries: tuple[slice, ...]
    keys: tuple[slice, ...]
    mask: Tensor | None


class Stream:
    """Branches that the same weights work on, one after the other.

    Attributes:
        spans: of each branch, by name.
        acting: tokens that an adapter acts on, by its name.
        kinds: a branch of each kind of modulation, in the order of the modulations' rows.
        rows: the row of each kind.
        acting_on_rows: rows that an adapter acts on, by its name.
        runs: neighbouring tokens of one kind, with its row.
    """

    def __init__(self, branches: Sequence[Branch]) -> None:
        self.branches = tuple(branches)
        self.length = sum(branch.length for branch in branches)
        self.spans = spans(branches)
        self.acting = _acting([(branch.adapters, self.spans[branch.name]) for branch in branches])
        self.rows: dict[object, int] = {}
        self.kinds: list[Branch] = []
        self.runs: list[tuple[slice, int]] = []
        for branch in branches:
            if branch.kind not in self.rows:
                self.rows[branch.kind] = len(self.kinds)
                self.kinds.append(branch)
            row, span = self.rows[branch.kind], self.spans[branch.name]
            if self.runs and self.runs[-1][1] == row:
                self.runs[-1] = slice(self.runs[-1][0].start, span.stop), row
            else:
                self.runs.append((span, row))
        self.acting_on_rows = _acting(
            [(branch.adapters, slice(k, k + 1)) for k, branch in enumerate(self.kinds)]
        )


class Pass:
    """What one pass through the blocks computes: all branches, or those that change.

    Attributes:
        text, image, joint: streams of the double-stream blocks and of the single-stream ones.
        keys: what can be seen: the joint stream's branches, then those whose keys are kept.
        views: of the joint stream's queries; `last`: of the output's alone.
        output: the output's own stream; `span`, `row`: its tokens and its modulation in the joint
            one.
        rotary: cosines and sines of the joint stream's positions, once they are known.
    """

    def __init__(self, layout: "Layout", computed: Sequence[Branch], kept: Sequence[Branch]):
        text = [branch for branch in computed if branch.space == "text"]
        image = [branch for branch in computed if branch.space != "text"]
        self.text, self.image, self.joint = Stream(text), Stream(image), Stream([*text, *image])
        self.keys = (*self.joint.branches, *kept)
        self.views = layout.views(self.joint.branches, self.keys)
        output = layout[layout.output]
        self.output = Stream([output])
        self.span, self.row = self.joint.spans[output.name], self.joint.rows[output.kind]
        self.last = layout.views([output], self.keys)
        self.rotary: tuple[Tensor, Tensor] | None = None


class Layout:
    """Branches and who sees whom.

    Attributes:
        branches: text first.
        output: the branch whose velocity is asked for.
        frozen: names of those that see only what does not change: clean ones that see only such.
    """

    def __init__(
        self,
        branches: Iterable[Branch],
        sees: Mapping[str, Iterable[str] | Mapping[str, Tensor | None]],
        *,
        output: str = "image",
    ) -> None:
        given = list(branches)
        self.branches = tuple(sorted(given, key=lambda branch: branch.space != "text"))
        names = [branch.name for branch in self.branches]
        self.sees: Sees = {
            name: dict(seen) if isinstance(seen, Mapping) else dict.fromkeys(seen)
            for name, seen in sees.items()
        }
        self.output = output
        if len(set(names)) < len(names) or set(names) != self.sees.keys() or output not in names:
            raise ValueError(f"branches {names}, views of {[*self.sees]}, output {output}")
        if self.branches[0].space != "text" or self[output].space == "text":
            raise ValueError(f"of {names} none is text, or the output is")
        for name, seen in self.sees.items():
            if name not in seen or not seen.keys() <= set(names):
                raise ValueError(f"{name} sees {[*seen]}: not itself, or something unknown")
        self.frozen = self._frozen()

    def __getitem__(self, name: str) -> Branch:
        return next(branch for branch in self.branches if branch.name == name)

    @functools.cached_property
    def whole(self) -> Pass:
        """All branches are computed."""
        return Pass(self, self.branches, ())

    @functools.cached_property
    def live(self) -> Pass:
        """Frozen branches are known by their keys and values."""
        live = [branch for branch in self.branches if branch.name not in self.frozen]
        return Pass(self, live, self.kept)

    @functools.cached_property
    def kept(self) -> tuple[Branch, ...]:
        return tuple(branch for branch in self.branches if branch.name in self.frozen)

    def views(self, queries: Sequence[Branch], keys: Sequence[Branch]) -> tuple[View, ...]:
        """One view for all queries that see the same branches."""
        groups: dict[tuple[tuple[str, ...], bool], list[Branch]] = {}
        for query in queries:
            seen = [key for key in keys if key.name in self.sees[query.name]]
            through = any(
                key.present is not None or self.sees[query.name][key.name] is not None
                for key in seen
            )
            groups.setdefault((tuple(key.name for key in seen), through), []).append(query)
        of_queries, of_keys = spans(queries), spans(keys)
        return tuple(
            View(
                queries=_merged(of_queries[query.name] for query in group),
                keys=_merged(of_keys[name] for name in names),
                mask=self._mask(group, [self[name] for name in names]) if through else None,
            )
            for (names, through), group in groups.items()
        )

    def _mask(self, queries: Sequence[Branch], keys: Sequence[Branch]) -> Tensor:
        """Bool [B or 1, 1, queries, keys]; padding that sees nothing sees all, nobody sees it."""
        rows = []
        for query in queries:
            parts = []
            for key in keys:
                mask = self.sees[query.name][key.name]
                if mask is None:
                    mask = torch.ones(1, 1, 1, dtype=torch.bool, device=key.ids.device)
                if key.present is not None:
                    mask = mask & key.present[:, None]
                parts.append(mask.expand(-1, query.length, key.length))
            rows.append(_joined(parts, 2))
        mask = _joined(rows, 1)
        return (mask | ~mask.any(-1, keepdim=True))[:, None]

    def _frozen(self) -> frozenset[str]:
        frozen = {branch.name for branch in self.branches if branch.clean}
        while changing := {name for name in frozen if not self.sees[name].keys() <= frozen}:
            frozen -= changing
        return frozenset(frozen - {self.output})


def everything(names: Collection[str]) -> dict[str, Collection[str]]:
    """Each branch sees each."""
    return dict.fromkeys(names, names)


def spans(branches: Sequence[Branch]) -> dict[str, slice]:
    """Where each branch's tokens lie when all stand one after the other."""
    found, start = {}, 0
    for branch in branches:
        found[branch.name] = slice(start, start + branch.length)
        start += branch.length
    return found


def _joined(parts: Sequence[Tensor], dim: int) -> Tensor:
    """Masks side by side; those that hold for the whole batch are repeated where others do not."""
    batch = max(part.shape[0] for part in parts)
    return torch.cat([part.expand(batch, -1, -1) for part in parts], dim)


def _merged(found: Iterable[slice]) -> tuple[slice, ...]:
    merged: list[slice] = []
    for span in found:
        if merged and merged[-1].stop == span.start:
            merged[-1] = slice(merged[-1].start, span.stop)
        else:
            merged.append(span)
    return tuple(merged)


def _acting(found: Iterable[tuple[tuple[str, ...], slice]]) -> Spans:
    lists: dict[str, list[slice]] = {}
    for adapters, span in found:
        for adapter in adapters:
            lists.setdefault(adapter, []).append(span)
    return {adapter: _merged(spans) for adapter, spans in lists.items()}
