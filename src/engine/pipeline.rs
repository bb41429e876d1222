//! A plan at work: records pushed through its stages, one by one and depth first.
//!
//! Every record goes as far as it can before the next one starts, as in RedisGears 1.x, where the
//! last step pulled: side effects of callbacks keep that order, an error stops the reading after
//! the very record that failed, and `limit` reads one record more than it passes on.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::outgoing::Outgoing;
use super::promise::Bell;
use super::remote::Remote;
use super::waiting::{Queue, Stop};
use super::{
    Batch, Body, Calls, Chunk, Function, Language, Limits, Many, Native, RecordError, Results,
};

/// Records that one flush passes on, so that it can be seen between two whether there is room.
const FLUSHED: usize = 1000;

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
        /// The cut that records cross first, to the shard of their key.
        cut: Option<usize>,
    },
    Group {
        extract: Arc<L::Function>,
        f: Arc<L::Function>,
        groups: Option<L::Groups>,
        cut: Option<usize>,
    },
    /// Asks for the key; records cross the cut, if there is one, to its shard.
    Key {
        extract: Arc<L::Function>,
        cut: Option<usize>,
    },
    /// Records cross this cut to the initiator.
    Collect(usize),
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
    /// Records that wait here for what was promised.
    pub(super) queue: Queue<L>,
}

impl<L: Language> Placed<L> {
    /// The cut before this stage, and whether it collects.
    pub(super) fn cut(&self) -> Option<(usize, bool)> {
        match &self.stage {
            Stage::Collect(cut) => Some((*cut, true)),
            Stage::AccumulateByKey { cut, .. }
            | Stage::Group { cut, .. }
            | Stage::Key { cut, .. } => cut.map(|cut| (cut, false)),
            _ => None,
        }
    }

    /// Whether it groups records by key.
    pub(super) fn groups(&self) -> bool {
        matches!(
            self.stage,
            Stage::AccumulateByKey { .. } | Stage::Group { .. }
        )
    }

    /// Whether it takes one record at a time.
    pub(super) fn accumulates(&self) -> bool {
        matches!(
            self.stage,
            Stage::Accumulate(..) | Stage::AccumulateByKey { .. }
        )
    }

    /// Whether what it passes on has to wait behind others.
    pub(super) fn passes_in_order(&self) -> bool {
        !self.queue.is_empty() && !self.accumulates()
    }

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
            Stage::AccumulateByKey {
                extract, f, cut, ..
            } => Stage::AccumulateByKey {
                extract: extract.clone(),
                f: f.clone(),
                groups: None,
                cut: *cut,
            },
            Stage::Group {
                extract, f, cut, ..
            } => Stage::Group {
                extract: extract.clone(),
                f: f.clone(),
                groups: None,
                cut: *cut,
            },
            Stage::Key { extract, cut } => Stage::Key {
                extract: extract.clone(),
                cut: *cut,
            },
            Stage::Collect(cut) => Stage::Collect(*cut),
            Stage::Limit { skip, take, .. } => Stage::Limit {
                skip: *skip,
                take: *take,
                seen: 0,
            },
        };
        Self {
            stage,
            step: self.step,
            queue: Queue::default(),
        }
    }
}

/// What a stage makes of a record.
pub(super) enum Passed<'a, L: Language> {
    On(Moving<'a, L>),
    Several(<L as Calls>::Several),
    Kept,
}

/// A record on its way.
pub(super) enum Moving<'a, L: Language> {
    /// As it came from the server, with its bytes.
    Native(&'a Native<'a>, Raw<'a>),
    Object(L::Object),
}

/// A record in its chunk.
#[derive(Clone, Copy)]
pub(super) struct Raw<'a> {
    chunk: &'a Chunk,
    bytes: &'a [u8],
}

/// Records that wait for room at a cut, and the stage that they come to.
enum Paused<L: Language> {
    /// The rest of a chunk, from this record.
    Chunk(usize, Chunk, usize),
    /// The rest of what flatmap made of one.
    Several(usize, <L as Calls>::Several),
    /// The rest of a batch; with their keys before them.
    Values {
        at: usize,
        values: std::vec::IntoIter<L::Object>,
        keyed: bool,
    },
}

impl<L: Language> Paused<L> {
    /// The stage that they come to.
    fn at(&self) -> usize {
        match self {
            Self::Chunk(at, ..) | Self::Several(at, _) | Self::Values { at, .. } => *at,
        }
    }
}

/// What a flush came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Flushed {
    /// There is more.
    Some,
    /// All records before this cut have crossed it. What is behind can be flushed when all shards
    /// have come so far.
    Cut(usize),
    /// What comes next has to wait for what was promised.
    Waits,
    /// All.
    All,
}

/// The time that an operation took.
#[derive(Debug, Clone, Copy, Default)]
pub struct Spent {
    /// In the callback for the key of each record, if that is a step of its own to users.
    pub extracting: Duration,
    /// In all the rest.
    pub working: Duration,
}

/// The stages of one execution with its results so far.
pub(super) struct Pipeline<L: Language> {
    pub(super) stages: Vec<Placed<L>>,
    /// Records that wait at stages.
    pub(super) held: usize,
    /// Rung when one may go on.
    pub(super) bell: Option<Arc<Bell>>,
    /// Time spent in each stage; empty if it is not measured.
    spent: Vec<Spent>,
    /// Stages that take nothing more: a limit behind them is full. The last one is the end.
    closed: Vec<bool>,
    failed: bool,
    /// The stage that is flushed next.
    flushing: usize,
    /// Whether the cut of that stage is behind it.
    crossed: bool,
    /// What a stage held and is passing on.
    draining: Vec<(L::Object, L::Object)>,
    /// To other shards, if there are any.
    out: Option<Outgoing<L>>,
    /// What is in the pipeline and can not go on before there is room; the first goes first.
    paused: VecDeque<Paused<L>>,
    pub(super) results: Results,
    /// Results as values, if somebody takes them so.
    pub(super) objects: Option<Vec<L::Object>>,
    pub(super) errors: Vec<String>,
    objects_size: usize,
    errors_size: usize,
    max_size: usize,
    /// Whether nobody sees the results.
    discards: bool,
}

impl<L: Language> Pipeline<L> {
    pub(super) fn new(stages: &[Placed<L>], limits: &Limits) -> Self {
        let measured = limits.profile.load(Ordering::Relaxed);
        Self {
            spent: vec![Spent::default(); if measured { stages.len() } else { 0 }],
            stages: stages.iter().map(Placed::fresh).collect(),
            held: 0,
            bell: None,
            closed: vec![false; stages.len() + 1],
            failed: false,
            flushing: 0,
            crossed: false,
            draining: Vec::new(),
            out: None,
            paused: VecDeque::new(),
            results: Results::default(),
            objects: None,
            objects_size: 0,
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

    /// The same with parts on other shards.
    pub(super) fn shared(stages: &[Placed<L>], limits: &Limits, remote: Arc<Remote>) -> Self {
        Self {
            out: Some(Outgoing::new(stages, remote)),
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
        self.bell = None;
        self.closed.fill(false);
        self.failed = false;
        self.flushing = 0;
        self.crossed = false;
        self.results.clear();
        self.errors.clear();
        self.errors_size = 0;
    }

    /// Whether the reader may go on.
    pub(super) fn wants_more(&self) -> bool {
        !self.failed && !self.is_closed(0) && self.out.as_ref().is_none_or(Outgoing::is_wanted)
    }

    /// Whether this stage takes nothing more.
    pub(super) fn is_closed(&self, at: usize) -> bool {
        self.closed.get(at).is_some_and(|closed| *closed)
    }

    /// The limit at this stage is full.
    fn close(&mut self, limit: usize) {
        if self.is_closed(limit) {
            return;
        }
        let from = self.out.as_mut().map_or(0, |out| out.close(limit));
        if let Some(closed) = self.closed.get_mut(from..=limit) {
            closed.fill(true);
        }
    }

    /// Between two chunks: what became known of the other shards, and of what was sent to them.
    pub(super) fn refresh(&mut self) {
        let Some(out) = &mut self.out else { return };
        out.refresh();
        for (stage, text) in out.unpacked() {
            self.fail_at(stage, RecordError::new(text));
        }
    }

    /// An error record of a stage, which goes straight to the end: to the initiator if the records
    /// behind it are collected, else it stops the reader of this shard.
    pub(super) fn fail_at(&mut self, at: usize, error: RecordError) {
        match &mut self.out {
            Some(out) => {
                if let Err(error) = out.fail(at, error) {
                    self.fail_here(error);
                }
            }
            None => self.fail_here(error),
        }
    }

    /// An error record of the reader.
    pub(super) fn fail(&mut self, error: RecordError) {
        self.fail_at(0, error);
    }

    /// An error record that stays here.
    pub(super) fn fail_here(&mut self, error: RecordError) {
        self.failed = true;
        if self.size() > self.max_size {
            // The error that says so was the last one.
            return;
        }
        self.errors_size += error.text.len();
        self.errors.push(error.text);
        if self.size() > self.max_size {
            self.close_all();
            self.errors.push(self.too_large());
        }
    }

    fn close_all(&mut self) {
        self.closed.fill(true);
        if let Some(out) = &mut self.out {
            out.close_all();
        }
    }

    fn size(&self) -> usize {
        self.results.size() + self.objects_size + self.errors_size
    }

    fn too_large(&self) -> String {
        format!(
            "results and errors take more than {} bytes: the execution was stopped. Return less, \
             or raise the setting MaxResultsMemory",
            self.max_size
        )
    }

    /// Counts a chunk of which only the number is known. Needs no interpreter.
    pub(super) fn feed_counted(&mut self, records: u64) {
        self.count_from(0, records);
    }

    fn count_from(&mut self, from: usize, mut records: u64) {
        for at in from..self.stages.len() {
            if self.is_closed(at) {
                return;
            }
            let Some(placed) = self.stages.get_mut(at) else {
                return;
            };
            match &mut placed.stage {
                Stage::Limit { skip, take, seen } => {
                    let (from, to) = (*seen, seen.saturating_add(records));
                    let end = skip.saturating_add(*take);
                    records = to.min(end).saturating_sub(from.max(*skip));
                    *seen = to;
                    if to > end {
                        self.close(at);
                    }
                }
                Stage::Count(count) => {
                    *count += records;
                    return;
                }
                Stage::Collect(cut) => {
                    let cut = *cut;
                    if let Some(out) = &mut self.out
                        && out.collects_elsewhere()
                    {
                        return out.count(cut, records);
                    }
                }
                _ => {}
            }
        }
    }

    /// Pushes the records of a chunk for as long as they are wanted.
    pub(super) fn feed(&mut self, s: L::Scope<'_>, chunk: &Chunk) {
        if let (Some(Stage::Collect(cut)), Some(out)) =
            (self.stages.first().map(|first| &first.stage), &mut self.out)
            && out.collects_elsewhere()
        {
            // As it is.
            return out.chunk(*cut, chunk);
        }
        self.feed_from(s, 0, chunk, 0);
    }

    /// Pushes the records of a chunk from one on; they come to a stage.
    fn feed_from(&mut self, s: L::Scope<'_>, at: usize, chunk: &Chunk, from: usize) {
        let records = chunk.records_with_bytes().enumerate().skip(from);
        for (position, (record, bytes)) in records {
            if at == 0 && !self.wants_more() || self.is_closed(at) {
                return;
            }
            if self.is_full(at) {
                let rest = Paused::Chunk(at, chunk.clone(), position);
                return self.paused.push_back(rest);
            }
            L::breathe(s);
            self.push(s, at, Moving::Native(&record, Raw { chunk, bytes }));
        }
    }

    /// Whether there is no room for a record that comes to this stage: at a cut, or at a stage.
    pub(super) fn is_full(&self, at: usize) -> bool {
        self.out.as_ref().is_some_and(|out| out.is_full(at)) || self.clogged(at).is_some()
    }

    /// Cuts whose records would come to a stage that can hold no more, or before it.
    pub(super) fn clogged_cuts(&self) -> usize {
        match (self.clogged(0), &self.out) {
            (Some(at), Some(out)) => out.cuts_before(at),
            _ => 0,
        }
    }

    /// Whether something in it waits for room.
    pub(super) fn is_paused(&self) -> bool {
        !self.paused.is_empty()
    }

    /// Whether something that left this stage waits for room, or left one before it: it goes first.
    pub(super) fn is_paused_behind(&self, at: usize) -> bool {
        self.paused.iter().any(|paused| paused.at() > at)
    }

    /// Goes on with what waited for room; whether there was any. What comes to a later stage is ahead
    /// of the rest, and need not wait for it.
    pub(super) fn resume(&mut self, s: L::Scope<'_>) -> bool {
        let mut moved = false;
        for paused in std::mem::take(&mut self.paused) {
            if self.is_full(paused.at()) {
                self.paused.push_back(paused);
                continue;
            }
            moved = true;
            match paused {
                Paused::Chunk(at, chunk, from) => self.feed_from(s, at, &chunk, from),
                Paused::Several(at, several) => self.push_several(s, at, several),
                Paused::Values { at, values, keyed } => self.push_values(s, at, values, keyed),
            }
        }
        moved
    }

    fn push_values(
        &mut self,
        s: L::Scope<'_>,
        at: usize,
        mut values: std::vec::IntoIter<L::Object>,
        keyed: bool,
    ) {
        while !self.is_closed(at) {
            if self.is_full(at) {
                let rest = Paused::Values { at, values, keyed };
                return self.paused.push_back(rest);
            }
            let Some(value) = values.next() else { return };
            L::breathe(s);
            if !keyed {
                self.push(s, at, Moving::Object(value));
            } else if let Some(record) = values.next() {
                self.arrive_keyed(s, at, value, record);
            }
        }
    }

    /// Takes in records that crossed a cut. Only values and errors of them need no interpreter.
    pub(super) fn arrive(&mut self, s: L::Scope<'_>, batch: Batch) {
        let Some(entry) = self.out.as_ref().and_then(|out| out.entry(batch.cut)) else {
            return;
        };
        if self.is_closed(entry) {
            return;
        }
        match batch.body {
            Body::Errors(errors) => {
                // This shard goes on reading: else what comes of it would be a matter of time.
                let failed = self.failed;
                for text in errors {
                    self.fail_at(entry, RecordError::new(text));
                }
                self.failed = failed || self.size() > self.max_size;
            }
            Body::Native(chunk) if chunk.is_counted() => {
                self.count_from(entry, chunk.len() as u64);
            }
            Body::Native(chunk) => self.feed_from(s, entry, &chunk, 0),
            Body::Values { bytes, len, keyed } => {
                let values = match L::unpack(s, &bytes) {
                    Ok(values) => values,
                    Err(error) => {
                        let records = if keyed { len / 2 } else { len };
                        let text = format!(
                            "{records} records of another shard can not be read: {}",
                            error.text
                        );
                        return self.fail_at(entry, RecordError::new(text));
                    }
                };
                self.push_values(s, entry, values.into_iter(), keyed);
            }
        }
    }

    fn arrive_keyed(&mut self, s: L::Scope<'_>, at: usize, key: L::Object, record: L::Object) {
        let begin = self.clock();
        let taken = match self.stages.get_mut(at).map(|placed| &mut placed.stage) {
            Some(Stage::AccumulateByKey { .. }) => self.accumulate(s, at, Some(key), record),
            Some(Stage::Group { groups, .. }) => {
                let groups = groups.get_or_insert_with(|| L::groups(s));
                L::gather(s, groups, key, record).map_err(Stop::from)
            }
            _ => Ok(()),
        };
        self.spend(at, begin, None);
        if let Err(stop) = taken {
            self.stopped(at, stop);
        }
    }

    /// Pushes a record of a generator.
    pub(super) fn feed_object(&mut self, s: L::Scope<'_>, record: L::Object) {
        self.push(s, 0, Moving::Object(record));
    }

    pub(super) fn push(&mut self, s: L::Scope<'_>, from: usize, record: Moving<'_, L>) {
        let mut at = from;
        if let Err(stop) = self.pass(s, &mut at, record) {
            self.stopped(at, stop);
        }
    }

    fn pass(
        &mut self,
        s: L::Scope<'_>,
        stage: &mut usize,
        mut record: Moving<'_, L>,
    ) -> Result<(), Stop<L>> {
        loop {
            let at = *stage;
            if self.is_closed(at) {
                return Ok(());
            }
            if at == self.stages.len() {
                return Ok(self.emit(s, record)?);
            }
            let begin = self.clock();
            let mut extracted = None;
            let taken = self.take(s, at, record, &mut extracted);
            self.spend(at, begin, extracted);
            let passed = taken?;
            let passed = if self.held > 0 {
                self.in_order(s, at, passed)?
            } else {
                passed
            };
            *stage += 1;
            record = match passed {
                Passed::On(record) => record,
                Passed::Several(several) => {
                    self.push_several(s, at + 1, several);
                    return Ok(());
                }
                Passed::Kept => return Ok(()),
            };
        }
    }

    /// What a stage makes of a record. `extracted` is when it knew the record's key, if that is only the
    /// first part of its work.
    fn take<'a>(
        &mut self,
        s: L::Scope<'_>,
        at: usize,
        record: Moving<'a, L>,
        extracted: &mut Option<Instant>,
    ) -> Result<Passed<'a, L>, Stop<L>> {
        let measured = !self.spent.is_empty();
        let Some(placed) = self.stages.get_mut(at) else {
            return Ok(Passed::On(record));
        };
        Ok(match &mut placed.stage {
            Stage::Pass => Passed::On(record),
            Stage::Open => Passed::On(Moving::Object(open::<L>(s, record)?)),
            Stage::Map(f) => Passed::On(Moving::Object(L::map(s, f, open::<L>(s, record)?)?)),
            Stage::Filter(f) => {
                let record = open::<L>(s, record)?;
                match L::test(s, f, &record) {
                    Ok(true) => Passed::On(Moving::Object(record)),
                    Ok(false) => Passed::Kept,
                    Err(instead) => return Err(Stop::of(instead, Some(record))),
                }
            }
            Stage::ForEach(f) => {
                let record = open::<L>(s, record)?;
                match L::visit(s, f, &record) {
                    Ok(()) => Passed::On(Moving::Object(record)),
                    Err(instead) => return Err(Stop::of(instead, Some(record))),
                }
            }
            Stage::Key { extract, cut: None } => {
                let record = open::<L>(s, record)?;
                L::key(s, extract, &record)?;
                Passed::On(Moving::Object(record))
            }
            Stage::Key {
                extract,
                cut: Some(cut),
            } => {
                let out = self.out.as_mut().ok_or_else(no_shards)?;
                let cut = *cut;
                match record {
                    // It goes as it came: the callback can not have changed it.
                    Moving::Native(native, raw) if !extract.looks_at_value() => {
                        let key = L::key(s, extract, &L::object(s, &native.without_value())?)?;
                        match out.owner::<L>(s, &key)? {
                            None => Passed::On(Moving::Native(native, raw)),
                            Some(to) => {
                                out.native(cut, to, raw.chunk, raw.bytes);
                                Passed::Kept
                            }
                        }
                    }
                    record => {
                        let record = open::<L>(s, record)?;
                        let key = L::key(s, extract, &record)?;
                        match out.owner::<L>(s, &key)? {
                            None => Passed::On(Moving::Object(record)),
                            Some(to) => {
                                out.value(s, cut, to, record);
                                Passed::Kept
                            }
                        }
                    }
                }
            }
            Stage::Collect(cut) => {
                let out = self.out.as_mut().ok_or_else(no_shards)?;
                let cut = *cut;
                match record {
                    record if !out.collects_elsewhere() => Passed::On(record),
                    Moving::Native(_, raw) => {
                        out.native(cut, out.initiator(), raw.chunk, raw.bytes);
                        Passed::Kept
                    }
                    Moving::Object(record) => {
                        out.value(s, cut, out.initiator(), record);
                        Passed::Kept
                    }
                }
            }
            Stage::FlatMap(f) => match L::expand(s, f, open::<L>(s, record)?)? {
                Many::One(one) => Passed::On(Moving::Object(one)),
                Many::Several(several) => Passed::Several(several),
            },
            Stage::Limit { skip, take, seen } => {
                let index = *seen;
                *seen += 1;
                if index >= skip.saturating_add(*take) {
                    self.close(at);
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
            Stage::Accumulate(..) => {
                let record = open::<L>(s, record)?;
                self.accumulate(s, at, None, record)?;
                Passed::Kept
            }
            Stage::AccumulateByKey { extract, cut, .. } => {
                let record = open::<L>(s, record)?;
                let key = L::key(s, extract, &record)?;
                *extracted = measured.then(Instant::now);
                let elsewhere = elsewhere(s, self.out.as_ref(), *cut, &key)?;
                if let (Some((cut, to)), Some(out)) = (elsewhere, &mut self.out) {
                    out.keyed(s, cut, to, key, record);
                } else {
                    self.accumulate(s, at, Some(key), record)?;
                }
                Passed::Kept
            }
            Stage::Group {
                extract,
                groups,
                cut,
                ..
            } => {
                let record = open::<L>(s, record)?;
                let key = L::key(s, extract, &record)?;
                *extracted = measured.then(Instant::now);
                let elsewhere = elsewhere(s, self.out.as_ref(), *cut, &key)?;
                if let (Some((cut, to)), Some(out)) = (elsewhere, &mut self.out) {
                    out.keyed(s, cut, to, key, record);
                } else {
                    let groups = groups.get_or_insert_with(|| L::groups(s));
                    L::gather(s, groups, key, record)?;
                }
                Passed::Kept
            }
        })
    }

    /// Now, if time is measured.
    fn clock(&self) -> Option<Instant> {
        (!self.spent.is_empty()).then(Instant::now)
    }

    /// Counts what a stage took since then.
    fn spend(&mut self, at: usize, begin: Option<Instant>, extracted: Option<Instant>) {
        if let (Some(begin), Some(spent)) = (begin, self.spent.get_mut(at)) {
            let worked = extracted.unwrap_or(begin);
            spent.extracting += worked - begin;
            spent.working += worked.elapsed();
        }
    }

    /// Time that each of so many operations of the plan took; empty if it was not measured.
    pub(super) fn spent(&self, steps: usize) -> Vec<Spent> {
        let mut spent = vec![Spent::default(); if self.spent.is_empty() { 0 } else { steps }];
        for (placed, time) in self.stages.iter().zip(&self.spent) {
            if let Some(step) = spent.get_mut(placed.step) {
                step.extracting += time.extracting;
                step.working += time.working;
            }
        }
        spent
    }

    pub(super) fn push_several(
        &mut self,
        s: L::Scope<'_>,
        at: usize,
        mut several: <L as Calls>::Several,
    ) {
        loop {
            if self.is_full(at) {
                return self.paused.push_back(Paused::Several(at, several));
            }
            let Some(record) = several.next() else { return };
            self.push(s, at, Moving::Object(record));
            // A limit that is full asks no step before it again. An error stops the reader only:
            // what is inside the plan already completes.
            if self.is_closed(at) {
                return;
            }
        }
    }

    fn emit(&mut self, s: L::Scope<'_>, record: Moving<'_, L>) -> Result<(), RecordError> {
        if self.discards {
            return Ok(());
        }
        let record = open::<L>(s, record)?;
        match &mut self.objects {
            None => L::emit(s, record, &mut self.results)?,
            Some(objects) => {
                self.objects_size += L::size(s, &record);
                objects.push(record);
            }
        }
        if self.size() > self.max_size && !self.failed {
            self.close_all();
            self.failed = true;
            self.errors.push(self.too_large());
        }
        Ok(())
    }

    /// Feeds the only chunk there is, and flushes what can be.
    pub(super) fn feed_and_flush(&mut self, s: L::Scope<'_>, chunk: &Chunk) -> Flushed {
        if !chunk.is_counted() {
            self.feed(s, chunk);
        }
        if self.is_paused() {
            return Flushed::Waits;
        }
        self.flush_all(s)
    }

    /// Flushes until all is flushed, or has to wait.
    pub(super) fn flush_all(&mut self, s: L::Scope<'_>) -> Flushed {
        loop {
            match self.flush(s) {
                Flushed::Some | Flushed::Cut(_) => {}
                flushed => return flushed,
            }
        }
    }

    /// Flushes what the stages hold, a part of it each time.
    pub(super) fn flush(&mut self, s: L::Scope<'_>) -> Flushed {
        let at = self.flushing;
        // The stage itself passes on what it has when nothing of it waits; but first what goes to
        // other shards.
        let crosses = |placed: &Placed<L>| placed.cut().is_some() && !self.crossed;
        let until = match self.stages.get(at) {
            Some(placed) if crosses(placed) => at,
            _ => at + 1,
        };
        let clogged = self.clogged(at + 1).is_some();
        if self.waits_before(until) || clogged && !self.draining.is_empty() {
            return Flushed::Waits;
        }
        if self.is_paused() {
            // What left the stages before goes first.
            return if self.clogged(0).is_some() {
                Flushed::Waits
            } else {
                Flushed::Some
            };
        }
        let Some(placed) = self.stages.get_mut(at) else {
            return Flushed::All;
        };
        if let (Some((cut, _)), Some(out), false) = (placed.cut(), &mut self.out, self.crossed) {
            self.crossed = true;
            let failed = out.finish(s, cut);
            for error in failed {
                self.fail_at(at, error);
            }
            return Flushed::Cut(cut);
        }
        if !self.draining.is_empty() {
            self.drain(s, at);
            return Flushed::Some;
        }
        // What only a full limit would take is left where it is.
        let closed = self.is_closed(at);
        if let Some(placed) = self.stages.get_mut(at)
            && !closed
        {
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
                    if let Some(groups) = groups.take() {
                        self.draining = L::drain(s, groups);
                        self.draining.reverse();
                    }
                }
                // From the last.
                Stage::Group { groups, .. } => {
                    if let Some(groups) = groups.take() {
                        self.draining = L::drain(s, groups);
                    }
                }
                _ => {}
            }
        }
        if self.draining.is_empty() {
            self.flushing += 1;
            self.crossed = false;
        }
        Flushed::Some
    }

    /// Whether a stage is passing on much.
    pub(super) fn is_draining(&self) -> bool {
        !self.draining.is_empty()
    }

    /// Passes on a part of what the groups of a stage came to.
    fn drain(&mut self, s: L::Scope<'_>, at: usize) {
        let reducer = match self.stages.get(at).map(|placed| &placed.stage) {
            Some(Stage::Group { f, .. }) => Some(f.clone()),
            _ => None,
        };
        for _ in 0..FLUSHED {
            if self.is_full(at + 1) {
                return;
            }
            if self.is_closed(at) {
                self.draining.clear();
            }
            let Some((key, value)) = self.draining.pop() else {
                break;
            };
            L::breathe(s);
            let begin = self.clock();
            let value = match &reducer {
                Some(f) => L::reduce(s, f, &key, value),
                None => Ok(value),
            };
            self.spend(at, begin, None);
            match value.and_then(|value| L::pair(s, key, value)) {
                Ok(pair) => self.push(s, at + 1, Moving::Object(pair)),
                Err(error) => self.fail_at(at, error),
            }
        }
        if self.draining.is_empty() {
            self.flushing += 1;
            self.crossed = false;
        }
    }

    /// Whether flushing needs the interpreter: something is held, or was never opened.
    pub(super) fn is_empty(&self) -> bool {
        self.held == 0
            && self.draining.is_empty()
            && self.paused.is_empty()
            && self.out.as_ref().is_none_or(Outgoing::is_empty)
            && self.stages.iter().all(|placed| match &placed.stage {
                Stage::Accumulate(_, held) => held.is_none(),
                Stage::Count(count) => *count == 0,
                Stage::AccumulateByKey { groups, .. } | Stage::Group { groups, .. } => {
                    groups.is_none()
                }
                _ => true,
            })
    }
}

pub(super) fn open<L: Language>(
    s: L::Scope<'_>,
    record: Moving<'_, L>,
) -> Result<L::Object, RecordError> {
    match record {
        Moving::Object(object) => Ok(object),
        Moving::Native(native, _) => L::object(s, native),
    }
}

fn no_shards() -> RecordError {
    RecordError::new("internal error: a plan for several shards runs on one")
}

/// The cut that a record crosses and the shard that it goes to, if it does not stay.
fn elsewhere<L: Language>(
    s: L::Scope<'_>,
    out: Option<&Outgoing<L>>,
    cut: Option<usize>,
    key: &L::Object,
) -> Result<Option<(usize, usize)>, RecordError> {
    let (Some(out), Some(cut)) = (out, cut) else {
        return Ok(None);
    };
    let to = out.owner::<L>(s, key)?;
    Ok(to.map(|to| (cut, to)))
}
