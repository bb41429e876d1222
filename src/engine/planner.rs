//! From a plan to what runs: the one place that knows what a step can do without.
//!
//! Results are the same as if every step ran as written, order and quirks included; the tests
//! compare both.

use super::pipeline::{Placed, Stage};
use super::waiting::Queue;
use super::{Function, Hint, Language, Plan, Step};

/// How much of its records a plan looks at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Need {
    /// Only how many there are.
    Number,
    /// Their keys and types; nobody looks at the values.
    Keys,
    /// All of them.
    Records,
}

/// The stages of a plan on this shard, and what its reader must supply.
pub(super) struct Prepared<L: Language> {
    pub(super) need: Need,
    pub(super) stages: Vec<Placed<L>>,
}

/// For whom a plan is prepared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum For {
    /// This shard, where every record is where it belongs already.
    Alone,
    /// The same, and nobody sees its results.
    Nobody,
    /// Several shards.
    Team,
}

/// Prepares a plan.
pub(super) fn compile<L: Language>(plan: &Plan<L>, whom: For) -> Prepared<L> {
    let mut stages = Vec::new();
    let mut cuts = 0..;
    let mut cut = || (whom == For::Team).then(|| cuts.next()).flatten();
    for (step, operation) in plan.steps.iter().enumerate() {
        let stage = match operation {
            Step::Open => Stage::Open,
            Step::Map(f) => Stage::Map(f.clone()),
            Step::Filter(f) => Stage::Filter(f.clone()),
            Step::FlatMap(f) => Stage::FlatMap(f.clone()),
            Step::ForEach(f) => Stage::ForEach(f.clone()),
            Step::Accumulate(f) if f.hint() == Hint::Counts => Stage::Count(0),
            Step::Accumulate(f) => Stage::Accumulate(f.clone(), None),
            Step::AccumulateByKey {
                extract,
                f,
                repartition,
            } => Stage::AccumulateByKey {
                extract: extract.clone(),
                f: f.clone(),
                groups: None,
                cut: if *repartition { cut() } else { None },
            },
            Step::Group { extract, f } => Stage::Group {
                extract: extract.clone(),
                f: f.clone(),
                groups: None,
                cut: cut(),
            },
            // The key is asked for even where no record moves: a failing extractor must show.
            Step::Repartition(f) => Stage::Key {
                extract: f.clone(),
                cut: cut(),
            },
            Step::Collect => match cut() {
                Some(cut) => Stage::Collect(cut),
                None => continue,
            },
            Step::Limit { skip, take } => Stage::Limit {
                skip: *skip,
                take: *take,
                seen: 0,
            },
        };
        stages.push(Placed {
            stage,
            step,
            queue: Queue::default(),
        });
    }
    let discards = whom == For::Nobody;
    if discards {
        // Text that nobody reads.
        let is_text = |placed: &Placed<L>| matches!(&placed.stage, Stage::Map(f) if f.hint() == Hint::MakesText);
        while stages.pop_if(|last| is_text(last)).is_some() {}
    }
    late_open(&mut stages);
    Prepared {
        need: need(&stages, discards),
        stages,
    }
}

/// Makes values only of records that get past the limits and are looked at, and where they are.
fn late_open<L: Language>(stages: &mut [Placed<L>]) {
    let mut open = 0;
    while matches!(
        stages.get(open + 1),
        Some(Placed {
            stage: Stage::Limit { .. } | Stage::Collect(_),
            ..
        })
    ) {
        stages.swap(open, open + 1);
        open += 1;
    }
    // Counting opens nothing: the stage takes any record. What moves by a key that is taken out of
    // it unseen goes as it came.
    let passes = matches!(
        stages.get(open + 1),
        Some(Placed {
            stage: Stage::Count(_) | Stage::Key { cut: Some(_), .. },
            ..
        })
    );
    if let (true, Some(first)) = (passes, stages.get_mut(open)) {
        first.stage = Stage::Pass;
    }
}

fn need<L: Language>(stages: &[Placed<L>], discards: bool) -> Need {
    let mut need = Need::Number;
    for placed in stages {
        match &placed.stage {
            Stage::Limit { .. } | Stage::Pass | Stage::Open | Stage::Collect(_) => {}
            // Counting looks at nothing, and nothing comes after it but the number.
            Stage::Count(_) => return need,
            // The record goes on.
            Stage::Filter(f) | Stage::ForEach(f) | Stage::Key { extract: f, .. }
                if !f.looks_at_value() =>
            {
                need = Need::Keys;
            }
            // The record ends here.
            Stage::Map(f) | Stage::FlatMap(f) if !f.looks_at_value() => return Need::Keys,
            Stage::AccumulateByKey { extract, f, .. }
                if f.hint() == Hint::CountsByKey && !extract.looks_at_value() =>
            {
                return Need::Keys;
            }
            _ => return Need::Records,
        }
    }
    if discards { need } else { Need::Records }
}
