//! Integrity rules: counts that must be zero in every run. The verdict, the outputs and `--abort-on-fail` share this list.

use super::IntervalCounts;
use crate::defects::Defect;

/// An integrity rule, named after what it counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IntegrityRule {
    /// Lost tokens.
    TokensLost,
    /// Duplicated tokens.
    TokensDuplicated,
    /// Tokens that first arrived after a later position.
    TokensReordered,
    /// Frames, events or queries with this defect.
    No(Defect),
}

/// All rules, in the order of the outputs.
pub const INTEGRITY_RULES: [IntegrityRule; 11] = [
    IntegrityRule::TokensLost,
    IntegrityRule::TokensDuplicated,
    IntegrityRule::TokensReordered,
    IntegrityRule::No(Defect::Unannounced),
    IntegrityRule::No(Defect::Corrupt),
    IntegrityRule::No(Defect::Foreign),
    IntegrityRule::No(Defect::Duplicated),
    IntegrityRule::No(Defect::Reordered),
    IntegrityRule::No(Defect::AfterTerminator),
    IntegrityRule::No(Defect::Unreadable),
    IntegrityRule::No(Defect::Binary),
];

impl IntegrityRule {
    /// Returns the name of the figure that must be zero.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::TokensLost => "tokens_lost",
            Self::TokensDuplicated => "tokens_duplicated",
            Self::TokensReordered => "tokens_reordered",
            Self::No(defect) => defect.name(),
        }
    }

    /// Returns the figure of a second, a window or the run. It never decreases during a run.
    #[must_use]
    pub const fn count(self, counts: &IntervalCounts) -> u64 {
        match self {
            Self::TokensLost => counts.lost,
            Self::TokensDuplicated => counts.duplicated,
            Self::TokensReordered => counts.reordered,
            Self::No(defect) => counts.defects[defect as usize],
        }
    }

    /// Returns the rule for the figure of that name.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        INTEGRITY_RULES.into_iter().find(|rule| rule.name() == name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::threshold::RUN_NAMES;

    #[test]
    fn every_judged_defect_has_its_rule_and_every_rule_a_figure() {
        for defect in Defect::ALL {
            assert_eq!(
                IntegrityRule::named(defect.name()).is_some(),
                defect.is_judged(),
                "{}",
                defect.name()
            );
        }
        for rule in INTEGRITY_RULES {
            assert!(RUN_NAMES.contains(&rule.name()), "{}", rule.name());
        }
    }
}
