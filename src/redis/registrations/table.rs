//! How registrations come and go: verified, applied, indexed, removed.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::keys::KeysFunction;
use super::spec::{self, CommandSpec};
use super::streams::Consumer;
use super::{CommandFunction, Entry, Fires, Function, Registrations, Waiting};
use crate::engine::wire::{BundleWire, RegistrationWire, seal};
use crate::engine::{
    Change, CommandTrigger, Id, Joining, Lane, LogLevel, Mode, Registrar, TimeEvent, Trigger,
};
use crate::python;
use crate::python::{Cpython, Session};
use crate::redis::MODULE;
use crate::redis::questions::Word;

impl Registrations {
    /// Why a registration can not join, if so. `pending` come before it, `replaced` go.
    pub(super) fn refuse(
        &self,
        wanted: &Trigger,
        pending: &[Joining<Cpython>],
        replaced: Option<&str>,
    ) -> Option<String> {
        match wanted {
            Trigger::Stream(_) => None,
            Trigger::Keys(trigger) => trigger.commands.iter().flatten().find_map(|command| {
                let spec = CommandSpec::of(self.server, command);
                spec::refuse_keys_hook(command, spec.as_ref(), &trigger.prefix).map(str::to_owned)
            }),
            Trigger::Command {
                what: CommandTrigger::Named(name),
                ..
            } => {
                let same = |trigger: &Trigger| {
                    matches!(trigger, Trigger::Command { what: CommandTrigger::Named(other), .. }
                        if other == name)
                };
                if pending
                    .iter()
                    .any(|other| same(&other.registration.trigger))
                {
                    return Some("trigger already registered in this session".into());
                }
                let state = self.state();
                let found = state.triggers.get(name.as_bytes());
                let taken = found.is_some_and(|found| stays(&found.function, replaced));
                drop(state);
                (taken || self.is_held(name.as_bytes()))
                    .then(|| "trigger already registered".into())
            }
            Trigger::Command {
                what:
                    CommandTrigger::Hook {
                        command,
                        key_prefix,
                    },
                ..
            } => {
                let spec = CommandSpec::of(self.server, command);
                if let Some(error) = spec::refuse_hook(command, spec.as_ref(), key_prefix.is_some())
                {
                    return Some(error.into());
                }
                let none_sync = |function: &Function| {
                    function.mode != Mode::Sync
                        && matches!(&function.trigger,
                            Trigger::Command { what: CommandTrigger::Hook { command: other, .. }, .. }
                                if other.eq_ignore_ascii_case(command))
                };
                if pending.iter().any(|other| none_sync(&other.registration)) {
                    return Some(
                        "Can not override a none sync registration which already created on this \
                         session"
                            .into(),
                    );
                }
                let state = self.state();
                let hooked = state.hooked.get(command.to_ascii_lowercase().as_bytes());
                hooked
                    .is_some_and(|hooked| {
                        hooked.chain.iter().any(|hook| {
                            let function = &hook.function.function;
                            function.mode != Mode::Sync && stays(function, replaced)
                        })
                    })
                    .then(|| "Can not override a none sync registration".into())
            }
        }
    }

    /// Why the session of a change can not have registrations, if so.
    fn refuse_session_of(&self, change: &Change<Cpython>) -> Option<String> {
        let id = change.session.id();
        if self.is_dead(&change.session) {
            return Some(format!(
                "Session {id} was replaced: what it runs can register nothing any more"
            ));
        }
        if self.is_own(&change.session) {
            return None;
        }
        if let Some(held) = self.held_session([id].into_iter().chain(change.replaces.as_deref())) {
            return Some(held);
        }
        let taken = change.replaces.as_deref() != Some(id) && self.has_session(id);
        taken.then(|| format!("Session {id} already exists"))
    }

    /// Whether the last of a change can join what is here and what comes before it.
    fn verify_last(&self, change: &Change<Cpython>) -> Result<(), String> {
        let replaced = change.replaces.as_deref();
        let refused = self.refuse_session_of(change).or_else(|| {
            let (last, pending) = change.add.split_last()?;
            self.refuse(&last.registration.trigger, pending, replaced)
        });
        refused.map_or(Ok(()), Err)
    }

    /// Whether all of it still can: something may have come since each was verified.
    pub(super) fn verify_all(&self, change: &Change<Cpython>) -> Result<(), String> {
        let replaced = change.replaces.as_deref();
        let mut add = change.add.iter();
        let refused = self.refuse_session_of(change).or_else(|| {
            add.find_map(|joining| self.refuse(&joining.registration.trigger, &[], replaced))
        });
        refused.map_or(Ok(()), Err)
    }

    /// Why a script of this session id can not run, if so. The server lock is held.
    pub(in crate::redis) fn refuse_session(
        &self,
        id: &str,
        upgrade: bool,
        replaced: Option<&str>,
    ) -> Option<String> {
        match replaced {
            Some(replaced) if self.has_session(id) => Some(format!(
                "Can not replace an existing session {id} with {replaced}"
            )),
            Some(replaced) if !self.has_session(replaced) => Some(format!(
                "Can not replace with {replaced}, session does not exists."
            )),
            Some(_) => None,
            None if !upgrade && self.has_session(id) => {
                Some(format!("Session {id} already exists"))
            }
            None => None,
        }
    }

    /// A change as replicas and other shards get it; chooses what must be the same everywhere. The
    /// server lock is held.
    pub(super) fn bundle_of(&self, change: &mut Change<Cpython>) -> BundleWire {
        let mut bundle = BundleWire::default();
        let mut left = Vec::new();
        if let Some(replaced) = &change.replaces {
            left = self.groups_of(replaced);
            let ids = self.registrations_of(replaced);
            bundle.remove.extend(ids.iter().map(Id::to_string));
            bundle.unlink.push(replaced.clone());
        }
        bundle.sessions.push(change.session.wire());
        for joining in &mut change.add {
            let trigger = &mut joining.wire.trigger;
            self.choose_group(trigger, &mut left, &bundle.add);
            bundle.add.push(joining.wire.clone());
        }
        bundle
    }

    /// Makes a change that was verified, on this shard. The server lock is held.
    pub(super) fn make(&'static self, change: Change<Cpython>, bundle: &BundleWire) {
        let replaced = self.unlinked(bundle);
        if let Some(replaced) = &change.replaces {
            self.replace_session(replaced);
        }
        for session in &bundle.sessions {
            let own = change.add.iter().zip(&bundle.add);
            for (joining, wire) in own.filter(|(_, wire)| wire.session == session.id) {
                let function = joining.registration.clone();
                self.join(function, wire.clone(), &change.session, session);
            }
        }
        self.release(replaced);
        self.activate();
        if let Some(version) = &bundle.version {
            self.adopt_version(version.clone());
        }
    }

    pub(super) fn registrations_of(&self, session: &str) -> Vec<Id> {
        let state = self.state();
        let linked = state.sessions.get(session);
        linked
            .map(|linked| linked.registrations.clone())
            .unwrap_or_default()
    }

    /// Has all that joined be triggered from now on. The server lock is held.
    pub(super) fn activate(&'static self) {
        self.index();
        if !self.is_loading() {
            self.listen();
        }
        self.start_streams();
    }

    /// Adds a registration, which [`Self::activate`] makes active. The server lock is held.
    pub(super) fn join(
        &'static self,
        function: Arc<Function>,
        wire: RegistrationWire,
        session: &Arc<Session>,
        session_wire: &crate::engine::wire::SessionWire,
    ) {
        // Never a number again that was used, whosever it is.
        self.next
            .fetch_max(function.id.number + 1, Ordering::Relaxed);
        let fires = if function.broken.is_some() {
            Fires::Broken
        } else {
            self.fires(&function, &wire.trigger)
        };
        self.learn_commands(&wire.trigger);
        self.requirements.enter(session.requirements());
        if self.is_loading() {
            self.state().after_load.push(function.clone());
        } else {
            self.call_back(&function, function.on_registered.as_ref(), "OnRegistered");
        }
        let mut state = self.state();
        let order = state.next_order;
        state.next_order += 1;
        state.order_of.insert(function.id, order);
        state.digest = None;
        let linked = state.link(session, session_wire);
        linked.registrations.push(function.id);
        let entry = Entry {
            function,
            wire,
            fires,
        };
        state.entries.insert(order, entry);
    }

    pub(super) fn fires(&'static self, function: &Arc<Function>, trigger: &Trigger) -> Fires {
        let lane = || Lane::new(self.registry.pool().clone());
        match trigger {
            Trigger::Keys(trigger) => Fires::Keys(Arc::new(KeysFunction::new(
                function.clone(),
                trigger,
                lane(),
            ))),
            Trigger::Stream(trigger) => Fires::Stream(Consumer::new(
                self,
                function.clone(),
                trigger.clone(),
                lane(),
            )),
            Trigger::Command { in_order, .. } => Fires::Command(Arc::new(CommandFunction {
                function: function.clone(),
                lane: in_order.then(lane),
            })),
        }
    }

    pub(super) fn call_back(
        &self,
        function: &Function,
        callback: Option<&Arc<python::Function>>,
        what: &str,
    ) {
        let Some(callback) = callback else { return };
        if let Err(error) = python::call(&function.plan.context, callback, false) {
            let id = function.id;
            self.log(
                LogLevel::Warning,
                &format!(
                    "Error occured on RedisGearsPy_{what}, error='{error}' (registration {id})"
                ),
            );
        }
    }

    /// Asks the server about the commands that a registration names. Not under the mutex: to ask is
    /// a command, which the filter sees.
    pub(super) fn learn_commands(&self, trigger: &Trigger) {
        let commands = match trigger {
            Trigger::Command {
                what: CommandTrigger::Hook { command, .. },
                ..
            } => std::slice::from_ref(command),
            Trigger::Keys(trigger) => trigger.commands.as_deref().unwrap_or_default(),
            _ => return,
        };
        for command in commands {
            let name = command.to_ascii_lowercase().into_bytes();
            if let Some(spec) = CommandSpec::of(self.server, command) {
                self.state().specs.insert(name, spec);
            }
        }
    }

    /// Takes a registration out, if it is there. The server lock is held.
    pub(super) fn remove(&self, id: Id, abort_pending: bool) -> bool {
        let waiting = if abort_pending {
            Waiting::AreAborted
        } else {
            Waiting::Run
        };
        let removed = self.take_out(id, waiting);
        self.index_again();
        self.state().forget_sessions();
        removed
    }

    /// Takes several out.
    pub(super) fn remove_all(&self, ids: &[Id], waiting: Waiting) {
        for &id in ids {
            self.take_out(id, waiting);
        }
        self.index_again();
        self.state().forget_sessions();
    }

    /// Makes the indices anew if something was taken out.
    fn index_again(&self) {
        let stale = std::mem::take(&mut self.state().stale);
        if stale {
            self.index();
        }
    }

    /// Takes one out; the indices may have it until they are made anew.
    fn take_out(&self, id: Id, waiting: Waiting) -> bool {
        let (function, fires) = {
            let mut state = self.state();
            let order = state.order_of.get(&id);
            let Some(entry) = order.and_then(|order| state.entries.get(order)) else {
                return false;
            };
            let found = (entry.function.clone(), entry.fires.clone());
            // Its own onUnregistered can not remove it once more.
            if !state.leaving.insert(id) {
                return false;
            }
            found
        };
        // A data set that is loaded brings its own registrations: those before it just go.
        if !self.is_loading() {
            let callback = function.on_unregistered.as_ref();
            if callback.is_some() {
                // What it does does not trigger those that are gone.
                self.index_again();
            }
            self.call_back(&function, callback, "OnUnregistered");
        }
        let gone = {
            let mut state = self.state();
            state.leaving.remove(&id);
            state.stale = true;
            state.digest = None;
            state.after_load.retain(|other| other.id != id);
            let order = state.order_of.remove(&id);
            let entry = order.and_then(|order| state.entries.remove(&order));
            let session = entry.as_ref().map(|entry| entry.wire.session.clone());
            if let Some(session) = session
                && let Some(linked) = state.sessions.get_mut(&session)
            {
                linked.registrations.retain(|&other| other != id);
            }
            entry
        };
        drop(gone);
        match &fires {
            Fires::Stream(consumer) => consumer.close(),
            Fires::Keys(keys) if waiting != Waiting::Run => self.drop_queued(&keys.lane),
            Fires::Command(command) if waiting == Waiting::AreAborted => {
                if let Some(lane) = &command.lane {
                    self.drop_queued(lane);
                }
                self.abort_queued(&function);
            }
            Fires::Keys(_) | Fires::Command(_) | Fires::Broken => {}
        }
        self.registry.retire(&function);
        true
    }

    /// Aborts what a registration has started outside of lanes and no worker has seen.
    pub(super) fn abort_queued(&self, function: &Arc<Function>) {
        for execution in self.registry.list() {
            let own = execution
                .registration
                .as_ref()
                .is_some_and(|other| Arc::ptr_eq(other, function));
            if own && execution.snapshot().status == crate::engine::Status::Created {
                self.registry.abort_and_forget(&execution);
            }
        }
    }

    /// Aborts what waits in a lane; nothing of it is listed any more.
    pub(super) fn drop_queued(&self, lane: &Lane<Cpython>) {
        for execution in lane.drain() {
            self.registry.abort_and_forget(&execution);
        }
    }
}

/// Under what name the id of a session is held; no trigger has such a name.
pub(super) fn session_name(id: &str) -> Vec<u8> {
    format!("\0session {id}").into_bytes()
}

/// Whether a function is not of the session that is replaced.
fn stays(function: &Function, replaced: Option<&str>) -> bool {
    Some(function.plan.context.id()) != replaced
}

impl Registrar<Cpython> for &'static Registrations {
    fn next_id(&self) -> Id {
        Id {
            shard: self.registry.shard_id(),
            number: self.next.fetch_add(1, Ordering::Relaxed),
        }
    }

    fn verify(&self, change: &Change<Cpython>) -> Result<(), String> {
        self.lock.with(|_| self.verify_last(change))
    }

    fn apply(&self, change: Change<Cpython>) -> Result<(), String> {
        self.requirements.publish(change.session.requirements());
        self.lock.with(|server| {
            self.refuse_writes()?;
            self.verify_all(&change)?;
            let mut change = change;
            let mut bundle = self.bundle_of(&mut change);
            bundle.version = Some(self.next_version());
            self.make(change, &bundle);
            server.replicate(c"RG.INNERREGISTER", &[&seal(&bundle)]);
            if let Some(module) = MODULE.get() {
                module.tell_all(&Word::Register(bundle));
            }
            Ok(())
        })
    }

    fn every(&self, event: TimeEvent<Cpython>) -> Result<bool, String> {
        self.start_time_event(event)
    }
}
