//! A plan at work: records pushed through its stages, one by one and depth first.
//!
//! Every record goes as far as it can before the next one starts, as in RedisGears 1.x, where the
//! last step pulled: side effects of callbacks keep that order, an error stops the reading after
//! the very record that failed, and `limit` reads one record more than it passes on.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::{Calls, Chunk, Language, Limits, Many, Native, RecordError, Results};

/// A step with what it holds while it runs.
pub(super) enum Stage<L: Language> {
    /// A record of the server becomes a value; a value passes.
    Open,
    /// Passes.
    Pass,
    Map(Arc<L::Function>),
    Filter(Arc<L::Function>),
    FlatMap(Arc<L::Function>),
    ForEach(Arc<L::Function>),
    Accumulate(Arc<L::Function>, Option<L::Object>),
    /// An accumulate that counts.
    Count(u64),
    AccumulateByKey {
        extract: Arc<L::Function>,
        f: Arc<L::Function>,
        groups: Option<L::Groups>,
    },
    Group {
        extract: Arc<L::Function>,
        f: Arc<L::Function>,
        groups: Option<L::Groups>,
    },
    /// Asks for the key and passes.
    Key(Arc<L::Function>),
    Limit {
        skip: u64,
        take: u64,
        seen: u64,
    },
}

/// A stage with the operation of the plan that it comes from.
pub(super) struct Placed<L: Language> {
    pub(super) stage: Stage<L>,
    pub(super) step: usize,
}

impl<L: Language> Placed<L> {
    /// The same stage, holding nothing.
    fn fresh(&self) -> Self {
        let stage = match &self.stage {
            Stage::Open => Stage::Open,
            Stage::Pass => Stage::Pass,
            Stage::Map(f) => Stage::Map(f.clone()),
            Stage::Filter(f) => Stage::Filter(f.clone()),
            Stage::FlatMap(f) => Stage::FlatMap(f.clone()),
            Stage::ForEach(f) => Stage::ForEach(f.clone()),
            Stage::Accumulate(f, _) => Stage::Accumulate(f.clone(), None),
            Stage::Count(_) => Stage::Count(0),
            Stage::AccumulateByKey { extract, f, .. } => Stage::AccumulateByKey {
                extract: extract.clone(),
                f: f.clone(),
                groups: None,
            },
            Stage::Group { extract, f, .. } => Stage::Group {
                extract: extract.clone(),
                f: f.clone(),
                groups: None,
            },
            Stage::Key(f) => Stage::Key(f.clone()),
            Stage::Limit { skip, take, .. } => Stage::Limit {
                skip: *skip,
                take: *take,
                seen: 0,
            },
        };
        Self {
            stage,
            step: self.step,
        }
    }
}

/// What a stage makes of a record.
enum Passed<'a, L: Language> {
    On(Moving<'a, L>),
    Several(<L as Calls>::Several),
    Kept,
}

/// A record on its way.
enum Moving<'a, L: Language> {
    Native(&'a Native<'a>),
    Object(L::Object),
}

/// The stages of one execution with its results so far.
pub(super) struct Pipeline<L: Language> {
    stages: Vec<Placed<L>>,
    /// Time spent in each stage; empty if it is not measured.
    spent: Vec<Duration>,
    /// Stages before this one take nothing more: a limit behind them is full.
    closed: usize,
    failed: bool,
    /// The stage that is flushed next.
    flushing: usize,
    pub(super) results: Results,
    pub(super) errors: Vec<String>,
    errors_size: usize,
    max_size: usize,
    /// Whether nobody sees the results.
    discards: bool,
}

impl<L: Language> Pipeline<L> {
    pub(super) fn new(stages: &[Placed<L>], limits: &Limits) -> Self {
        let measured = limits.profile.load(Ordering::Relaxed);
        Self {
            spent: vec![Duration::ZERO; if measured { stages.len() } else { 0 }],
            stages: stages.iter().map(Placed::fresh).collect(),
            closed: 0,
            failed: false,
            flushing: 0,
            results: Results::default(),
            errors: Vec::new(),
            errors_size: 0,
            max_size: limits.result_bytes.load(Ordering::Relaxed),
            discards: false,
        }
    }

    /// The same where nobody sees the results.
    pub(super) fn discarding(stages: &[Placed<L>], limits: &Limits) -> Self {
        Self {
            discards: true,
            ..Self::new(stages, limits)
        }
    }

    /// As new, after all it held was flushed.
    pub(super) fn reset(&mut self) {
        for placed in &mut self.stages {
            if let Stage::Limit { seen, .. } = &mut placed.stage {
                *seen = 0;
            }
        }
        self.closed = 0;
        self.failed = false;
        self.flushing = 0;
        self.results.clear();
        self.errors.clear();
        self.errors_size = 0;
    }

    /// Whether the reader may go on.
    pub(super) fn wants_more(&self) -> bool {
        !self.failed && self.closed == 0
    }

    /// An error record, which goes straight to the end and stops the reader.
    pub(super) fn fail(&mut self, error: RecordError) {
        self.failed = true;
        if self.size() > self.max_size {
            // The error that says so was the last one.
            return;
        }
        self.errors_size += error.text.len();
        self.errors.push(error.text);
        if self.size() > self.max_size {
            self.closed = self.stages.len();
            self.errors.push(self.too_large());
        }
    }

    fn size(&self) -> usize {
        self.results.size() + self.errors_size
    }

    fn too_large(&self) -> String {
        format!(
            "results and errors take more than {} bytes: the execution was stopped. Return less, \
             or raise the setting MaxResultsMemory",
            self.max_size
        )
    }

    /// Counts a chunk of which only the number is known. Needs no interpreter.
    pub(super) fn feed_counted(&mut self, mut records: u64) {
        for (at, placed) in self.stages.iter_mut().enumerate() {
            match &mut placed.stage {
                Stage::Limit { skip, take, seen } => {
                    let (from, to) = (*seen, seen.saturating_add(records));
                    let end = skip.saturating_add(*take);
                    records = to.min(end).saturating_sub(from.max(*skip));
                    *seen = to;
                    if to > end {
                        self.closed = at + 1;
                    }
                }
                Stage::Count(count) => {
                    *count += records;
                    return;
                }
                _ => {}
            }
        }
    }

    /// Pushes the records of a chunk for as long as they are wanted.
    pub(super) fn feed(&mut self, s: L::Scope<'_>, chunk: &Chunk) {
        for record in chunk.records() {
            if !self.wants_more() {
                return;
            }
            L::breathe(s);
            self.push(s, 0, Moving::Native(&record));
        }
    }

    /// Pushes a record of a generator.
    pub(super) fn feed_object(&mut self, s: L::Scope<'_>, record: L::Object) {
        self.push(s, 0, Moving::Object(record));
    }

    fn push(&mut self, s: L::Scope<'_>, from: usize, record: Moving<'_, L>) {
        if let Err(error) = self.pass(s, from, record) {
            self.fail(error);
        }
    }

    fn pass(
        &mut self,
        s: L::Scope<'_>,
        mut at: usize,
        mut record: Moving<'_, L>,
    ) -> Result<(), RecordError> {
        loop {
            let begin = (!self.spent.is_empty()).then(Instant::now);
            let Some(placed) = self.stages.get_mut(at) else {
                return self.emit(s, record);
            };
            let passed = match &mut placed.stage {
                Stage::Pass => Passed::On(record),
                Stage::Open => Passed::On(Moving::Object(open::<L>(s, record)?)),
                Stage::Map(f) => Passed::On(Moving::Object(L::map(s, f, open::<L>(s, record)?)?)),
                Stage::Filter(f) => {
                    let record = open::<L>(s, record)?;
                    if L::test(s, f, &record)? {
                        Passed::On(Moving::Object(record))
                    } else {
                        Passed::Kept
                    }
                }
                Stage::ForEach(f) => {
                    let record = open::<L>(s, record)?;
                    L::visit(s, f, &record)?;
                    Passed::On(Moving::Object(record))
                }
                Stage::Key(f) => {
                    let record = open::<L>(s, record)?;
                    L::key(s, f, &record)?;
                    Passed::On(Moving::Object(record))
                }
                Stage::FlatMap(f) => match L::expand(s, f, open::<L>(s, record)?)? {
                    Many::One(one) => Passed::On(Moving::Object(one)),
                    Many::Several(several) => Passed::Several(several),
                },
                Stage::Limit { skip, take, seen } => {
                    let index = *seen;
                    *seen += 1;
                    if index >= skip.saturating_add(*take) {
                        self.closed = self.closed.max(at + 1);
                        Passed::Kept
                    } else if index < *skip {
                        Passed::Kept
                    } else {
                        Passed::On(record)
                    }
                }
                Stage::Count(count) => {
                    *count += 1;
                    Passed::Kept
                }
                Stage::Accumulate(f, accumulator) => {
                    let before = accumulator.take();
                    *accumulator = Some(L::accumulate(s, f, before, open::<L>(s, record)?)?);
                    Passed::Kept
                }
                Stage::AccumulateByKey { extract, f, groups } => {
                    let record = open::<L>(s, record)?;
                    let key = L::key(s, extract, &record)?;
                    let groups = groups.get_or_insert_with(|| L::groups(s));
                    L::fold(s, groups, f, key, record)?;
                    Passed::Kept
                }
                Stage::Group {
                    extract, groups, ..
                } => {
                    let record = open::<L>(s, record)?;
                    let key = L::key(s, extract, &record)?;
                    let groups = groups.get_or_insert_with(|| L::groups(s));
                    L::gather(s, groups, key, record)?;
                    Passed::Kept
                }
            };
            if let (Some(begin), Some(spent)) = (begin, self.spent.get_mut(at)) {
                *spent += begin.elapsed();
            }
            at += 1;
            record = match passed {
                Passed::On(record) => record,
                Passed::Several(several) => {
                    self.push_several(s, at, several);
                    return Ok(());
                }
                Passed::Kept => return Ok(()),
            };
        }
    }

    /// Time that each of so many operations of the plan took; empty if it was not measured.
    pub(super) fn spent(&self, steps: usize) -> Vec<Duration> {
        let mut spent = vec![Duration::ZERO; if self.spent.is_empty() { 0 } else { steps }];
        for (placed, time) in self.stages.iter().zip(&self.spent) {
            if let Some(step) = spent.get_mut(placed.step) {
                *step += *time;
            }
        }
        spent
    }

    fn push_several(&mut self, s: L::Scope<'_>, at: usize, several: <L as Calls>::Several) {
        for record in several {
            self.push(s, at, Moving::Object(record));
            // A limit that is full asks no step before it again. An error stops the reader only:
            // what is inside the plan already completes.
            if self.closed >= at {
                return;
            }
        }
    }

    fn emit(&mut self, s: L::Scope<'_>, record: Moving<'_, L>) -> Result<(), RecordError> {
        if self.discards {
            return Ok(());
        }
        let record = open::<L>(s, record)?;
        L::emit(s, record, &mut self.results)?;
        if self.size() > self.max_size && self.closed < self.stages.len() {
            self.closed = self.stages.len();
            self.failed = true;
            self.errors.push(self.too_large());
        }
        Ok(())
    }

    /// Flushes what the stages hold, a stage a call; `false` when none is left.
    pub(super) fn flush(&mut self, s: L::Scope<'_>) -> bool {
        let at = self.flushing.max(self.closed);
        self.flushing = at + 1;
        let Some(placed) = self.stages.get_mut(at) else {
            return false;
        };
        match &mut placed.stage {
            Stage::Accumulate(_, accumulator) => {
                if let Some(value) = accumulator.take() {
                    self.push(s, at + 1, Moving::Object(value));
                }
            }
            Stage::Count(count) if *count > 0 => {
                let number = L::number(s, std::mem::take(count));
                self.push(s, at + 1, Moving::Object(number));
            }
            Stage::AccumulateByKey { groups, .. } => {
                let drained = groups
                    .take()
                    .map(|groups| L::drain(s, groups))
                    .unwrap_or_default();
                for (key, value) in drained {
                    if self.closed > at {
                        break;
                    }
                    match L::pair(s, key, value) {
                        Ok(pair) => self.push(s, at + 1, Moving::Object(pair)),
                        Err(error) => self.fail(error),
                    }
                }
            }
            Stage::Group { f, groups, .. } => {
                let f = f.clone();
                let drained = groups
                    .take()
                    .map(|groups| L::drain(s, groups))
                    .unwrap_or_default();
                for (key, records) in drained.into_iter().rev() {
                    if self.closed > at {
                        break;
                    }
                    let reduced = L::reduce(s, &f, &key, records);
                    match reduced.and_then(|value| L::pair(s, key, value)) {
                        Ok(pair) => self.push(s, at + 1, Moving::Object(pair)),
                        Err(error) => self.fail(error),
                    }
                }
            }
            _ => {}
        }
        true
    }

    /// Whether flushing needs the interpreter: something is held, or was never opened.
    pub(super) fn is_empty(&self) -> bool {
        self.stages.iter().all(|placed| match &placed.stage {
            Stage::Accumulate(_, held) => held.is_none(),
            Stage::Count(count) => *count == 0,
            Stage::AccumulateByKey { groups, .. } | Stage::Group { groups, .. } => groups.is_none(),
            _ => true,
        })
    }
}

fn open<L: Language>(s: L::Scope<'_>, record: Moving<'_, L>) -> Result<L::Object, RecordError> {
    match record {
        Moving::Object(object) => Ok(object),
        Moving::Native(native) => L::object(s, native),
    }
}
