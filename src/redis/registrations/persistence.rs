//! Registrations in the RDB, in the AOF and on replicas.
//!
//! The RDB is written by a child of the server: nothing here touches Python, and the mutex of the
//! registrations is free, since it is only taken with the server lock held.

use std::sync::Arc;
use std::sync::TryLockError;
use std::sync::atomic::Ordering;

use super::timers::{TIME_EVENT, registrations};
use super::{REGISTRATIONS, Registrations, State, Waiting};
use crate::engine::wire::{BundleWire, RegistrationWire, SessionWire, Version, seal, unseal};
use crate::engine::{Command, Id, LogLevel, Reply};
use crate::python::{self, Session};
use crate::redis::MODULE;
use crate::redis::raw::{self, Args, Aux, Before, Ctx, Loaded, TimerKeys, Writer};
use crate::redis::requirements;

/// More than this in a file is damage.
const MOST: u64 = 1 << 32;

/// What is saved with the data.
pub(in crate::redis) const AUX: Aux = Aux {
    save,
    load,
    is_empty,
    before: Before {
        save: requirements::save,
        load: requirements::load,
        is_empty: requirements::is_empty,
    },
};

/// The keys of time events.
pub(in crate::redis) const TIMER_KEYS: TimerKeys = TimerKeys {
    load: |blob| {
        let registrations = registrations()?;
        // Else RESTORE would run code for whoever may use it.
        if !registrations.is_loading() && !raw::is_replica() {
            return Err("time events are made by registerTE, not by RESTORE".into());
        }
        registrations.load_time_event(blob)
    },
    free: |number| {
        if let Some(registrations) = REGISTRATIONS.get() {
            registrations.free_time_event(number);
        }
    },
    command: TIME_EVENT,
};

/// Runs `body` on the state if nobody has it, which would be a defect: a child would wait for ever.
fn peek<R>(body: impl FnOnce(&State) -> R) -> Option<R> {
    let registrations = REGISTRATIONS.get()?;
    match registrations.state.try_lock() {
        Ok(state) => Some(body(&state)),
        Err(TryLockError::Poisoned(state)) => Some(body(&state.into_inner())),
        Err(TryLockError::WouldBlock) => None,
    }
}

fn is_empty() -> bool {
    peek(|state| state.entries.is_empty()) == Some(true)
}

/// Sessions, then registrations in their order, each a blob.
fn save(writer: &mut Writer) -> bool {
    let wrote = peek(|state| {
        writer.number(state.with_registrations().count());
        for linked in state.with_registrations() {
            writer.blob(&seal(&linked.wire));
        }
        writer.number(state.entries.len());
        for entry in state.entries.values() {
            writer.blob(&seal(&entry.wire));
        }
        writer.blob(&seal(&state.version));
    });
    if wrote.is_none() {
        // What follows must be readable all the same.
        writer.number(0);
        writer.number(0);
        writer.blob(&seal(&Version::default()));
    }
    wrote.is_some()
}

fn load(mut loaded: Loaded, format: i32) -> Result<(), String> {
    let registrations = registrations()?;
    let mut count = |what: &str| match loaded.number() {
        Ok(count) if count < MOST => Ok(count),
        Ok(count) => Err(format!("{count} {what} can not be")),
        Err(error) => Err(error),
    };
    let sessions = count("sessions")?;
    let mut wires: Vec<SessionWire> = Vec::new();
    for number in 1..=sessions {
        let wire = unseal(&loaded.blob()?);
        wires.push(wire.map_err(|damage| format!("session {number} of {sessions}: {damage}"))?);
    }
    let mut bundle = BundleWire {
        sessions: wires,
        ..BundleWire::default()
    };
    let count = loaded.number()?;
    if count >= MOST {
        return Err(format!("{count} registrations can not be"));
    }
    for number in 1..=count {
        let wire = unseal(&loaded.blob()?);
        bundle
            .add
            .push(wire.map_err(|damage| format!("registration {number} of {count}: {damage}"))?);
    }
    // Before that, servers were alone.
    if format >= 4 {
        let version = unseal(&loaded.blob()?);
        bundle.version = Some(version.map_err(|damage| format!("their version: {damage}"))?);
    }
    registrations.take(bundle)
}

impl Registrations {
    /// The session of this id if it is linked, or a new one made of what was shipped.
    pub(super) fn session_of(&self, wire: &SessionWire) -> Result<Arc<Session>, String> {
        match self.linked_session(&wire.id, Some(wire)) {
            Some(linked) => Ok(linked),
            None => self.new_session(wire),
        }
    }

    fn new_session(&self, wire: &SessionWire) -> Result<Arc<Session>, String> {
        let needs = self.requirements.obtain(wire, self.is_loading())?;
        python::receive_session(wire, needs)
    }

    /// Applies what was loaded or replicated: sessions and registrations that are here already stay
    /// as they are. The server lock is held.
    pub(super) fn take(&'static self, bundle: BundleWire) -> Result<(), String> {
        let mut sessions = Vec::new();
        for wire in &bundle.sessions {
            // One that is replaced begins anew, even by the same script.
            let stays = !bundle.unlink.contains(&wire.id);
            let session = if stays {
                self.session_of(wire)?
            } else {
                self.new_session(wire)?
            };
            sessions.push((wire, session));
        }
        let known = |wire: &RegistrationWire| {
            let id = Id::parse(wire.id.as_bytes());
            let session = sessions.iter().find(|(other, _)| other.id == wire.session);
            match (id, session) {
                (Some(id), Some((of, session))) => Ok((id, *of, session.clone())),
                (None, _) => Err(format!("'{}' is not the id of a registration", wire.id)),
                (_, None) => Err(format!(
                    "the session {} of registration {} is missing",
                    wire.session, wire.id
                )),
            }
        };
        // All of it is understood before anything is done.
        let add = bundle
            .add
            .iter()
            .map(|wire| known(wire).map(|known| (wire, known)))
            .collect::<Result<Vec<_>, _>>()?;
        let limits = self.registry.limits();
        let mut functions: Vec<_> = add.iter().map(|_| None).collect();
        for at in Self::by_session(&bundle.add) {
            let (wire, (id, of, session)) = &add[at];
            if !self.state().order_of.contains_key(id) {
                let (language, limits) = (&of.language, limits.clone());
                let function = python::receive_registration(wire, *id, session, language, limits);
                functions[at] = Some(function);
            }
        }
        let replaced = self.unlinked(&bundle);
        let parsed = bundle.remove.iter().map(|id| Id::parse(id.as_bytes()));
        self.replace_sessions(&bundle);
        self.remove_all(&parsed.flatten().collect::<Vec<_>>(), Waiting::AreAnswered);
        for ((wire, (id, of, session)), function) in add.into_iter().zip(functions) {
            let known = self.state().order_of.contains_key(&id);
            let Some(function) = function.filter(|_| !known) else {
                continue;
            };
            if let Some(broken) = &function.broken {
                function.statistics.fail(broken.clone());
                self.log(LogLevel::Warning, broken);
            }
            self.join(function, wire.clone(), &session, of);
        }
        self.release(replaced);
        self.activate();
        if let Some(version) = bundle.version {
            self.adopt_version(version);
        }
        Ok(())
    }

    /// `RG.INNERREGISTER blob`: registrations from the master or the AOF.
    pub(in crate::redis) fn inner_register(&'static self, ctx: Ctx<'_>, args: &Args<'_>) {
        let [blob] = args.rest() else {
            return ctx.wrong_arity();
        };
        if !ctx.is_replayed() {
            return ctx.error(b"ERR RG.INNERREGISTER is internal: scripts use register");
        }
        let taken = unseal(blob)
            .map_err(|damage| damage.to_string())
            .and_then(|bundle| self.take(bundle));
        match taken {
            Ok(()) => {
                ctx.replicate_verbatim();
                ctx.status(b"OK");
            }
            Err(error) => {
                let message = format!("registrations can not be taken: {error}");
                self.log(LogLevel::Warning, &message);
                ctx.error(format!("ERR {message}").as_bytes());
            }
        }
    }

    /// A data set begins to be loaded: it brings its own registrations.
    pub(in crate::redis) fn loading(&self) {
        self.loading.store(true, Ordering::Relaxed);
        let ids: Vec<Id> = self.state().order_of.keys().copied().collect();
        self.remove_all(&ids, Waiting::AreAborted);
        self.unlink_all();
        self.state().after_load.clear();
    }

    /// It is loaded. What functions do now waits for the end of DEBUG RELOAD, if this is one.
    pub(in crate::redis) fn loaded(&'static self) {
        self.loading.store(false, Ordering::Relaxed);
        self.listen();
        raw::after_command(Box::new(|| self.begin_loaded()));
    }

    /// Begins with what was loaded.
    fn begin_loaded(&'static self) {
        if self.is_loading() {
            return;
        }
        let registered = std::mem::take(&mut self.state().after_load);
        for function in registered {
            let callback = function.on_registered.as_ref();
            self.call_back(&function, callback, "OnRegistered");
        }
        self.start_streams();
    }

    /// The server makes a child. If that rewrites the AOF without an RDB in front, it writes no
    /// registrations: they are sent again, into the part of the AOF that begins now. Whoever has
    /// them already ignores that.
    pub(in crate::redis) fn forked(&'static self) {
        if self.len() == 0 && requirements::is_empty() {
            return;
        }
        let ask = |words: &[&[u8]]| self.server.read(&Command::of(words)).ok();
        let is = |name: &[u8], want: &[u8]| match ask(&[b"CONFIG", b"GET", name]) {
            Some(Reply::Array(mut pair)) => pair.pop() == Some(Reply::Bytes(want.to_vec())),
            _ => false,
        };
        if !is(b"aof-use-rdb-preamble", b"no") || !is(b"appendonly", b"yes") {
            return;
        }
        let rewrites = match ask(&[b"INFO", b"persistence"]) {
            Some(Reply::Bytes(info)) => info
                .split(|&byte| byte == b'\n')
                .any(|line| line.trim_ascii() == b"aof_rewrite_in_progress:1"),
            _ => true,
        };
        if rewrites {
            raw::after_command(Box::new(|| self.send_all_when_unpaused()));
        }
    }

    /// Sends all registrations, when clients go on if nothing may be sent now. The server lock is held.
    fn send_all_when_unpaused(&'static self) {
        if !self.server.is_paused() {
            return self.send_all();
        }
        if let Some(module) = MODULE.get() {
            module.run(Box::new(|| self.lock.with(|_| self.send_all())));
        }
    }

    /// Sends all registrations to replicas and AOF. The server lock is held.
    fn send_all(&self) {
        self.requirements.send_all();
        let bundle = self.all();
        self.server
            .replicate(c"RG.INNERREGISTER", &[&seal(&bundle)]);
    }
}
