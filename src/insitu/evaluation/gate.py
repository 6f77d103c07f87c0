"""The gate: may this adapter become champion? From measurements alone; loads no model library.

Candidate and champion were asked for the same pictures with the same seeds, so their scores are
paired: differences are resampled case by case, then seed by seed (`comparison`). Passing means not
to be inferior by more than a margin, with the whole interval (non-inferiority; Piaggio et al.
2012).
"""

from collections.abc import Mapping
from dataclasses import dataclass

from insitu.errors import UserError
from insitu.evaluation.checkpoints import Figure
from insitu.evaluation.comparison import compare
from insitu.evaluation.measurement import Measured, Measurement
from insitu.registry.store import CHAMPION, Entry, Store
from insitu.registry.verdict import Verdict


class NotMeasured(UserError):
    """A version, `entry`, has no measurement that could be compared."""

    def __init__(self, entry: Entry, given: str, why: str, todo: str) -> None:
        super().__init__(given, why, todo)
        self.entry = entry


@dataclass(frozen=True, kw_only=True)
class Rule:
    """What is asked of one metric.

    Attributes:
        gain: it must be better than the base's by more than this, with the whole 95% interval of
            the difference; None = not compared.
        margin: it may be worse than the champion's by at most this, with the whole interval; None
            = not compared.
    """

    gain: float | None
    margin: float | None


def decide(
    candidate: Measurement, champion: Measurement | None, rules: Mapping[str, Rule]
) -> Verdict:
    """Judge a candidate, against its base and the champion that it would replace, if there is one.

    Raises:
        UserError: a metric was not measured, or the two not on the same benchmark; what was not
            measured is not a pass.
    """
    if champion is not None and champion.digest != candidate.digest:
        raise UserError(
            "A candidate was to be compared with the champion.",
            f"They were measured on other benchmarks, {candidate.digest[:12]} and"
            f" {champion.digest[:12]}.",
            "Measure both on today's: insitu registry measure NAME VERSION.",
        )
    checks = []
    for metric, rule in rules.items():
        own = _measured(candidate, metric)
        if rule.gain is not None:
            found = compare(own.values("adapter"), own.values("base")).difference
            said = f"{metric} better than the base's by {found}, asked: more than {rule.gain:g}"
            checks.append((found.low > rule.gain, f"{said} with the whole interval"))
        if rule.margin is not None and champion is not None:
            theirs = _measured(champion, metric).values("adapter")
            found = compare(own.values("adapter"), theirs).difference
            checks.append((found.low >= -rule.margin, _against(metric, found, rule.margin)))
    return Verdict(
        passed=all(passed for passed, _ in checks),
        reasons=tuple(f"{'met' if passed else 'not met'}: {text}" for passed, text in checks),
    )


def ask(store: Store, name: str, version: str, rules: Mapping[str, Rule]) -> Verdict:
    """Judge a registered version, and keep the verdict on it; with its package whole, it passes.

    Raises:
        UserError: there is no such version, its package or signature is not in order, or it or the
            champion was not measured.
    """
    entry = store.entry(name, version)
    champion = store.champion(name)
    if champion is not None and champion.version == entry.version:
        return Verdict(passed=True, reasons=("it is the champion already",))
    store.check(entry)
    candidate = measurement(store, entry)
    theirs = None if champion is None else measurement(store, champion, candidate.digest)
    verdict = decide(candidate, theirs, rules)
    store.keep_verdict(entry, verdict)
    return verdict


def promote(store: Store, name: str, version: str, rules: Mapping[str, Rule]) -> Verdict:
    """Make a version champion if the gate lets it. Raises as `ask`."""
    verdict = ask(store, name, version, rules)
    if verdict.passed:
        store.crown(name, version)
    return verdict


def measurement(store: Store, entry: Entry, benchmark: str | None = None) -> Measurement:
    """What is kept of a version, of its last benchmark or the one of a digest.

    Raises:
        NotMeasured: it was not measured on it.
    """
    wanted = benchmark or entry.benchmark
    text = store.measurement(entry, wanted) if wanted else None
    if text is None:
        what = "the champion's benchmark" if CHAMPION in entry.aliases else "a benchmark"
        raise NotMeasured(
            entry,
            f"{entry.name}, version {entry.version} was to pass the gate, or to be compared there.",
            f"It was not measured on {f'the benchmark {wanted[:12]}' if wanted else what}, and what"
            " was not measured cannot be compared.",
            f"Measure it: insitu registry measure {entry.name} {entry.version}.",
        )
    return Measurement.read(text, f"of {entry.name}, version {entry.version}")


def _measured(found: Measurement, metric: str) -> Measured:
    if metric not in found.metrics:
        raise UserError(
            f"The gate asks for {metric}.",
            f"It was not measured; there are: {', '.join(sorted(found.metrics))}.",
            "Correct `registry.gate` in params.yaml, or measure it.",
        )
    return found.metrics[metric]


def _against(metric: str, found: Figure, margin: float) -> str:
    """A difference from the champion in words; more is better."""
    if found.low >= -margin:
        how = "no worse"
    elif found.high < -margin:
        how = "worse"
    else:
        how = "not surely as good: more scenes or seeds would tell"
    return f"{metric} {found} of the champion's, asked: not below -{margin:g} ({how})"
