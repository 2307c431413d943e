//! Owns how a new version is judged by its answers, set against the old one's. What is not sure is not held against it:
//! of a share that was seen, the least that it may well be in truth counts (a 95 % Wilson interval's lower bound).
//! Must not know where the figures come from, nor what a verdict leads to.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::domain::duration;
use crate::domain::figures::{Figures, bucket, floor_micros};
use crate::domain::program::RollbackOn;

/// Answers of each side from which on the slowest hundredth says something; with fewer it is the slower half.
const P99_FROM: u64 = 500;
/// What is answered within this is never called slow.
const NEVER_SLOW_MICROS: u64 = 5_000;
/// Standard deviations of 95 %.
const Z: f64 = 1.96;

/// A judgement, with what it rests on.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
#[serde(tag = "verdict", rename_all = "snake_case")]
pub enum Verdict {
    Well {
        new: u64,
        old: u64,
    },
    /// Not judged: so many answers, in so much soak.
    TooFew {
        new: u64,
        old: u64,
        wanted: u64,
        #[serde(default)]
        soaked_ms: u64,
        /// None were counted: nobody told of them in time, or there was no old version.
        #[serde(default)]
        untold: bool,
    },
    Errors {
        errors: u64,
        new: u64,
        old_errors: u64,
        old: u64,
        allowed_ppm: u32,
    },
    /// So many of the new version's answers took longer than any time that is allowed to `percentile` of them.
    Slow {
        slower: u64,
        new: u64,
        limit_micros: u64,
        percentile: u8,
        old_micros: u64,
        old: u64,
    },
}

impl Verdict {
    pub fn is_bad(&self) -> bool {
        matches!(self, Self::Errors { .. } | Self::Slow { .. })
    }

    /// With how long the soak had lasted by then.
    pub(super) fn after(mut self, millis: u64) -> Self {
        if let Self::TooFew { soaked_ms, .. } = &mut self {
            *soaked_ms = millis;
        }
        self
    }
}

/// Judges the new version's figures by the old one's of the same time.
pub fn judge(limits: &RollbackOn, new: &Figures, old: &Figures) -> Verdict {
    let wanted = u64::from(limits.min_requests);
    if new.answers < wanted.max(1) || old.answers < wanted.max(1) {
        return Verdict::TooFew { new: new.answers, old: old.answers, wanted, soaked_ms: 0, untold: false };
    }
    errors(limits, new, old)
        .or_else(|| slow(limits, new, old))
        .unwrap_or(Verdict::Well { new: new.answers, old: old.answers })
}

fn errors(limits: &RollbackOn, new: &Figures, old: &Figures) -> Option<Verdict> {
    let old_rate = old.errors as f64 / old.answers as f64;
    let allowed = old_rate + f64::from(limits.error_rate_ppm) / 1e6;
    let (errors, allowed_ppm) = (new.errors, limits.error_rate_ppm);
    let bad = at_least(errors, new.answers) > allowed;
    bad.then_some(Verdict::Errors { errors, new: new.answers, old_errors: old.errors, old: old.answers, allowed_ppm })
}

/// The new version's percentile exceeds the old one's by the factor, if more of its answers than the percentile leaves
/// out are slower than that.
fn slow(limits: &RollbackOn, new: &Figures, old: &Figures) -> Option<Verdict> {
    let (timed, old_timed) = (new.timed(), old.timed());
    let least = u64::from(limits.min_requests).max(1);
    if limits.p99_factor_milli == 0 || timed < least || old_timed < least {
        return None;
    }
    let percentile: u8 = if timed >= P99_FROM && old_timed >= P99_FROM { 99 } else { 50 };
    let at = old.quantile(u64::from(percentile) * 10)?;
    // The longest time that the old one's percentile may have been.
    let old_micros = floor_micros(at.saturating_add(1));
    let limit = old_micros.saturating_mul(u64::from(limits.p99_factor_milli)) / 1_000;
    let limit_micros = limit.max(NEVER_SLOW_MICROS);
    let slower = new.slower_than(bucket(limit_micros));
    let left_out = 1.0 - f64::from(percentile) / 100.0;
    let bad = at_least(slower, timed) > left_out;
    bad.then_some(Verdict::Slow { slower, new: timed, limit_micros, percentile, old_micros, old: old_timed })
}

/// The least share that so many of so many may well stand for.
fn at_least(seen: u64, of: u64) -> f64 {
    let (share, of) = (seen as f64 / of as f64, of as f64);
    let z2 = Z * Z;
    let spread = Z * (share * (1.0 - share) / of + z2 / (4.0 * of * of)).sqrt();
    (share + z2 / (2.0 * of) - spread) / (1.0 + z2 / of)
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Well { new, old } => write!(f, "as well as the old version: {new} answers against {old}"),
            Self::TooFew { untold: true, soaked_ms, .. } => write!(
                f,
                "not judged: within {} of soak nothing was heard of answers to set against each other",
                lasted(*soaked_ms)
            ),
            Self::TooFew { new: 0, soaked_ms, .. } => {
                write!(f, "not judged: the new version gave no answers within {} of soak", lasted(*soaked_ms))
            }
            Self::TooFew { new, old, wanted, soaked_ms, untold: false } => write!(
                f,
                "not judged: {new} answers of the new version and {old} of the old one within {} of soak are too few: it \
                 takes {wanted} of each",
                lasted(*soaked_ms)
            ),
            Self::Errors { errors, new, old_errors, old, allowed_ppm } => write!(
                f,
                "{errors} of its {new} answers were errors, {old_errors} of {old} of the old version's: more than the {} \
                 that error_rate allows beyond",
                percent(*allowed_ppm)
            ),
            Self::Slow { slower, new, limit_micros, percentile, old_micros, old } => {
                let what = if *percentile == 50 { "half".to_owned() } else { format!("{percentile} %") };
                write!(
                    f,
                    "{slower} of its {new} answers took longer than {}, where {what} of the old version's {old} took at \
                     most {}",
                    micros(*limit_micros),
                    micros(*old_micros)
                )
            }
        }
    }
}

fn lasted(millis: u64) -> String {
    duration::show(std::time::Duration::from_millis(millis))
}

fn percent(ppm: u32) -> String {
    format!("{} %", f64::from(ppm) / 10_000.0)
}

fn micros(micros: u64) -> String {
    match micros {
        0..1_000 => format!("{micros}µs"),
        1_000..10_000 => format!("{:.1}ms", micros as f64 / 1_000.0),
        _ => duration::show(std::time::Duration::from_micros(micros)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: RollbackOn = RollbackOn { error_rate_ppm: 50_000, p99_factor_milli: 3_000, min_requests: 20 };

    /// So many answers, so many of them errors, so many of them slow and the others not.
    fn figures(answers: u64, errors: u64, slow: u64) -> Figures {
        let latency = [(bucket(20_000), answers - slow), (bucket(100_000), slow)];
        Figures { answers, errors, latency: latency.into_iter().filter(|(_, count)| *count > 0).collect() }
    }

    #[test]
    fn a_share_of_few_stands_for_less_than_it_shows() {
        let near = |share: f64, wanted: f64| assert!((share - wanted).abs() < 0.001, "{share}");
        near(at_least(20, 100), 0.133);
        near(at_least(2, 10), 0.057);
        near(at_least(0, 10), 0.0);
        near(at_least(10, 10), 0.722);
    }

    #[test]
    fn a_fifth_of_errors_is_bad_and_one_of_many_is_not() {
        assert!(judge(&LIMITS, &figures(100, 20, 0), &figures(500, 0, 0)).is_bad());
        assert!(!judge(&LIMITS, &figures(100, 3, 0), &figures(500, 0, 0)).is_bad());
        // Two of twenty may be chance.
        assert!(!judge(&LIMITS, &figures(20, 2, 0), &figures(500, 0, 0)).is_bad());
        // The old one is no better.
        assert!(!judge(&LIMITS, &figures(100, 20, 0), &figures(500, 100, 0)).is_bad());
    }

    #[test]
    fn too_few_is_said_and_not_guessed() {
        let verdict = judge(&LIMITS, &figures(19, 19, 0), &figures(500, 0, 0));
        assert_eq!(verdict, Verdict::TooFew { new: 19, old: 500, wanted: 20, soaked_ms: 0, untold: false });
        let said = verdict.after(200).to_string();
        assert_eq!(
            said,
            "not judged: 19 answers of the new version and 500 of the old one within 200ms of soak are too few: it takes \
             20 of each"
        );
        let none = judge(&LIMITS, &figures(0, 0, 0), &figures(8, 0, 0)).after(800).to_string();
        assert_eq!(none, "not judged: the new version gave no answers within 800ms of soak");
        assert!(matches!(judge(&LIMITS, &figures(100, 100, 0), &figures(0, 0, 0)), Verdict::TooFew { .. }));
        let any = RollbackOn { min_requests: 0, ..LIMITS };
        assert!(matches!(judge(&any, &figures(0, 0, 0), &figures(0, 0, 0)), Verdict::TooFew { .. }));
    }

    #[test]
    fn the_slower_half_is_judged_where_answers_are_few_and_the_slowest_hundredth_where_they_are_many() {
        // A twentieth is slow.
        assert!(!judge(&LIMITS, &figures(100, 0, 5), &figures(400, 0, 0)).is_bad());
        let verdict = judge(&LIMITS, &figures(1_000, 0, 50), &figures(1_000, 0, 0));
        assert!(matches!(verdict, Verdict::Slow { percentile: 99, slower: 50, .. }), "{verdict:?}");
        // All are.
        let verdict = judge(&LIMITS, &figures(100, 0, 100), &figures(400, 0, 0));
        assert!(matches!(verdict, Verdict::Slow { percentile: 50, .. }), "{verdict:?}");
        assert!(!judge(&LIMITS, &figures(1_000, 0, 50), &figures(1_000, 0, 50)).is_bad());
        let off = RollbackOn { p99_factor_milli: 0, ..LIMITS };
        assert!(!judge(&off, &figures(100, 0, 100), &figures(400, 0, 0)).is_bad());
    }

    #[test]
    fn what_is_quick_enough_is_never_slow() {
        let of = |micros| Figures { answers: 100, errors: 0, latency: [(bucket(micros), 100)].into() };
        assert!(!judge(&LIMITS, &of(4_000), &of(200)).is_bad());
        assert!(judge(&LIMITS, &of(9_000), &of(1_000)).is_bad());
    }

    #[test]
    fn a_version_is_hardly_ever_called_bad_by_chance() {
        // Both answer alike: a tenth errors. Of many draws, few are judged bad.
        let mut state = 7u64;
        let mut draw = |of: u64| {
            (0..of)
                .filter(|_| {
                    state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                    (state >> 33).is_multiple_of(10)
                })
                .count() as u64
        };
        let bad =
            (0..2_000).filter(|_| judge(&LIMITS, &figures(60, draw(60), 0), &figures(200, draw(200), 0)).is_bad());
        assert!(bad.count() < 20);
    }
}
