//! What an execution knows of its parts on other shards.
//!
//! ```text
//! initiator                          every other shard
//!   Prepare  ----------------------->  makes its part
//!            <-----------------------  Ready, or Failed
//!   Run      ----------------------->  (when all are ready)
//!   Records, End, Enough, Credit <-->  between any two
//!            <-----------------------  Finished
//!   Terminate ---------------------->  (when all have finished, if results are kept)
//! ```
//!
//! So nothing runs anywhere unless it can run everywhere, and nobody is done before all are. A cut
//! (collect, repartition) is crossed in batches. Of each cut no more than [`WINDOW`] batches to one
//! shard wait there; the sender reads on when some were taken. Whoever waits goes on taking what
//! crosses the cuts behind, so that two shards never wait for each other.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::{Batch, Parcel, Status, Team};

/// Batches of one cut that may wait at a shard.
const WINDOW: usize = 8;
/// Room is told of when so many were taken.
const CREDIT: usize = WINDOW / 2;

/// The text of RedisGears 1.x for shards that are silent for too long.
pub const MAX_IDLE: &str = "Execution max idle reached";

/// The parts on other shards. Shared by the worker and whoever carries parcels.
pub(super) struct Remote {
    pub(super) team: Team,
    state: Mutex<State>,
    /// What the worker has said in this turn, by shard; small words travel together.
    outbox: Mutex<Option<Vec<Vec<Parcel>>>>,
}

struct State {
    /// Others that have the plan.
    ready: usize,
    announced: bool,
    running: bool,
    /// Others whose part is done.
    finished: Vec<bool>,
    /// The own part is done.
    done_here: bool,
    /// All parts are.
    over: bool,
    failure: Option<String>,
    moved: bool,
    stopped: bool,
    cuts: Vec<Cut>,
    /// Nothing to do here until somebody else says something.
    waits: bool,
    /// Nothing to do here until a promise is kept.
    promised: bool,
    heard: Instant,
    said: Instant,
}

struct Cut {
    /// Whether what is collected here comes from this shard first, as in RedisGears 1.x.
    own_first: bool,
    inbox: VecDeque<(usize, Batch)>,
    /// Batches of each shard that were taken without telling it.
    taken: Vec<usize>,
    /// Shards from which nothing more comes.
    ended: Vec<bool>,
    /// Batches on their way to each shard.
    in_flight: Vec<usize>,
    /// Shards that want nothing more.
    enough: Vec<bool>,
    said_enough: bool,
    /// Nothing more is sent across it from here: nobody has to wait for room.
    said_end: bool,
}

/// What an execution is to do next.
pub(super) enum Todo {
    /// Wait for others.
    Wait,
    /// Take these records, which crossed a cut.
    Take(Batch),
    /// Go on reading, or flush.
    Own,
    /// End: all parts are done.
    Over,
    /// End: it can not go on.
    Failed(String),
    /// End: it was stopped.
    Stopped,
}

impl Remote {
    /// Of a plan with these cuts: whether each collects.
    pub(super) fn new(team: Team, collects: &[bool]) -> Self {
        let none = || vec![false; team.size];
        let cut = |&collects: &bool| Cut {
            own_first: collects && team.is_initiator(),
            inbox: VecDeque::new(),
            taken: vec![0; team.size],
            // Nothing is collected but by the initiator.
            ended: if collects && !team.is_initiator() {
                vec![true; team.size]
            } else {
                (0..team.size).map(|shard| shard == team.me).collect()
            },
            in_flight: vec![0; team.size],
            enough: none(),
            said_enough: false,
            said_end: false,
        };
        let state = State {
            ready: 0,
            announced: false,
            running: false,
            finished: none(),
            done_here: false,
            over: false,
            failure: None,
            moved: false,
            stopped: false,
            cuts: collects.iter().map(cut).collect(),
            waits: false,
            promised: false,
            heard: Instant::now(),
            said: Instant::now(),
        };
        Self {
            team,
            state: Mutex::new(state),
            outbox: Mutex::new(None),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn outbox(&self) -> MutexGuard<'_, Option<Vec<Vec<Parcel>>>> {
        self.outbox.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Until [`Remote::flush`] what is said waits.
    pub(super) fn gather(&self) {
        let nothing = || (0..self.team.size).map(|_| Vec::new()).collect();
        self.outbox().get_or_insert_with(nothing);
    }

    /// Sends what was said.
    pub(super) fn flush(&self) {
        let said = self.outbox().take();
        for (to, parcels) in said.into_iter().flatten().enumerate() {
            if !parcels.is_empty() {
                self.team.exchange.send(to, parcels);
            }
        }
    }

    /// Says something to a shard.
    pub(super) fn say(&self, to: usize, parcel: Parcel) {
        let mut outbox = self.outbox();
        let said = outbox.as_mut().and_then(|outbox| outbox.get_mut(to));
        match said {
            Some(said) => said.push(parcel),
            None => {
                drop(outbox);
                self.team.exchange.send(to, vec![parcel]);
            }
        }
    }

    /// Says something to the shard that was asked.
    pub(super) fn tell_initiator(&self, parcel: Parcel) {
        self.say(self.team.initiator, parcel);
    }

    /// Says something to all others.
    pub(super) fn tell_all(&self, parcel: &Parcel) {
        for shard in self.team.others() {
            self.say(shard, parcel.clone());
        }
    }

    /// Whether the others are still to be told what runs; asked once.
    pub(super) fn announces(&self) -> bool {
        let mut state = self.state();
        let first = self.team.is_initiator() && !std::mem::replace(&mut state.announced, true);
        if first {
            state.waits = true;
            state.heard = Instant::now();
        }
        first
    }

    /// Takes in what a shard says. The execution has something to do if `true`.
    pub(super) fn receive(&self, from: usize, parcel: Parcel) -> bool {
        let mut state = self.state();
        state.heard = Instant::now();
        match parcel {
            Parcel::Ready => {
                state.ready += 1;
                if !self.team.is_initiator() || state.ready + 1 != self.team.size || state.running {
                    return false;
                }
                state.running = true;
                drop(state);
                self.tell_all(&Parcel::Run);
                true
            }
            Parcel::Run => {
                state.running = true;
                true
            }
            Parcel::Records(batch) => {
                let Some(cut) = state.cuts.get_mut(batch.cut) else {
                    return false;
                };
                cut.inbox.push_back((from, batch));
                true
            }
            Parcel::End { cut } => {
                let cut = state.cuts.get_mut(cut);
                let ended = cut.and_then(|cut| cut.ended.get_mut(from));
                ended.is_some_and(|ended| !std::mem::replace(ended, true))
            }
            Parcel::Enough { cut } => {
                let cut = state.cuts.get_mut(cut);
                let enough = cut.and_then(|cut| cut.enough.get_mut(from));
                enough.is_some_and(|enough| !std::mem::replace(enough, true))
            }
            Parcel::Credit { cut, batches } => {
                let cut = state.cuts.get_mut(cut);
                let flying = cut.and_then(|cut| cut.in_flight.get_mut(from));
                flying.is_some_and(|flying| {
                    *flying = flying.saturating_sub(batches);
                    *flying < WINDOW
                })
            }
            Parcel::Finished => {
                if let Some(finished) = state.finished.get_mut(from) {
                    *finished = true;
                }
                state.all_finished(self.team.me) && state.done_here
            }
            Parcel::Terminate => {
                state.over = true;
                true
            }
            Parcel::Failed(why) => {
                state.failure.get_or_insert(why);
                true
            }
            Parcel::Abort => {
                state.stopped = true;
                true
            }
            Parcel::Alive => false,
            // Whoever carries parcels has made this part of it.
            Parcel::Prepare { .. } => false,
        }
    }

    /// It can not go on. Whether that is news.
    pub(super) fn fail(&self, why: &str) -> bool {
        let mut state = self.state();
        let news = state.failure.is_none() && !state.stopped;
        state.failure.get_or_insert_with(|| why.to_owned());
        news
    }

    /// The slots are not what they were.
    pub(super) fn moved(&self) {
        self.state().moved = true;
    }

    /// This shard waits for what was promised here: that may take as long as it likes.
    pub(super) fn waits_for_promises(&self, promised: bool) {
        if promised {
            let mut state = self.state();
            state.waits = false;
            state.promised = true;
        }
    }

    /// Whether that is news.
    pub(super) fn take_moved(&self) -> bool {
        std::mem::take(&mut self.state().moved)
    }

    /// What is to be done. The first so many cuts are closed for now: there is no room behind them.
    pub(super) fn todo(&self, clogged: usize) -> Todo {
        let mut state = self.state();
        state.waits = false;
        state.promised = false;
        if let Some(why) = &state.failure {
            return Todo::Failed(why.clone());
        }
        if state.stopped {
            return Todo::Stopped;
        }
        if state.done_here {
            let over = if self.team.is_initiator() {
                state.all_finished(self.team.me)
            } else {
                state.over
            };
            return if over { Todo::Over } else { state.wait() };
        }
        if !state.running {
            return state.wait();
        }
        // From the last cut: what crosses it is in nobody's way.
        let mut credit = None;
        let mut found = None;
        for (at, cut) in state.cuts.iter_mut().enumerate().rev() {
            if at < clogged {
                break;
            }
            if cut.holds() {
                continue;
            }
            if let Some((from, batch)) = cut.inbox.pop_front() {
                if let Some(taken) = cut.taken.get_mut(from) {
                    *taken += 1;
                    if *taken >= CREDIT && !cut.ended.get(from).is_some_and(|ended| *ended) {
                        credit = Some((from, at, std::mem::take(taken)));
                    }
                }
                found = Some(batch);
                break;
            }
            if cut.is_full() {
                // What would cross it now has to wait, and so has all before it.
                return state.wait();
            }
        }
        drop(state);
        if let Some((to, cut, batches)) = credit {
            self.say(to, Parcel::Credit { cut, batches });
        }
        found.map_or(Todo::Own, Todo::Take)
    }

    /// Sends a batch. Whether there is no room for another one across its cut.
    pub(super) fn send(&self, to: usize, batch: Batch) -> bool {
        let full = {
            let mut state = self.state();
            let cut = state.cuts.get_mut(batch.cut);
            cut.is_some_and(|cut| {
                if let Some(flying) = cut.in_flight.get_mut(to) {
                    *flying += 1;
                }
                cut.is_full()
            })
        };
        self.say(to, Parcel::Records(batch));
        full
    }

    /// Whether there is no room for a batch across this cut.
    pub(super) fn is_full(&self, cut: usize) -> bool {
        self.state().cuts.get(cut).is_some_and(Cut::is_full)
    }

    /// The shards that want nothing more across this cut.
    pub(super) fn enough(&self, cut: usize) -> Vec<bool> {
        let state = self.state();
        let cut = state.cuts.get(cut);
        cut.map(|cut| cut.enough.clone()).unwrap_or_default()
    }

    /// Tells the others that nothing more is wanted across this cut.
    pub(super) fn say_enough(&self, cut: usize, collects: bool) {
        {
            let mut state = self.state();
            let Some(cut) = state.cuts.get_mut(cut) else {
                return;
            };
            if std::mem::replace(&mut cut.said_enough, true) {
                return;
            }
        }
        if !collects || self.team.is_initiator() {
            self.tell_all(&Parcel::Enough { cut });
        }
    }

    /// Nothing more crosses this cut from here, as the shards are told that wait for it.
    pub(super) fn end(&self, cut: usize, collects: bool) {
        if let Some(cut) = self.state().cuts.get_mut(cut) {
            cut.said_end = true;
        }
        if !collects {
            self.tell_all(&Parcel::End { cut });
        } else if !self.team.is_initiator() {
            self.tell_initiator(Parcel::End { cut });
        }
    }

    /// Whether all that crosses this cut to here was taken. Else there is something to wait for.
    pub(super) fn has_all(&self, cut: usize) -> bool {
        let mut state = self.state();
        let all = state
            .cuts
            .get(cut)
            .is_none_or(|cut| cut.inbox.is_empty() && cut.ended.iter().all(|ended| *ended));
        if !all {
            state.waits = true;
            state.heard = Instant::now();
        }
        all
    }

    /// The part of this shard is done.
    pub(super) fn done_here(&self) {
        self.state().done_here = true;
        if !self.team.is_initiator() {
            self.tell_initiator(Parcel::Finished);
        }
    }

    /// Tells the initiator now and then that this shard is at work.
    pub(super) fn say_alive(&self) {
        if self.team.is_initiator() {
            return;
        }
        let mut state = self.state();
        let now = Instant::now();
        if now.duration_since(state.said) < self.team.idle / 4 {
            return;
        }
        state.said = now;
        drop(state);
        self.tell_initiator(Parcel::Alive);
    }

    /// A running execution, in the words of a cluster.
    pub(super) fn status(&self, status: Status) -> Status {
        let state = self.state();
        let initiator = self.team.is_initiator();
        match status {
            Status::Created if state.announced => Status::PendingReceive,
            Status::Created if !initiator => Status::PendingRun,
            Status::Running if !state.running && initiator => Status::PendingReceive,
            Status::Running if !state.running => Status::PendingRun,
            Status::Running if state.done_here && initiator => Status::PendingCluster,
            Status::Running if state.done_here => Status::PendingTermination,
            other => other,
        }
    }

    /// Others that have the plan, and others that are done, as the initiator knows.
    pub(super) fn counts(&self) -> (usize, usize) {
        let state = self.state();
        let finished = state.finished.iter().filter(|done| **done).count();
        (state.ready, finished)
    }

    /// Who is silent, if this shard has waited for others for too long.
    pub(super) fn silent(&self, now: Instant) -> Option<String> {
        let state = self.state();
        if state.promised && !self.team.is_initiator() {
            // It is this shard that the others would miss.
            let said = now.saturating_duration_since(state.said);
            return (said >= self.team.idle / 4).then(String::new);
        }
        let silent = now.saturating_duration_since(state.heard);
        if !state.waits || silent < self.patience() {
            return None;
        }
        let running = state.running;
        let waited_for = self.team.others().filter(|&shard| {
            let finished = state.finished.get(shard).is_some_and(|done| *done);
            !running || !finished
        });
        let names: Vec<_> = waited_for
            .map(|shard| self.team.exchange.name(shard))
            .collect();
        Some(names.join(", "))
    }

    /// The initiator alone decides that it takes too long; what it decides reaches the others. They
    /// look after it only in case that it was not heard.
    fn patience(&self) -> Duration {
        if self.team.is_initiator() {
            self.team.idle
        } else {
            self.team.idle * 3
        }
    }

    /// It waits again as if it began to.
    pub(super) fn wait_on(&self) {
        let mut state = self.state();
        state.heard = Instant::now();
        state.said = state.heard;
    }
}

impl State {
    fn all_finished(&self, me: usize) -> bool {
        let mut others = self.finished.iter().enumerate();
        others.all(|(shard, finished)| shard == me || *finished)
    }

    fn wait(&mut self) -> Todo {
        self.waits = true;
        self.heard = Instant::now();
        Todo::Wait
    }
}

impl Cut {
    /// Whether what came waits for records of this shard: nobody lacks room, so that nobody has to
    /// wait with it.
    fn holds(&self) -> bool {
        self.own_first && !self.said_end && (0..self.taken.len()).all(|from| self.has_room(from))
    }

    /// Whether a shard may send more across it to here.
    fn has_room(&self, from: usize) -> bool {
        let waiting = self.inbox.iter().filter(|(sender, _)| *sender == from);
        let taken = self.taken.get(from).copied().unwrap_or(0);
        self.ended.get(from).is_some_and(|ended| *ended) || taken + waiting.count() < WINDOW
    }

    fn is_full(&self) -> bool {
        if self.said_end {
            return false;
        }
        let mut shards = self.in_flight.iter().zip(&self.enough);
        shards.any(|(flying, enough)| *flying >= WINDOW && !enough)
    }
}
