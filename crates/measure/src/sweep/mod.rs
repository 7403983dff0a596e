//! A sweep: runs with varied settings, each repeated, as one table.
//!
//! [`Dimension`] reads `--vary`, [`variants`] builds all combinations, and [`order`] says in which order they are played. [`Point`] is the
//! result of one run. [`summarize`] joins the repetitions of a variant, and [`rank`] compares the variants. All of it is pure.

mod dimension;
mod figures;
mod point;
mod ranking;
mod summary;
mod variants;

pub use dimension::{Dimension, VaryError, nearest};
pub use figures::{FIGURES, Figure, RANKED, ROLES, Wanted, cpu_key, rss_key};
pub use point::{Outcome, Point, Unfinished};
pub use ranking::{Ranking, Standing, rank};
pub use summary::{Outcomes, Spread, VariantSummary, summarize};
pub use variants::{MAX_VARIANTS, TooMany, Turn, Variant, order, variants};
