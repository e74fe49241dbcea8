"""Intervals and paired tests of held-out predictions.

Shapes: R seeds (runs of one arm), S images, N classes, G groups, C cells (sets of images), D resamples, U patterns.

Statistics, and why these:

- **Several seeds.** Every metric is taken for each run and averaged over the runs: it is what one run may be expected
  to give. The same image in R runs is one image: no interval or test counts it R times.
- **Interval of a metric or difference**: the basic bootstrap (2θ - quantiles; Davison & Hinkley 1997, section 5.2): the
  lowest of many accuracies is biased down, in a resample once more, so that percentiles would miss. Resampled are the
  images, shared by all runs and arms, and independently the runs; the deviations of both are added (the crossed
  bootstrap of Owen 2007, in an additive form). A handful of resampled runs shows too little spread (Hesterberg 2015):
  theirs is multiplied by √(R/(R-1)), and the whole by t/z with Satterthwaite's degrees of freedom. Two runs say so
  little of their spread that theirs takes t with one. One run shows no spread at all: its interval is about the images
  only. Simulated coverage of an accuracy is 92-97% for 3 and 5 runs, 96-99% for two.
  Of the lowest of ten equally good classes it is 75-93%, the worst case: there the lowest is chance, look at the cells.
- **Interval of one class or group**: Wilson's score interval (Wilson 1927) with the images as trials. It keeps close to
  its level for small groups and at 0 and 100% (Brown, Cai & DasGupta 2001), where the bootstrap has no width and
  Clopper-Pearson is too wide; and unlike that it is defined for a mean over seeds, which is no whole number of images.
- **Paired test.** One run: McNemar's exact test. Several: each image's difference, summed over the runs, gets a random
  sign (Fisher's randomisation test); the distribution of the total is computed exactly, not drawn. With one run this
  IS McNemar's exact test. Other metrics than accuracy are no sum over images; for them the two arms' predictions are
  swapped image by image at random, p = (1 + as extreme) / (1 + draws) (Phipson & Smyth 2010).
- **Small cells.** Of a handful of images that all agree a bootstrap knows no other answer, and in many resamples a
  small group has no image at all. Where a cell has fewer than 30 images, every cell is given what Agresti and Coull
  (1998) and, for pairs, Agresti and Min (2005) add: two images more, one for and one against; of pairs half an image
  of each of the four outcomes. Centre and standard error are those of the images so completed, the interval is as wide
  as theirs; the value stays the images'.
- **Verdict.** `improved` needs all comparisons to say so, each at 95%, which needs no correction (intersection-union,
  Berger 1982); `harmed` needs one of them, which does (Bonferroni). The test is about the images, the interval about
  images and runs, and both must agree.
"""

from __future__ import annotations

import numpy as np
import scipy

from modeldoctor.evaluate.metrics import HeldOut, Patterns, Rule, by_run
from modeldoctor.results.diagnosis import Bools, Floats, Ints
from modeldoctor.results.trial import Estimate, McNemar

LEVEL = 0.95
_SMALL = 30
"""Images; of the rules of thumb for when the normal law serves the usual one."""
UNDEFINED = Estimate(value=np.nan, low=np.nan, high=np.nan)


def wilson(hits: float, images: int, level: float = LEVEL) -> Estimate:
    """Wilson's score interval of a share, by default at 95%; NaN without images.

    Args:
        hits: right images; a mean over seeds need not be whole.
        images: the trials.
        level: of confidence.
    """
    if not images:
        return UNDEFINED
    share, z = hits / images, float(scipy.special.ndtri(0.5 + level / 2))
    centre = (share + z**2 / (2 * images)) / (1 + z**2 / images)
    half = z / (1 + z**2 / images) * np.sqrt(share * (1 - share) / images + z**2 / (4 * images**2))
    return Estimate(value=share, low=max(0.0, min(share, centre - half)), high=min(1.0, max(share, centre + half)))


def estimate(right: Bools, rule: Rule, held_out: HeldOut, resamples: int, seed: int) -> Estimate:
    """A metric's mean over the runs and its interval within [0, 1].

    Args:
        right: (R,S).
        rule: the metric.
        held_out: the images.
        resamples: D.
        seed: of the resampling.
    """
    found = _interval(right, None, rule, held_out, resamples, seed)
    if found.value in (0, 1):
        # All right or all wrong: a resample knows no other answer, Wilson's interval does.
        smallest = int(np.unique(rule.cells(held_out), return_counts=True)[1].min())
        return wilson(found.value * smallest, smallest)
    low, high = np.clip([found.low, found.high], 0, 1)
    return Estimate(value=found.value, low=float(low), high=float(high))


def difference(right: Bools, baseline: Bools, rule: Rule, held_out: HeldOut, resamples: int, seed: int) -> Estimate:
    """As `estimate`, of an arm's metric less the baseline's: runs paired by row, both (R,S)."""
    found = _interval(right, baseline, rule, held_out, resamples, seed)
    low, high = np.clip([found.low, found.high], -1, 1)
    return Estimate(value=found.value, low=float(low), high=float(high))


def _interval(
    right: Bools, baseline: Bools | None, rule: Rule, held_out: HeldOut, resamples: int, seed: int
) -> Estimate:
    by_seed = by_run(right, rule, held_out)
    if baseline is not None:
        by_seed = by_seed - by_run(baseline, rule, held_out)
    value = float(by_seed.mean())
    if np.isnan(value):
        return UNDEFINED
    small = bool(np.unique(rule.cells(held_out), return_counts=True)[1].min() < _SMALL)
    centre, resampled = _resampled_images(right, baseline, rule, held_out, resamples, seed, completed=small)
    deviations = _with_runs(resampled - centre, by_seed, seed)
    tail = 0.5 + LEVEL / 2
    if small:  # quantiles would be steps
        half = float(np.std(deviations) * scipy.special.ndtri(tail))
        low, high = centre - half, centre + half
    else:
        low, high = value - np.quantile(deviations, [tail, 1 - tail])
    # Where resamples hardly differ, rounding would put the value outside.
    return Estimate(value=value, low=min(float(low), value), high=max(float(high), value))


def _with_runs(of_images: Floats, by_seed: Floats, seed: int) -> Floats:
    """(D,), the images' deviations and those of the R runs, as wide as Student's t asks for."""
    of_runs, runs = _resampled_runs(by_seed, len(of_images), seed), len(by_seed)
    spread = np.var(by_seed, ddof=1) / runs if runs > 1 else 0.0

    def wider(freedom: float) -> float:
        return float(scipy.stats.t.ppf(0.5 + LEVEL / 2, freedom) / scipy.special.ndtri(0.5 + LEVEL / 2))

    if runs == 2:
        return of_images + of_runs * wider(1)
    freedom = (of_images.var() + spread) ** 2 * (runs - 1) / spread**2 if spread else np.inf
    return (of_images + of_runs) * wider(freedom)


def _resampled_images(
    right: Bools,
    baseline: Bools | None,
    rule: Rule,
    held_out: HeldOut,
    resamples: int,
    seed: int,
    *,
    completed: bool,
) -> tuple[float, Floats]:
    """The mean over the runs, less the baseline's: of the images, or of what completes them; and (D,) of resamples of
    these, but for those in which no image counts."""
    runs = right if baseline is None else np.vstack([right, baseline])
    sign = np.ones(len(runs)) / len(right)
    sign[len(right) :] *= -1
    cells = rule.cells(held_out)
    patterns = _completed(cells, runs, len(right)) if completed else Patterns.of(cells, runs)

    def means(images: Floats | Ints) -> Floats:
        """Of (D,U) images of each pattern."""
        of_run = [patterns.metric(images * row, images, rule, held_out) for row in patterns.right]
        return np.asarray(sign @ np.stack(of_run))

    generator, size = np.random.default_rng([seed, 0]), patterns.size.sum()
    resampled = np.concatenate(
        [
            means(generator.multinomial(round(float(size)), patterns.size / size, size=chunk))
            for chunk in patterns.chunks(resamples)
        ]
    )
    return float(means(patterns.size[None])[0]), resampled[~np.isnan(resampled)]


def _completed(cells: Ints, runs: Bools, arms_runs: int) -> Patterns:
    """The images (A,S) and two more for each cell; the first `arms_runs` runs are one arm's."""
    found = np.unique(cells)
    of_arm = np.arange(len(runs)) < arms_runs
    added = np.array([np.where(of_arm, first, second) for first in (True, False) for second in (True, False)]).T
    everywhere, weights = np.tile(added, len(found)), np.ones(len(cells))
    return Patterns.of(
        np.concatenate([cells, np.repeat(found, 4)]),
        np.hstack([runs, everywhere]),
        np.concatenate([weights, np.full(4 * len(found), 0.5)]),
    )


def _resampled_runs(by_seed: Floats, resamples: int, seed: int) -> Floats:
    """(D,), how far the mean of resampled runs lies from the mean of all, at the spread that R runs have."""
    runs = len(by_seed)
    if runs == 1:
        return np.zeros(resamples)
    drawn = np.random.default_rng([seed, 1]).integers(runs, size=(resamples, runs))
    return np.asarray(np.sqrt(runs / (runs - 1)) * (by_seed[drawn].mean(axis=1) - by_seed.mean()))


def mcnemar(seed: int, right: Bools, baseline: Bools) -> McNemar:
    """McNemar's exact test: two-sided binomial on the discordant images (S,); p = 1 if there are none."""
    wins, losses = int((right & ~baseline).sum()), int((~right & baseline).sum())
    p_value = float(scipy.stats.binomtest(wins, wins + losses).pvalue) if wins + losses else 1.0
    return McNemar(seed=seed, wins=wins, losses=losses, p_value=p_value)


def sign_flip(right: Bools, baseline: Bools) -> float:
    """Two-sided p-value of the exact randomisation test over images, all runs pooled.

    Under the null hypothesis an image's summed difference d is as likely -d. The total's distribution is the
    convolution of one scaled binomial for each size of |d|.

    Args:
        right: (R,S).
        baseline: (R,S); with R = 1 this is McNemar's exact test.
    """
    difference = right.sum(axis=0) - baseline.sum(axis=0)
    total = np.ones(1)
    for size, images in enumerate(np.bincount(np.abs(difference))):
        if size and images:
            spaced = np.zeros(size * images + 1)
            spaced[::size] = scipy.stats.binom.pmf(np.arange(images + 1), images, 0.5)
            total = scipy.signal.convolve(total, spaced)
    reachable = 2 * np.arange(len(total)) - (len(total) - 1)
    return float(np.clip(total[np.abs(reachable) >= abs(difference.sum())].sum(), 0, 1))


def swap(
    right: Bools, baseline: Bools, value: float, rule: Rule, held_out: HeldOut, resamples: int, seed: int
) -> float:
    """Two-sided p-value of the permutation test that swaps the arms image by image."""
    if np.isnan(value):
        return 1.0
    patterns = Patterns.of(rule.cells(held_out), np.vstack([right, baseline]))
    generator = np.random.default_rng([seed, 2])
    extreme = 0
    pairs = list(zip(patterns.right[: len(right)], patterns.right[len(right) :], strict=True))
    for chunk in patterns.chunks(resamples):
        swapped = generator.binomial(patterns.size.astype(np.int64), 0.5, size=(chunk, len(patterns.size)))
        stay, all_ = patterns.size - swapped, patterns.size[None]
        differences = [
            patterns.metric(stay * a + swapped * b, all_, rule, held_out)
            - patterns.metric(stay * b + swapped * a, all_, rule, held_out)
            for a, b in pairs
        ]
        extreme += int((np.abs(np.mean(differences, axis=0)) >= abs(value) - 1e-12).sum())
    return (1 + extreme) / (1 + resamples)
