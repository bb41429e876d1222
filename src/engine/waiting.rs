//! Records whose callback promised a result, and those that wait behind them.
//!
//! What a stage passes on keeps the order in which records came to it: behind a promise the results
//! of later records wait, errors too. A stage holds no more than [`MOST`] records, an accumulator the
//! one that it was asked for; then what comes before it has to wait.

use std::collections::VecDeque;
use std::sync::Arc;

use super::pipeline::{Moving, Passed, Pipeline, Placed, Stage};
use super::promise::{Bell, Instead, Promise, Wake};
use super::{Calls, Language, Many, RecordError};

/// Records of one stage that are under way at once, as in RedisGears 1.x.
const MOST: usize = 1000;

/// Why a record goes no further now.
pub(super) enum Stop<L: Language> {
    Error(RecordError),
    /// Its callback promised a result. With what that is about: the record, or its key.
    Promise(Arc<Promise<L::Object>>, Option<L::Object>),
}

impl<L: Language> From<RecordError> for Stop<L> {
    fn from(error: RecordError) -> Self {
        Self::Error(error)
    }
}

impl<L: Language> Stop<L> {
    pub(super) fn of(instead: Instead<L::Object>, about: Option<L::Object>) -> Self {
        match instead {
            Instead::Error(error) => Self::Error(error),
            Instead::Promise(promise) => Self::Promise(promise, about),
        }
    }
}

impl<L: Language> From<Instead<L::Object>> for Stop<L> {
    fn from(instead: Instead<L::Object>) -> Self {
        Self::of(instead, None)
    }
}

/// A record that waits at its stage.
enum Held<L: Language> {
    /// For its result.
    Promised(Arc<Promise<L::Object>>, Option<L::Object>),
    /// For those before it: what is passed on.
    One(L::Object),
    Several(<L as Calls>::Several),
    Failed(RecordError),
    /// For the accumulator, with its key.
    Next(Option<L::Object>, L::Object),
}

/// Records that wait at one stage, the first of them for a promise.
pub(super) struct Queue<L: Language>(VecDeque<Held<L>>);

impl<L: Language> Default for Queue<L> {
    fn default() -> Self {
        Self(VecDeque::new())
    }
}

impl<L: Language> Queue<L> {
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn may_go_on(&self) -> bool {
        self.0.front().is_some_and(|held| match held {
            Held::Promised(promise, _) => promise.is_kept(),
            _ => true,
        })
    }
}

impl<L: Language> Placed<L> {
    /// Records that may wait at it. What an accumulator makes of one decides whether there is a next.
    fn room(&self) -> usize {
        if self.accumulates() { 1 } else { MOST }
    }
}

impl<L: Language> Pipeline<L> {
    /// Calls off what was promised.
    pub(super) fn call_off(&self) {
        let held = self.stages.iter().flat_map(|placed| &placed.queue.0);
        for held in held {
            if let Held::Promised(promise, _) = held {
                promise.call_off();
            }
        }
    }

    /// Whether records in it wait for a promise.
    pub(super) fn is_waiting(&self) -> bool {
        self.held > 0
    }

    /// Wakes when a promise is kept.
    pub(super) fn wakes(&mut self, wake: impl FnOnce() -> Wake) {
        if let Some(bell) = self.bell.as_ref().filter(|bell| !bell.is_heard()) {
            bell.wakes(wake());
        }
    }

    /// Whether records wait before one of these stages.
    pub(super) fn waits_before(&self, end: usize) -> bool {
        self.held > 0
            && self
                .stages
                .iter()
                .take(end)
                .any(|placed| !placed.queue.is_empty())
    }

    /// The last stage, from this one on, that can hold no more records.
    pub(super) fn clogged(&self, from: usize) -> Option<usize> {
        if self.held == 0 {
            return None;
        }
        let last = self
            .stages
            .iter()
            .skip(from)
            .rposition(|placed| placed.queue.0.len() >= placed.room());
        last.map(|at| from + at)
    }

    fn hold(&mut self, at: usize, held: Held<L>, first: bool) {
        let Some(placed) = self.stages.get_mut(at) else {
            return;
        };
        if first {
            placed.queue.0.push_front(held);
        } else {
            placed.queue.0.push_back(held);
        }
        self.held += 1;
    }

    /// What a record came to that goes no further now.
    pub(super) fn stopped(&mut self, at: usize, stop: Stop<L>) {
        match stop {
            Stop::Error(error) => {
                let placed = self.stages.get(at);
                match placed.filter(|placed| placed.passes_in_order()) {
                    Some(_) => self.hold(at, Held::Failed(error), false),
                    None => self.fail_at(at, error),
                }
            }
            Stop::Promise(promise, about) => {
                promise.listen(self.bell.get_or_insert_with(Bell::new));
                // An accumulator was asked for the first of those that wait.
                let placed = self.stages.get(at);
                let first = placed.is_some_and(|placed| placed.accumulates());
                self.hold(at, Held::Promised(promise, about), first);
            }
        }
    }

    /// What a stage passes on, unless it has to wait there behind others.
    pub(super) fn in_order<'a>(
        &mut self,
        s: L::Scope<'_>,
        at: usize,
        passed: Passed<'a, L>,
    ) -> Result<Passed<'a, L>, RecordError> {
        let placed = self.stages.get(at);
        if !placed.is_some_and(|placed| placed.passes_in_order()) {
            return Ok(passed);
        }
        let held = match passed {
            Passed::On(record) => Held::One(super::pipeline::open::<L>(s, record)?),
            Passed::Several(several) => Held::Several(several),
            Passed::Kept => return Ok(Passed::Kept),
        };
        self.hold(at, held, false);
        Ok(Passed::Kept)
    }

    /// Gives a record to the accumulator of a stage, if it does not wait for another one.
    pub(super) fn accumulate(
        &mut self,
        s: L::Scope<'_>,
        at: usize,
        key: Option<L::Object>,
        record: L::Object,
    ) -> Result<(), Stop<L>> {
        let Some(placed) = self.stages.get(at) else {
            return Ok(());
        };
        if placed.queue.is_empty() {
            return self.accumulate_now(s, at, key, record);
        }
        self.hold(at, Held::Next(key, record), false);
        Ok(())
    }

    fn accumulate_now(
        &mut self,
        s: L::Scope<'_>,
        at: usize,
        key: Option<L::Object>,
        record: L::Object,
    ) -> Result<(), Stop<L>> {
        match (self.stages.get_mut(at).map(|placed| &mut placed.stage), key) {
            (Some(Stage::Accumulate(f, accumulator)), _) => {
                let before = accumulator.take();
                *accumulator = Some(L::accumulate(s, f, before, record)?);
            }
            (Some(Stage::AccumulateByKey { f, groups, .. }), Some(key)) => {
                let groups = groups.get_or_insert_with(|| L::groups(s));
                if let Err((instead, key)) = L::fold(s, groups, f, key, record) {
                    return Err(Stop::of(instead, Some(key)));
                }
            }
            _ => {}
        }
        Ok(())
    }

    /// Goes on with records whose promises are kept; whether there were any.
    pub(super) fn settle(&mut self, s: L::Scope<'_>) -> bool {
        let mut moved = false;
        // From the end: so there is room for what comes after it.
        for at in (0..self.stages.len()).rev() {
            while !self.is_full(at + 1) && !self.is_paused_behind(at) {
                let placed = self.stages.get_mut(at);
                let queue = placed.map(|placed| &mut placed.queue);
                let next = queue.filter(|queue| queue.may_go_on());
                let Some(held) = next.and_then(|queue| queue.0.pop_front()) else {
                    break;
                };
                self.held -= 1;
                moved = true;
                L::breathe(s);
                self.go_on(s, at, held);
            }
        }
        moved
    }

    /// Whether a promise was kept.
    pub(super) fn may_settle(&self) -> bool {
        self.held > 0 && self.stages.iter().any(|placed| placed.queue.may_go_on())
    }

    fn go_on(&mut self, s: L::Scope<'_>, at: usize, held: Held<L>) {
        match held {
            Held::One(record) => self.push(s, at + 1, Moving::Object(record)),
            Held::Several(several) => self.push_several(s, at + 1, several),
            Held::Failed(error) => self.fail_at(at, error),
            Held::Next(..) if self.is_closed(at) => {}
            Held::Next(key, record) => {
                if let Err(stop) = self.accumulate_now(s, at, key, record) {
                    self.stopped(at, stop);
                }
            }
            Held::Promised(promise, about) => {
                let result = promise.take();
                let gone = || RecordError::new("internal error: a promise was taken twice");
                match result.unwrap_or_else(|| Err(gone())) {
                    Ok(value) => {
                        if let Err(error) = self.keep(s, at, about, value) {
                            self.fail_at(at, error);
                        }
                    }
                    Err(error) => {
                        self.forget(s, at, about);
                        self.fail_at(at, error);
                    }
                }
            }
        }
    }

    /// Makes what was promised into what the stage passes on.
    fn keep(
        &mut self,
        s: L::Scope<'_>,
        at: usize,
        about: Option<L::Object>,
        value: L::Object,
    ) -> Result<(), RecordError> {
        let Some(placed) = self.stages.get_mut(at) else {
            return Ok(());
        };
        match (&mut placed.stage, about) {
            (Stage::Filter(_), Some(record)) => {
                if L::is_true(s, &value)? {
                    self.push(s, at + 1, Moving::Object(record));
                }
            }
            (Stage::ForEach(_), Some(record)) => self.push(s, at + 1, Moving::Object(record)),
            (Stage::FlatMap(_), _) => match L::several(s, value) {
                Many::One(one) => self.push(s, at + 1, Moving::Object(one)),
                Many::Several(several) => self.push_several(s, at + 1, several),
            },
            (Stage::Accumulate(_, accumulator), _) => *accumulator = Some(value),
            (Stage::AccumulateByKey { groups, .. }, Some(key)) => {
                let groups = groups.get_or_insert_with(|| L::groups(s));
                L::put(s, groups, key, value)?;
            }
            _ => self.push(s, at + 1, Moving::Object(value)),
        }
        Ok(())
    }

    /// The accumulator that failed.
    fn forget(&mut self, s: L::Scope<'_>, at: usize, about: Option<L::Object>) {
        let placed = self.stages.get_mut(at);
        if let (Some(Stage::AccumulateByKey { groups, .. }), Some(key)) =
            (placed.map(|placed| &mut placed.stage), about)
            && let Some(groups) = groups
        {
            L::remove(s, groups, key);
        }
    }
}
