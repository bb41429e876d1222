//! All executions of this shard: their ids, how many are kept, and for how many bytes.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use super::execution::Machinery;
use super::{
    Error, Execution, Id, Lane, Language, Launch, Outcome, Part, Pool, Registration, Team,
};

/// What bounds the executions that are kept. Changed while the server runs.
#[derive(Debug)]
pub struct Limits {
    /// Executions that are kept; none or fewer: no bound.
    pub executions: AtomicI64,
    /// The same of one registration, once they ended.
    pub of_registration: AtomicI64,
    /// Whether the time that steps take is measured.
    pub profile: AtomicBool,
    /// Bytes that the results of one execution, and all kept ones together, may occupy.
    pub result_bytes: AtomicUsize,
}

/// Executions by id.
pub struct Registry<L: Language> {
    limits: Arc<Limits>,
    machinery: Arc<Machinery>,
    kept: Mutex<Kept<L>>,
    this: Weak<Self>,
}

struct Kept<L: Language> {
    /// The number of the next execution that starts here.
    next: u64,
    /// How many there were.
    count: u64,
    all: HashMap<Id, Entry<L>>,
    /// Those that may be forgotten, by when they were made.
    order: BTreeMap<u64, Id>,
    bytes: usize,
}

struct Entry<L: Language> {
    execution: Arc<Execution<L>>,
    /// Leaves when it ends.
    passing: bool,
    bytes: usize,
}

impl<L: Language> Registry<L> {
    /// No execution yet.
    pub fn new(limits: Arc<Limits>, machinery: Arc<Machinery>) -> Arc<Self> {
        Arc::new_cyclic(|this| Self {
            limits,
            machinery,
            kept: Mutex::new(Kept {
                next: 0,
                count: 0,
                all: HashMap::new(),
                order: BTreeMap::new(),
                bytes: 0,
            }),
            this: this.clone(),
        })
    }

    fn kept(&self) -> MutexGuard<'_, Kept<L>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The bounds.
    pub fn limits(&self) -> &Arc<Limits> {
        &self.limits
    }

    /// The pool that executions run on.
    pub fn pool(&self) -> &Arc<Pool> {
        &self.machinery.pool
    }

    /// Whether this shard has others beside it.
    pub fn has_shards(&self) -> bool {
        self.shard_id() != super::ShardId::ALONE
    }

    /// The id of this shard; zeros while it is the only one.
    pub fn shard_id(&self) -> super::ShardId {
        self.machinery.shards.id()
    }

    /// The part of an execution that another shard starts can not be made.
    pub fn refuse_part(&self, id: Id) {
        self.machinery.shards.leave(id);
    }

    /// Makes an execution, not started yet.
    pub fn create(&self, launch: Launch<L>) -> Arc<Execution<L>> {
        let (number, order) = {
            let mut kept = self.kept();
            kept.next += 1;
            kept.count += 1;
            (kept.next - 1, kept.count)
        };
        let shards = &self.machinery.shards;
        let id = Id {
            shard: shards.id(),
            number,
        };
        let team = launch.everywhere.as_ref().and_then(|_| shards.team(id));
        self.admit(id, order, team, launch)
    }

    /// Makes the part of an execution that another shard starts.
    pub fn create_part(&self, id: Id, team: Team, launch: Launch<L>) -> Arc<Execution<L>> {
        let order = {
            let mut kept = self.kept();
            kept.next = kept.next.max(id.number.saturating_add(1));
            kept.count += 1;
            kept.count
        };
        self.admit(id, order, Some(team), launch)
    }

    fn admit(
        &self,
        id: Id,
        order: u64,
        team: Option<Team>,
        launch: Launch<L>,
    ) -> Arc<Execution<L>> {
        let shared = team.is_some();
        // Outside the lock: the planner asks the language about callbacks.
        let registration = launch.registration.clone();
        let machinery = self.machinery.clone();
        let execution = Execution::new(id, order, launch, team, machinery, &self.limits);
        let this = self.this.clone();
        // First of all: who is told of the end finds it gone if nobody keeps it.
        execution.when_done(Box::new(move |outcome| {
            if let Some(registry) = this.upgrade() {
                if shared {
                    registry.machinery.shards.leave(id);
                }
                registry.ended(id, outcome, registration.as_deref());
            }
        }));
        let entry = Entry {
            execution: execution.clone(),
            passing: false,
            bytes: 0,
        };
        self.kept().all.insert(id, entry);
        if shared {
            let part: Arc<dyn Part> = execution.clone();
            self.machinery.shards.attend(id, Arc::downgrade(&part));
        }
        execution
    }

    /// The execution of this id, as text.
    pub fn find(&self, id: &[u8]) -> Result<Arc<Execution<L>>, Error> {
        Id::parse(id)
            .and_then(|id| self.get(id))
            .ok_or(Error::NoSuchExecution)
    }

    /// The execution of this id.
    pub fn get(&self, id: Id) -> Option<Arc<Execution<L>>> {
        let kept = self.kept();
        kept.all.get(&id).map(|entry| entry.execution.clone())
    }

    /// All executions.
    pub fn list(&self) -> Vec<Arc<Execution<L>>> {
        let kept = self.kept();
        let mut all: Vec<_> = kept
            .all
            .values()
            .map(|entry| entry.execution.clone())
            .collect();
        drop(kept);
        all.sort_by_key(|execution| execution.order);
        all
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.kept().all.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Starts an execution. With `keep` it stays for whoever asks for its results later; the oldest
    /// ones over the limit go.
    pub fn start(&self, execution: &Arc<Execution<L>>, keep: bool) {
        self.keep(execution, keep);
        execution.start();
    }

    /// The same, after those that are in the lane already.
    pub fn start_in(&self, lane: &Lane<L>, execution: Arc<Execution<L>>, keep: bool) {
        self.keep(&execution, keep);
        lane.push(execution);
    }

    fn keep(&self, execution: &Arc<Execution<L>>, keep: bool) {
        let id = execution.id;
        let limit = self.limits.executions.load(Ordering::Relaxed);
        execution.kept.store(keep, Ordering::Relaxed);
        if let (true, Some(registration)) = (keep, &execution.registration) {
            registration.kept().live += 1;
        }
        let mut gone = Vec::new();
        let mut kept = self.kept();
        if keep {
            kept.order.insert(execution.order, id);
        } else if let Some(entry) = kept.all.get_mut(&id) {
            entry.passing = true;
        }
        while limit > 0 && kept.order.len() as i64 > limit {
            let Some((_, oldest)) = kept.order.pop_first() else {
                break;
            };
            gone.extend(kept.forget(oldest));
        }
        drop(kept);
        // Their results are freed outside the lock.
        drop(gone);
    }

    /// A registration is gone: what it leaves goes when its last execution has ended.
    pub fn retire(&self, registration: &Registration<L>) {
        let ids = {
            let mut kept = registration.kept();
            kept.gone = true;
            if kept.live > 0 {
                return;
            }
            std::mem::take(&mut kept.ended)
        };
        self.remove_all(ids);
    }

    fn remove_all(&self, ids: impl IntoIterator<Item = Id>) {
        let mut kept = self.kept();
        let gone: Vec<_> = ids.into_iter().filter_map(|id| kept.remove(id)).collect();
        drop(kept);
        drop(gone);
    }

    /// Forgets an execution that never started.
    pub fn discard(&self, execution: &Execution<L>) {
        execution.discard();
        let gone = self.kept().remove(execution.id);
        drop(gone);
    }

    /// Aborts an execution that no worker has seen, and forgets it.
    pub fn abort_and_forget(&self, execution: &Execution<L>) {
        execution.abort();
        let gone = self.kept().remove(execution.id);
        drop(gone);
    }

    /// Drops an execution that has ended.
    pub fn drop_finished(&self, id: &[u8]) -> Result<(), Error> {
        let execution = self.find(id)?;
        if !execution.snapshot().status.is_finished() {
            return Err(Error::NotFinished);
        }
        let gone = self.kept().remove(execution.id);
        drop(gone);
        Ok(())
    }

    /// Drops all executions that have ended.
    pub fn drop_all_finished(&self) {
        let all = self.list();
        let finished = |execution: &&Arc<Execution<L>>| execution.snapshot().status.is_finished();
        self.remove_all(all.iter().filter(finished).map(|execution| execution.id));
    }

    /// Drops an execution as soon as it has ended, if it is known.
    pub fn drop_soon(&self, id: Id) {
        let mut kept = self.kept();
        if let Some(entry) = kept.all.get(&id) {
            let order = entry.execution.order;
            kept.order.remove(&order);
        }
        let gone = kept.forget(id);
        drop(kept);
        drop(gone);
    }

    fn ended(&self, id: Id, outcome: &Outcome, registration: Option<&Registration<L>>) {
        let limit = self.limits.result_bytes.load(Ordering::Relaxed);
        let mut gone = Vec::new();
        let mut kept = self.kept();
        match kept.all.get_mut(&id) {
            Some(entry) if entry.passing => gone.extend(kept.remove(id)),
            Some(entry) => {
                entry.bytes = outcome.size();
                kept.bytes += outcome.size();
                gone.extend(kept.shrink(limit, id));
            }
            None => {}
        }
        drop(kept);
        drop(gone);
        if let Some(registration) = registration {
            self.ended_of(id, outcome, registration);
        }
    }

    /// Of the executions of a registration the newest stay. Over the limit each that ends takes the
    /// place of the oldest: as in RedisGears 1.x a limit that was lowered does not shorten the list.
    fn ended_of(&self, id: Id, outcome: &Outcome, registration: &Registration<L>) {
        registration.ended(outcome);
        let limit = self.limits.of_registration.load(Ordering::Relaxed);
        let mut kept = registration.kept();
        // One that nobody keeps was never counted.
        let Some(live) = kept.live.checked_sub(1) else {
            return;
        };
        kept.live = live;
        kept.ended.push_back(id);
        let most = usize::try_from(limit).ok().filter(|&most| most > 0);
        let surplus = match most {
            _ if kept.gone && live == 0 => kept.ended.len(),
            Some(most) if kept.ended.len() > most => 1,
            Some(_) | None => 0,
        };
        let gone: Vec<_> = kept.ended.drain(..surplus).collect();
        drop(kept);
        self.remove_all(gone);
    }
}

impl<L: Language> Kept<L> {
    fn remove(&mut self, id: Id) -> Option<Arc<Execution<L>>> {
        let entry = self.all.remove(&id)?;
        self.bytes -= entry.bytes;
        self.order.remove(&entry.execution.order);
        Some(entry.execution)
    }

    /// Forgets an execution now or, if it has not ended, when it does.
    fn forget(&mut self, id: Id) -> Option<Arc<Execution<L>>> {
        let entry = self.all.get_mut(&id)?;
        if entry.execution.snapshot().status.is_finished() {
            return self.remove(id);
        }
        entry.passing = true;
        None
    }

    /// Drops the oldest ended executions until their results fit, but never the newest.
    fn shrink(&mut self, limit: usize, newest: Id) -> Vec<Arc<Execution<L>>> {
        let mut gone = Vec::new();
        while self.bytes > limit {
            let oldest =
                self.order.values().copied().find(|id| {
                    *id != newest && self.all.get(id).is_some_and(|entry| entry.bytes > 0)
                });
            let Some(oldest) = oldest else { break };
            gone.extend(self.remove(oldest));
        }
        gone
    }
}
