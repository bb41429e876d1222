//! Sessions: linked ones by id, and dead ones, which were replaced while something of them ran.
//!
//! Neither list keeps a session alive. What does are its references: registrations, executions, time
//! events, and handles that code holds. A session is listed for as long as it has any.
//!
//! ```text
//! a script runs ---registers---> linked ---replaced, or a data set is loaded---> dead
//!                                  |  no reference is left                         |
//!                                  +----------------------> gone <-----------------+
//! ```

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use super::{Function, Registrations, State};
use crate::engine::Id;
use crate::engine::wire::{BundleWire, SessionWire};
use crate::python::Session;

/// Within this time other shards hear of an upgrade, or not before they meet this one again.
const LEAVES: Duration = Duration::from_secs(5);

/// So many functions that were replaced are kept as long, and no more.
const LEAVING: usize = 200;

/// A session that has, or had, registrations.
pub(super) struct Linked {
    session: Weak<Session>,
    /// What its callbacks were shipped in, if that was not here.
    pub(super) wire: SessionWire,
    pub(super) registrations: Vec<Id>,
}

impl Linked {
    pub(super) fn new(session: &Arc<Session>, wire: &SessionWire) -> Self {
        Self {
            session: Arc::downgrade(session),
            wire: wire.clone(),
            registrations: Vec::new(),
        }
    }

    /// Whether it is this very one.
    fn is(&self, session: &Arc<Session>) -> bool {
        std::ptr::eq(self.session.as_ptr(), Arc::as_ptr(session))
    }

    /// Whether it is this one on another shard, which may not have had its script.
    fn is_of(&self, wire: &SessionWire) -> bool {
        let own = &self.wire;
        if own.instance.is_empty() {
            // Of a version that did not tell them apart.
            return own == wire;
        }
        (&own.id, &own.user, &own.instance) == (&wire.id, &wire.user, &wire.instance)
    }

    /// Whether it may have references still.
    fn may_live(&self) -> bool {
        !self.registrations.is_empty() || self.session.strong_count() > 0
    }
}

/// Functions that were replaced a moment ago: another shard, which has not heard of that, may start
/// an execution of one.
#[derive(Default)]
pub(super) struct Replaced(VecDeque<(Instant, Arc<Function>)>);

impl Replaced {
    /// Those that nobody asks for any more, to be dropped outside the lock.
    fn expired(&mut self) -> Vec<(Instant, Arc<Function>)> {
        let now = Instant::now();
        let old = |(since, _): &&(Instant, Arc<Function>)| now - *since >= LEAVES;
        let surplus = self.0.len().saturating_sub(LEAVING);
        let count = self.0.iter().take_while(old).count().max(surplus);
        self.0.drain(..count).collect()
    }
}

/// What refers to a session beside its registrations.
#[derive(Default)]
struct Uses {
    executions: usize,
    time_events: usize,
    /// Of its registrations that such an execution is of.
    running: Vec<Id>,
}

/// A session in a listing.
pub(in crate::redis) struct ListedSession {
    pub(in crate::redis) session: Arc<Session>,
    pub(in crate::redis) references: usize,
    /// Rather than dead.
    pub(in crate::redis) linked: bool,
    /// Also removed ones of which something runs.
    pub(in crate::redis) registrations: Vec<Id>,
}

impl State {
    /// A session is in the index no more. What it still runs keeps it on the list of dead ones.
    fn unlink(&mut self, id: &str) {
        self.dead.retain(|session| session.strong_count() > 0);
        if let Some(linked) = self.sessions.remove(id)
            && linked.session.strong_count() > 0
        {
            self.dead.push(linked.session);
        }
    }

    /// The place of a session in the index, which it takes from any other one of its id.
    pub(super) fn link(&mut self, session: &Arc<Session>, wire: &SessionWire) -> &mut Linked {
        let id = session.id();
        if self
            .sessions
            .get(id)
            .is_some_and(|linked| !linked.is(session))
        {
            self.unlink(id);
        }
        let linked = self
            .sessions
            .entry(id.to_owned())
            .or_insert_with(|| Linked::new(session, wire));
        if linked.wire.source.is_empty() {
            linked.wire.source.clone_from(&wire.source);
        }
        linked
    }

    /// Forgets sessions that are gone.
    pub(super) fn forget_sessions(&mut self) {
        self.sessions.retain(|_, linked| linked.may_live());
        self.dead.retain(|session| session.strong_count() > 0);
    }

    /// Sessions with registrations.
    pub(super) fn with_registrations(&self) -> impl Iterator<Item = &Linked> {
        let sessions = self.sessions.values();
        sessions.filter(|linked| !linked.registrations.is_empty())
    }
}

impl Registrations {
    /// What refers to sessions, by where they are.
    fn uses(&self) -> HashMap<*const Session, Uses> {
        let mut uses: HashMap<_, Uses> = HashMap::new();
        for execution in self.registry.list() {
            let uses = uses
                .entry(Arc::as_ptr(&*execution.plan.context))
                .or_default();
            uses.executions += 1;
            if let Some(registration) = &execution.registration
                && !uses.running.contains(&registration.id)
            {
                uses.running.push(registration.id);
            }
        }
        for session in self.time_events.sessions() {
            uses.entry(Arc::as_ptr(&session)).or_default().time_events += 1;
        }
        uses
    }

    /// Linked sessions by id, then dead ones, the oldest first. The server lock is held.
    pub(in crate::redis) fn list_sessions(&self) -> Vec<ListedSession> {
        let mut uses = self.uses();
        let found: Vec<_> = {
            let state = self.state();
            let linked = state.sessions.values().map(|linked| {
                let session = linked.session.upgrade();
                session.map(|session| (session, true, linked.registrations.clone()))
            });
            let dead = state.dead.iter().map(|session| {
                let session = session.upgrade();
                session.map(|session| (session, false, Vec::new()))
            });
            linked.chain(dead).flatten().collect()
        };
        let list = found.into_iter().map(|(session, linked, registrations)| {
            let mut registrations = registrations;
            let uses = uses.remove(&Arc::as_ptr(&session)).unwrap_or_default();
            let gone = uses.running.into_iter();
            let gone: Vec<_> = gone.filter(|id| !registrations.contains(id)).collect();
            registrations.extend(gone);
            ListedSession {
                references: registrations.len()
                    + uses.executions
                    + uses.time_events
                    + session.handles(),
                session,
                linked,
                registrations,
            }
        });
        list.filter(|listed| listed.references > 0).collect()
    }

    /// Whether a session of this id is linked. The server lock is held.
    pub(in crate::redis) fn has_session(&self, id: &str) -> bool {
        let session = match self.state().sessions.get(id) {
            None => return false,
            Some(linked) if !linked.registrations.is_empty() => return true,
            Some(linked) => linked.session.upgrade(),
        };
        session.is_some_and(|session| {
            session.handles() > 0 || self.uses().contains_key(&Arc::as_ptr(&session))
        })
    }

    /// Whether it is this very session that is linked.
    pub(super) fn is_own(&self, session: &Arc<Session>) -> bool {
        let state = self.state();
        let linked = state.sessions.get(session.id());
        linked.is_some_and(|linked| linked.is(session))
    }

    /// Whether a session was replaced: what it registers nobody would ever remove.
    pub(super) fn is_dead(&self, session: &Arc<Session>) -> bool {
        let at = Arc::as_ptr(session);
        let state = self.state();
        state
            .dead
            .iter()
            .any(|dead| std::ptr::eq(dead.as_ptr(), at))
    }

    /// A linked session; with `wire` only the very same one. The server lock is held.
    pub(in crate::redis) fn linked_session(
        &self,
        id: &str,
        wire: Option<&SessionWire>,
    ) -> Option<Arc<Session>> {
        let state = self.state();
        let linked = state.sessions.get(id);
        let linked = linked.filter(|linked| wire.is_none_or(|wire| linked.is_of(wire)));
        linked?.session.upgrade()
    }

    /// The session that another shard runs something of, if it is known here. The server lock is held.
    pub(in crate::redis) fn session_of_run(&self, wire: &SessionWire) -> Option<Arc<Session>> {
        let found: Vec<_> = {
            let state = self.state();
            let linked = state.sessions.get(&wire.id).map(|linked| &linked.session);
            let all = linked.into_iter().chain(&state.dead);
            all.filter_map(Weak::upgrade).collect()
        };
        found.into_iter().find(|session| session.is_of(wire))
    }

    /// A linked session, as listings show it. The server lock is held.
    pub(in crate::redis) fn session(&self, id: &str) -> Option<Arc<Session>> {
        let found = self.linked_session(id, None);
        found.filter(|_| self.has_session(id))
    }

    /// The script of a linked session. The server lock is held.
    pub(in crate::redis) fn source(&self, id: &str) -> Option<Vec<u8>> {
        self.session(id)?;
        let state = self.state();
        let linked = state.sessions.get(id)?;
        Some(linked.wire.source.to_vec())
    }

    /// Why something of a session of another shard can not be made here, if so: it was replaced.
    pub(super) fn refuse_session_wire(&self, wire: &SessionWire) -> Option<String> {
        let id = &wire.id;
        let linked = self.linked_session(id, None);
        let other = linked.is_some_and(|linked| !linked.is_of(wire)) && self.has_session(id);
        let known = self.session_of_run(wire);
        let dead = known.is_some_and(|session| self.is_dead(&session));
        (other || dead).then(|| format!("its session {id} was replaced"))
    }

    /// Links a session that a time event brought with the data, unless its id is taken. The server
    /// lock is held.
    pub(super) fn link_if_free(&self, session: &Arc<Session>, wire: &SessionWire) {
        if self.is_own(session) || !self.has_session(session.id()) {
            self.state().link(session, wire);
        }
    }

    /// Sessions that a bundle replaces go, with all that they have registered here; but not a session
    /// of the bundle itself, which may have come by another way.
    pub(super) fn replace_sessions(&self, bundle: &BundleWire) {
        let came = |id: &String| {
            let state = self.state();
            let linked = state.sessions.get(id);
            linked.is_some_and(|linked| {
                let is_there = || bundle.sessions.iter().any(|wire| linked.is_of(wire));
                !linked.wire.instance.is_empty() && is_there()
            })
        };
        for id in bundle.unlink.iter().filter(|id| !came(id)) {
            self.replace_session(id);
        }
    }

    /// A session goes, with all that it has registered here. Whoever waits for an answer of it gets
    /// that. The server lock is held.
    pub(super) fn replace_session(&self, id: &str) {
        let ids = self.registrations_of(id);
        if self.registry.has_shards() {
            self.keep_for_others(&ids);
        }
        self.remove_all(&ids, super::Waiting::AreAnswered);
        self.state().unlink(id);
    }

    /// All sessions go: a data set brings others. The server lock is held.
    pub(super) fn unlink_all(&self) {
        let mut state = self.state();
        let ids: Vec<_> = state.sessions.keys().cloned().collect();
        for id in ids {
            state.unlink(&id);
        }
    }

    fn keep_for_others(&self, ids: &[Id]) {
        let functions = ids.iter().filter_map(|&id| self.function(id));
        let functions: Vec<_> = functions
            .map(|function| (Instant::now(), function))
            .collect();
        let gone = {
            let mut state = self.state();
            state.replaced.0.extend(functions);
            state.replaced.expired()
        };
        drop(gone);
    }

    /// Sessions of which nothing is left but functions that other shards may still start. They hold
    /// no requirements, as far as anybody can see. The server lock is held.
    pub(super) fn left_for_others(&self) -> Vec<Arc<Session>> {
        let mut left: Vec<Arc<Session>> = Vec::new();
        for (_, function) in &self.state().replaced.0 {
            let session: &Arc<Session> = &function.plan.context;
            if !left.iter().any(|other| Arc::ptr_eq(other, session)) {
                left.push(session.clone());
            }
        }
        if !left.is_empty() {
            let uses = self.uses();
            left.retain(|one| one.handles() == 0 && !uses.contains_key(&Arc::as_ptr(one)));
        }
        left
    }

    /// Lets go of functions that were replaced some time ago. The server lock is held.
    pub(in crate::redis) fn forget_replaced(&self) {
        let gone = self.state().replaced.expired();
        drop(gone);
    }

    /// A function that another shard runs: one that is registered, that was replaced a moment ago, or
    /// that others have made already and this shard is about to. The server lock is held.
    pub(in crate::redis) fn function_for_others(&self, id: Id) -> Option<Arc<Function>> {
        let state = self.state();
        if let Some(entry) = state.order_of.get(&id).and_then(|at| state.entries.get(at)) {
            return Some(entry.function.clone());
        }
        let replaced = state.replaced.0.iter().map(|(_, function)| function);
        let coming = state.held.values().flat_map(|held| held.functions());
        let mut all = replaced.chain(coming);
        all.find(|function| function.id == id).cloned()
    }

    /// Whether a registration is gone for good. The server lock is held.
    pub(in crate::redis) fn is_buried(&self, id: Id) -> bool {
        self.state().buried.contains(&id)
    }
}
