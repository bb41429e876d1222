//! Requirements of registrations: given back when a session is replaced, and waited for.

use std::sync::Arc;

use super::{Fires, Registrations};
use crate::engine::wire::{BundleWire, RegistrationWire, SessionWire};
use crate::engine::{Id, LogLevel};
use crate::python::{self, Requirement, Session};

/// A registration that could not be made, with what it is made of.
struct Waiting {
    order: u64,
    wire: RegistrationWire,
    session: Arc<Session>,
    session_wire: SessionWire,
}

/// How many sessions use a requirement, without some.
fn users_but(requirement: &Requirement, some: &[Arc<Session>]) -> usize {
    let uses = |session: &&Arc<Session>| {
        let mut all = session.requirements().iter();
        all.any(|one| one.build() == requirement.build())
    };
    let without = some.iter().filter(uses).count();
    requirement.users().saturating_sub(without)
}

impl Registrations {
    /// The sessions that a change replaces. The server lock is held.
    pub(super) fn unlinked(&self, bundle: &BundleWire) -> Vec<Arc<Session>> {
        let ids = bundle.unlink.iter();
        ids.filter_map(|id| self.linked_session(id, None)).collect()
    }

    /// They are replaced: requirements that only they used are listed no more. The server lock is held.
    pub(super) fn release(&self, sessions: Vec<Arc<Session>>) {
        for session in sessions {
            let mut gone = self.left_for_others();
            if !gone.iter().any(|other| Arc::ptr_eq(other, &session)) {
                gone.push(session.clone());
            }
            let only = session.requirements().iter();
            let only = only.filter(|one| users_but(one, &gone) == 0).cloned();
            self.requirements.unlink(&only.collect::<Vec<_>>());
        }
    }

    /// How many sessions use a requirement. The server lock is held.
    pub(in crate::redis) fn users_of(&self, requirement: &Requirement) -> usize {
        users_but(requirement, &self.left_for_others())
    }

    /// Requirements were installed after what needs them came: those registrations run from now on. On
    /// a thread that may wait.
    pub(in crate::redis) fn revive(&'static self) {
        for waiting in self.lock.with(|_| self.waiting()) {
            let Some(id) = Id::parse(waiting.wire.id.as_bytes()) else {
                continue;
            };
            let (wire, session) = (&waiting.wire, &waiting.session);
            let limits = self.registry.limits().clone();
            let language = &waiting.session_wire.language;
            let function = python::receive_registration(wire, id, session, language, limits);
            if function.broken.is_some() {
                continue;
            }
            self.lock.with(|_| {
                let fires = self.fires(&function, &wire.trigger);
                let before = {
                    let mut state = self.state();
                    let entry = state.entries.get_mut(&waiting.order);
                    let Some(entry) = entry.filter(|entry| entry.function.id == id) else {
                        return;
                    };
                    entry.fires = fires;
                    std::mem::replace(&mut entry.function, function.clone())
                };
                drop(before);
                if self.is_loading() {
                    self.state().after_load.push(function.clone());
                } else {
                    self.call_back(&function, function.on_registered.as_ref(), "OnRegistered");
                }
                self.activate();
            });
            let text = format!("registration {id} can run now: its requirements are installed");
            self.log(LogLevel::Notice, &text);
        }
    }

    /// In which order registrations are made of what was shipped: those of a session together, so that
    /// what one session imports is not replaced by what another one needs in between.
    pub(super) fn by_session(wires: &[RegistrationWire]) -> Vec<usize> {
        let mut order: Vec<_> = (0..wires.len()).collect();
        order.sort_by_key(|&at| wires.get(at).map(|wire| &wire.session));
        order
    }

    /// Those that can not run although what they need is there. The server lock is held.
    fn waiting(&self) -> Vec<Waiting> {
        let state = self.state();
        let broken = state.entries.iter();
        let broken = broken.filter(|(_, entry)| matches!(entry.fires, Fires::Broken));
        let waiting = broken.filter_map(|(&order, entry)| {
            let session: &Arc<Session> = &entry.function.plan.context;
            let needs = session.requirements();
            let ready = !needs.is_empty() && needs.iter().all(|one| one.is_installed());
            let linked = state.sessions.get(&entry.wire.session)?;
            ready.then(|| Waiting {
                order,
                wire: entry.wire.clone(),
                session: session.clone(),
                session_wire: linked.wire.clone(),
            })
        });
        let mut waiting: Vec<_> = waiting.collect();
        waiting.sort_by(|one, other| one.wire.session.cmp(&other.wire.session));
        waiting
    }
}
