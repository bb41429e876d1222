//! Registrations: kept, fired by events and commands, listed. The functions themselves are the
//! engine's; here is what binds them to the server.
//!
//! All state is behind one mutex that is only ever taken with the server lock held, so that it is
//! free when the server makes a child to save the data, and never waited for.

mod hooks;
mod index;
mod keys;
mod persistence;
mod streams;
mod timers;

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use super::config::Settings;
use super::lock::Lock;
use super::raw::{self, Args, BlockedClient, Ctx, EventCtx, Filtered, Server};
use super::reply;
use crate::engine::wire::{BundleWire, RegistrationWire, seal};
use crate::engine::{
    Caller, Change, Chunk, Command, CommandTrigger, Id, Joining, Lane, Launch, LogLevel, Mode,
    Registrar, Registration, Registry, Reply, Results, ShardId, Source, TimeEvent, Trigger,
};
use crate::python::{self, Cpython, Session};

use hooks::{CommandSpec, Hook, Hooked, KeysCall};
use index::{Index, Names};
use keys::KeysFunction;
pub(super) use persistence::{AUX, TIMER_KEYS};
use streams::Consumer;
use timers::{TimeEvents, Timers};

/// A registration of a Python function.
type Function = Registration<Cpython>;

const CAN_NOT_WAIT: &[u8] =
    b"ERR can not run a non-sync execution inside a MULTI/LUA (blocking is \
                              not allowed) or on loading.";

/// A registration of a CommandReader, ready to be fired.
struct CommandFunction {
    function: Arc<Function>,
    /// For one whose executions run in order.
    lane: Option<Arc<Lane<Cpython>>>,
}

/// What fires a registration.
#[derive(Clone)]
enum Fires {
    Keys(Arc<KeysFunction>),
    Stream(Arc<Consumer>),
    Command(Arc<CommandFunction>),
    /// Nothing: it can not run here.
    Broken,
}

/// A registration with all that belongs to it.
struct Entry {
    function: Arc<Function>,
    wire: RegistrationWire,
    fires: Fires,
}

/// A session with registrations.
struct Linked {
    session: Arc<Session>,
    /// What its callbacks were shipped in, if that was not here.
    wire: crate::engine::wire::SessionWire,
    registrations: Vec<Id>,
}

#[derive(Default)]
struct State {
    /// In the order in which they were registered.
    entries: BTreeMap<u64, Entry>,
    order_of: HashMap<Id, u64>,
    next_order: u64,
    sessions: BTreeMap<String, Linked>,
    triggers: HashMap<Vec<u8>, Arc<CommandFunction>>,
    /// What the server says of commands that have hooks, by name in lower case.
    specs: HashMap<Vec<u8>, CommandSpec>,
    /// By the command's name in lower case.
    hooked: HashMap<Vec<u8>, Hooked>,
    /// By the event's name in lower case.
    keys_by_event: HashMap<Vec<u8>, Index<Arc<KeysFunction>>>,
    keys_of_all_events: Index<Arc<KeysFunction>>,
    streams: Vec<Arc<Consumer>>,
    /// The command that runs and that KeysReader functions react to.
    call: Option<Arc<KeysCall>>,
    /// Calls of onRegistered that wait for the end of loading.
    after_load: Vec<Arc<Function>>,
}

/// The registrations of this server.
pub(super) struct Registrations {
    server: Server,
    lock: Arc<Lock>,
    registry: Arc<Registry<Cpython>>,
    settings: Arc<Settings>,
    state: Mutex<State>,
    next: AtomicU64,
    /// How many there are of each kind: looked at before anything else.
    keys: AtomicUsize,
    streams: AtomicUsize,
    hooks: AtomicUsize,
    loading: AtomicBool,
    timers: Timers,
    time_events: TimeEvents,
}

static REGISTRATIONS: OnceLock<Registrations> = OnceLock::new();

/// What commands answer that no client can be made to wait for.
struct Plain {
    may_wait: bool,
}

impl Caller for Plain {
    fn may_wait(&self) -> bool {
        self.may_wait
    }

    fn command(&self) -> Option<&[Vec<u8>]> {
        None
    }

    fn override_reply(&self, _reply: Results) -> Result<(), String> {
        Err("Can not get command ctx".into())
    }

    fn call_next(&self, _user: &str, _arguments: &Command) -> Result<Reply, String> {
        Err("Failed executing command".into())
    }
}

fn plain(may_wait: bool) -> &'static Arc<dyn Caller> {
    static PLAIN: OnceLock<[Arc<dyn Caller>; 2]> = OnceLock::new();
    let [no, yes] =
        PLAIN.get_or_init(|| [false, true].map(|may_wait| Arc::new(Plain { may_wait }) as _));
    if may_wait { yes } else { no }
}

impl Registrations {
    /// The registrations, empty. Made once, when the module loads.
    pub(super) fn open(
        server: Server,
        lock: Arc<Lock>,
        registry: Arc<Registry<Cpython>>,
        settings: Arc<Settings>,
    ) -> std::io::Result<&'static Self> {
        let timers = Timers::start()?;
        Ok(REGISTRATIONS.get_or_init(|| Self {
            server,
            lock,
            registry,
            settings,
            state: Mutex::default(),
            next: AtomicU64::new(0),
            keys: AtomicUsize::new(0),
            streams: AtomicUsize::new(0),
            hooks: AtomicUsize::new(0),
            loading: AtomicBool::new(false),
            timers,
            time_events: TimeEvents::default(),
        }))
    }

    /// The server lock is held.
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn log(&self, level: LogLevel, message: &str) {
        self.server.log(level, message);
    }

    fn has_hooks(&self) -> bool {
        self.hooks.load(Ordering::Relaxed) > 0
    }

    fn is_loading(&self) -> bool {
        self.loading.load(Ordering::Relaxed)
    }

    fn current_call(&self) -> Option<Arc<KeysCall>> {
        self.state().call.clone()
    }

    fn replace_call(&self, call: Option<Arc<KeysCall>>) -> Option<Arc<KeysCall>> {
        std::mem::replace(&mut self.state().call, call)
    }

    /// How many there are. The server lock is held.
    pub(super) fn len(&self) -> usize {
        self.state().entries.len()
    }

    /// Starts an execution of a CommandReader, which answers a client and is not kept. The server
    /// learns how long it runs: that, and not the waiting, is what its slow log shows.
    fn start(
        &self,
        function: &CommandFunction,
        mut launch: Launch<Cpython>,
        client: BlockedClient,
        answer: fn(Ctx<'_>, &Results, &[String]),
    ) {
        let client = Arc::new(Mutex::new(Some(client)));
        let begins = client.clone();
        let blocked = |client: &Mutex<Option<BlockedClient>>, take: bool| {
            let mut client = client.lock().unwrap_or_else(PoisonError::into_inner);
            if take {
                return client.take();
            }
            if let Some(client) = &*client {
                client.begins();
            }
            None
        };
        launch.begins = Some(Box::new(move || drop(blocked(&begins, false))));
        let execution = self.registry.create(launch);
        execution.when_done(Box::new(move |outcome| {
            if let Some(client) = blocked(&client, true) {
                client.ends();
                client.reply(|ctx| answer(ctx, &outcome.results, &outcome.errors));
            }
        }));
        match &function.lane {
            Some(lane) => self.registry.start_in(lane, execution, false),
            None => self.registry.start(&execution, false),
        }
    }

    /// `RG.TRIGGER name argument ...`
    pub(super) fn trigger(&self, ctx: Ctx<'_>, args: &Args<'_>) {
        let words = args.rest();
        let Some(name) = words.first() else {
            return ctx.wrong_arity();
        };
        let found = self.state().triggers.get(*name).cloned();
        let Some(found) = found else {
            return ctx.error(b"ERR subcommand not found");
        };
        let function = &found.function;
        let may_wait = ctx.may_block();
        if function.mode != Mode::Sync && !may_wait {
            return ctx.error(CAN_NOT_WAIT);
        }
        function.statistics.trigger();
        if let Some(broken) = &function.broken {
            function.statistics.abort(Some(broken.clone()));
            return ctx.error(format!("ERR Could not trigger execution, {broken}").as_bytes());
        }
        let chunk = Chunk::words(words.iter().copied());
        if function.mode == Mode::Sync {
            return function.run_here(&chunk, Some(plain(may_wait)), |results, errors| {
                reply::results_or_error(ctx, results, errors);
            });
        }
        let mut launch = Launch::of_registration(function, Source::Records(chunk));
        launch.caller = Some(plain(may_wait).clone());
        self.start(&found, launch, ctx.block(), reply::results_or_error);
    }

    /// A key changed. The server lock is held.
    fn on_event(&'static self, ctx: EventCtx, event: &[u8], key: &[u8]) {
        if self.is_loading() || raw::is_replica() {
            return;
        }
        if self.streams.load(Ordering::Relaxed) > 0 {
            self.on_stream_event(ctx, event, key);
        }
        if self.keys.load(Ordering::Relaxed) > 0 {
            self.on_key_event(ctx, event, key);
        }
    }

    /// Listens to what the registrations need. The server lock is held.
    fn listen(&self) {
        let keys = self.keys.load(Ordering::Relaxed);
        let streams = self.streams.load(Ordering::Relaxed);
        if keys + streams > 0 {
            raw::subscribe_to_keys(self.server, on_event);
        }
        // A server that has no jobs after events runs them before the next command.
        let filters = self.has_hooks() || (keys + streams > 0 && !raw::has_jobs());
        raw::filter_commands(self.server, filters.then_some(on_command));
    }

    /// Why a registration can not join, if so. `pending` come before it, `replaced` go.
    fn refuse(
        &self,
        wanted: &Trigger,
        pending: &[Joining<Cpython>],
        replaced: Option<&str>,
    ) -> Option<String> {
        match wanted {
            Trigger::Stream(_) => None,
            Trigger::Keys(trigger) => trigger.commands.iter().flatten().find_map(|command| {
                let spec = CommandSpec::of(self.server, command);
                hooks::refuse_keys_hook(spec.as_ref(), &trigger.prefix).map(str::to_owned)
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
                self.stays(replaced, |entry| same(&entry.function.trigger))
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
                if let Some(error) = hooks::refuse_hook(spec.as_ref(), key_prefix.is_some()) {
                    return Some(error.into());
                }
                let same = |function: &Function| {
                    matches!(&function.trigger,
                        Trigger::Command { what: CommandTrigger::Hook { command: other, .. }, .. }
                            if other.eq_ignore_ascii_case(command))
                };
                let none_sync = |function: &Function| same(function) && function.mode != Mode::Sync;
                if pending.iter().any(|other| none_sync(&other.registration)) {
                    return Some(
                        "Can not override a none sync registration which already created on this \
                         session"
                            .into(),
                    );
                }
                self.stays(replaced, |entry| none_sync(&entry.function))
                    .then(|| "Can not override a none sync registration".into())
            }
        }
    }

    /// Whether there is such a registration that is not of the replaced session.
    fn stays(&self, replaced: Option<&str>, is: impl Fn(&Entry) -> bool) -> bool {
        self.state()
            .entries
            .values()
            .any(|entry| Some(entry.wire.session.as_str()) != replaced && is(entry))
    }

    fn verify_held(&self, change: &Change<Cpython>) -> Result<(), String> {
        let replaced = change.replaces.as_deref();
        let id = change.session.id();
        if replaced != Some(id) && !self.is_own(&change.session) && self.has_session(id) {
            return Err(format!("Session {id} already exists"));
        }
        for (at, joining) in change.add.iter().enumerate() {
            let pending = change.add.get(..at).unwrap_or_default();
            if let Some(error) = self.refuse(&joining.registration.trigger, pending, replaced) {
                return Err(error);
            }
        }
        Ok(())
    }

    /// Whether it is this very session that is linked.
    fn is_own(&self, session: &Arc<Session>) -> bool {
        self.state()
            .sessions
            .get(session.id())
            .is_some_and(|linked| Arc::ptr_eq(&linked.session, session))
    }

    /// Whether a session of this id has registrations. The server lock is held.
    pub(super) fn has_session(&self, id: &str) -> bool {
        self.state().sessions.contains_key(id)
    }

    /// The script of a session with registrations. The server lock is held.
    pub(super) fn source(&self, id: &str) -> Option<Vec<u8>> {
        let state = self.state();
        let linked = state.sessions.get(id)?;
        Some(linked.session.source().to_vec())
    }

    /// Why a script of this session id can not run, if so. The server lock is held.
    pub(super) fn refuse_session(
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

    /// Chooses the consumer group of a stream function: a name that stays its own for as long as it
    /// is registered, and that the one after it takes over.
    fn choose_group(&self, trigger: &mut Trigger) {
        let Trigger::Stream(stream) = trigger else {
            return;
        };
        let names = Names::of(&stream.prefix);
        let state = self.state();
        let taken: Vec<&str> = state
            .streams
            .iter()
            .filter(|other| other.names().overlaps(&names))
            .map(|other| other.group())
            .collect();
        let shared = self.settings.shares_stream_groups();
        stream.group = (1..)
            .map(streams::group_name)
            .find(|group| shared || !taken.contains(&group.as_str()))
            .unwrap_or_default();
    }

    /// Applies a change that was verified. The server lock is held.
    fn apply_held(&'static self, change: Change<Cpython>) -> BundleWire {
        let mut bundle = BundleWire::default();
        if let Some(replaced) = &change.replaces {
            for id in self.registrations_of(replaced) {
                bundle.remove.push(id.to_string());
                self.remove(id, true);
            }
            bundle.unlink.push(replaced.clone());
        }
        let wire = change.session.wire();
        bundle.sessions.push(wire.clone());
        for mut joining in change.add {
            self.choose_group(&mut joining.wire.trigger);
            bundle.add.push(joining.wire.clone());
            self.join(joining.registration, joining.wire, &change.session, &wire);
        }
        self.listen();
        bundle
    }

    fn registrations_of(&self, session: &str) -> Vec<Id> {
        let state = self.state();
        let linked = state.sessions.get(session);
        linked
            .map(|linked| linked.registrations.clone())
            .unwrap_or_default()
    }

    /// Adds a registration, and makes it active unless the server loads. The server lock is held.
    fn join(
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
        if self.is_loading() {
            self.state().after_load.push(function.clone());
        } else {
            self.call_back(&function, function.on_registered.as_ref(), "OnRegistered");
        }
        let mut state = self.state();
        let order = state.next_order;
        state.next_order += 1;
        state.order_of.insert(function.id, order);
        let linked = state
            .sessions
            .entry(session.id().to_owned())
            .or_insert_with(|| Linked {
                session: session.clone(),
                wire: session_wire.clone(),
                registrations: Vec::new(),
            });
        linked.registrations.push(function.id);
        let entry = Entry {
            function,
            wire,
            fires,
        };
        state.entries.insert(order, entry);
        drop(state);
        self.index();
        self.start_streams();
    }

    fn fires(&'static self, function: &Arc<Function>, trigger: &Trigger) -> Fires {
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

    fn call_back(&self, function: &Function, callback: Option<&Arc<python::Function>>, what: &str) {
        let Some(callback) = callback else { return };
        if let Err(error) = python::call(&function.plan.context, callback) {
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
    fn learn_commands(&self, trigger: &Trigger) {
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

    /// Makes the indices anew from the entries. The server lock is held.
    fn index(&self) {
        let mut state = self.state();
        let state = &mut *state;
        let (mut keys, mut hooks) = (0, 0);
        state.triggers.clear();
        state.hooked.clear();
        state.keys_by_event.clear();
        state.keys_of_all_events = Index::default();
        state.streams.clear();
        for (&order, entry) in &state.entries {
            match &entry.fires {
                Fires::Broken => {}
                Fires::Stream(consumer) => state.streams.push(consumer.clone()),
                Fires::Keys(function) => {
                    keys += 1;
                    match &function.events {
                        None => state.keys_of_all_events.insert(
                            &function.names,
                            order,
                            function.clone(),
                        ),
                        Some(events) => {
                            for event in events {
                                state
                                    .keys_by_event
                                    .entry(event.clone())
                                    .or_default()
                                    .insert(&function.names, order, function.clone());
                            }
                        }
                    }
                    for command in function.commands.iter().flatten() {
                        hooks += 1;
                        if let Some(spec) = state.specs.get(command) {
                            let hooked = state.hooked.entry(command.clone());
                            hooked
                                .or_insert_with(|| Hooked::new(spec.clone()))
                                .keys
                                .push((order, function.names.clone()));
                        }
                    }
                }
                Fires::Command(function) => match &function.function.trigger {
                    Trigger::Command {
                        what: CommandTrigger::Named(name),
                        ..
                    } => {
                        state
                            .triggers
                            .insert(name.clone().into_bytes(), function.clone());
                    }
                    Trigger::Command {
                        what:
                            CommandTrigger::Hook {
                                command,
                                key_prefix,
                            },
                        ..
                    } => {
                        hooks += 1;
                        let name = command.to_ascii_lowercase().into_bytes();
                        if let Some(spec) = state.specs.get(&name) {
                            let hook = Hook {
                                function: function.clone(),
                                key_prefix: key_prefix.clone().map(String::into_bytes),
                            };
                            let hooked = state.hooked.entry(name);
                            hooked
                                .or_insert_with(|| Hooked::new(spec.clone()))
                                .chain
                                .insert(0, hook);
                        }
                    }
                    Trigger::Keys(_) | Trigger::Stream(_) => {}
                },
            }
            if let (
                Fires::Broken,
                Trigger::Command {
                    what: CommandTrigger::Named(name),
                    ..
                },
            ) = (&entry.fires, &entry.function.trigger)
            {
                // It answers why it can not run.
                let function = CommandFunction {
                    function: entry.function.clone(),
                    lane: None,
                };
                state
                    .triggers
                    .insert(name.clone().into_bytes(), Arc::new(function));
            }
        }
        self.keys.store(keys, Ordering::Relaxed);
        self.hooks.store(hooks, Ordering::Relaxed);
        self.streams.store(state.streams.len(), Ordering::Relaxed);
    }

    /// Takes a registration out. The server lock is held.
    fn remove(&self, id: Id, abort_pending: bool) -> bool {
        let found = {
            let state = self.state();
            let entry = state
                .order_of
                .get(&id)
                .and_then(|order| state.entries.get(order));
            entry.map(|entry| (entry.function.clone(), entry.fires.clone()))
        };
        let Some((function, fires)) = found else {
            return false;
        };
        // A data set that is loaded brings its own registrations: those before it just go.
        if !self.is_loading() {
            let callback = function.on_unregistered.as_ref();
            self.call_back(&function, callback, "OnUnregistered");
        }
        let gone = {
            let mut state = self.state();
            state.after_load.retain(|other| other.id != id);
            let order = state.order_of.remove(&id);
            let entry = order.and_then(|order| state.entries.remove(&order));
            let session = entry.as_ref().map(|entry| entry.wire.session.clone());
            let mut last = None;
            if let Some(session) = session
                && let Some(linked) = state.sessions.get_mut(&session)
            {
                linked.registrations.retain(|&other| other != id);
                if linked.registrations.is_empty() {
                    last = state.sessions.remove(&session);
                }
            }
            (entry, last)
        };
        drop(gone);
        self.index();
        match &fires {
            Fires::Stream(consumer) => consumer.close(),
            Fires::Keys(keys) if abort_pending => self.drop_queued(&keys.lane),
            Fires::Command(command) if abort_pending => {
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
    fn abort_queued(&self, function: &Arc<Function>) {
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
    fn drop_queued(&self, lane: &Lane<Cpython>) {
        for execution in lane.drain() {
            self.registry.abort_and_forget(&execution);
        }
    }

    /// `RG.UNREGISTER id [ABORTPENDING]`, also as replicas and AOF get it.
    pub(super) fn unregister(&self, ctx: Ctx<'_>, args: &Args<'_>) {
        let (id, option) = match args.rest() {
            [id] => (id, None),
            [id, option] => (id, Some(option)),
            _ => return ctx.wrong_arity(),
        };
        let abort = option.is_some_and(|option| option.eq_ignore_ascii_case(b"abortpending"));
        let Some(id) = Id::parse(id).filter(|&id| self.remove(id, abort)) else {
            return ctx.error(b"execution is not registered");
        };
        let id = id.to_string();
        let words: &[&[u8]] = if abort {
            &[id.as_bytes(), b"abortpending"]
        } else {
            &[id.as_bytes()]
        };
        self.server.replicate(c"RG.INNERUNREGISTER", words);
        self.listen();
        ctx.status(b"OK");
    }

    /// `RG.INNERUNREGISTER id [abortpending]`: the same from the master or the AOF.
    pub(super) fn inner_unregister(&self, ctx: Ctx<'_>, args: &Args<'_>) {
        if !ctx.is_replayed() {
            return ctx.error(b"ERR RG.INNERUNREGISTER is internal: use RG.UNREGISTER");
        }
        let [id, rest @ ..] = args.rest() else {
            return ctx.wrong_arity();
        };
        if let Some(id) = Id::parse(id) {
            self.remove(id, !rest.is_empty());
        }
        self.listen();
        ctx.replicate_verbatim();
        ctx.status(b"OK");
    }

    /// Registrations of these ids, all or none. The error names the first that is missing.
    fn find_all(&self, ids: &[&[u8]]) -> Result<Vec<(Arc<Function>, Fires)>, String> {
        let state = self.state();
        let find = |id: &&[u8]| {
            let order = Id::parse(id).and_then(|id| state.order_of.get(&id));
            let entry = order.and_then(|order| state.entries.get(order));
            entry
                .map(|entry| (entry.function.clone(), entry.fires.clone()))
                .ok_or_else(|| {
                    format!(
                        "Execution {} does not exists on shard {}",
                        String::from_utf8_lossy(id),
                        ShardId::ALONE
                    )
                })
        };
        ids.iter().map(find).collect()
    }

    /// `RG.PAUSEREGISTRATIONS id ...` and `RG.UNPAUSEREGISTRATIONS id ...`: all or none.
    pub(super) fn pause(&self, ctx: Ctx<'_>, args: &Args<'_>, pauses: bool) {
        let ids = match args.rest() {
            [ids @ .., option] if pauses && option.eq_ignore_ascii_case(b"abortpending") => {
                if ids.is_empty() {
                    return ctx.error(b"ERR no registration to pause");
                }
                ids
            }
            [] => return ctx.wrong_arity(),
            ids => ids,
        };
        let found = match self.find_all(ids) {
            Ok(found) => found,
            Err(error) => return ctx.error(error.as_bytes()),
        };
        let mut consumers = Vec::new();
        for (function, fires) in found {
            match fires {
                Fires::Stream(consumer) => consumers.push(consumer),
                Fires::Broken if matches!(function.trigger, Trigger::Stream(_)) => {
                    let error = function.broken.as_deref().unwrap_or_default();
                    return ctx.error(format!("ERR {error}").as_bytes());
                }
                _ => {
                    let what = if pauses { "pause" } else { "unpause" };
                    let reader = function.trigger.reader();
                    let error = format!("Reader {reader} does not support {what}");
                    return ctx.error(error.as_bytes());
                }
            }
        }
        for consumer in consumers {
            if pauses {
                consumer.pause();
            } else {
                consumer.unpause();
            }
        }
        ctx.status(b"OK");
    }

    /// `RG.CLEARREGISTRATIONSSTATS`
    pub(super) fn clear_statistics(&self, ctx: Ctx<'_>, args: &Args<'_>) {
        if !args.rest().is_empty() {
            return ctx.wrong_arity();
        }
        for entry in self.state().entries.values() {
            entry.function.statistics.clear();
        }
        ctx.status(b"OK");
    }

    /// All registrations with what a listing shows, in the order in which they were registered. The
    /// server lock is held.
    pub(super) fn list(&self) -> Vec<Listed> {
        let state = self.state();
        let executions = self.registry.list();
        let mut texts: HashMap<&str, String> = HashMap::new();
        for (id, linked) in &state.sessions {
            let runs = executions
                .iter()
                .filter(|execution| Arc::ptr_eq(&*execution.plan.context, &linked.session));
            texts.insert(id, session_text(linked, runs.count()));
        }
        let list = state.entries.values().map(|entry| Listed {
            function: entry.function.clone(),
            status: match &entry.fires {
                Fires::Stream(consumer) => consumer.status(),
                _ => "OK",
            },
            session: texts
                .get(entry.wire.session.as_str())
                .cloned()
                .unwrap_or_default(),
        });
        list.collect()
    }

    /// Files, sockets and other servers' data end or begin. The server lock is held.
    pub(super) fn role_changed(&'static self, is_replica: bool) {
        raw::set_replica(is_replica);
        let consumers = self.state().streams.clone();
        for consumer in consumers {
            consumer.role_changed();
        }
        if !is_replica {
            self.start_streams();
        }
    }

    /// Keys went without an event for each. The server lock is held.
    pub(super) fn data_dropped(&self) {
        let consumers = self.state().streams.clone();
        for consumer in consumers {
            consumer.forget_streams();
        }
    }

    /// Starts the stream functions that did not look for their streams yet. The server lock is held.
    fn start_streams(&self) {
        if self.is_loading() || raw::is_replica() {
            return;
        }
        let consumers = self.state().streams.clone();
        for consumer in consumers {
            consumer.start();
        }
    }
}

/// A registration in a listing.
pub(super) struct Listed {
    pub(super) function: Arc<Function>,
    /// Of a stream function.
    pub(super) status: &'static str,
    /// The session, as a Python literal.
    pub(super) session: String,
}

/// A session as a Python literal.
fn session_text(linked: &Linked, runs: usize) -> String {
    let session = &linked.session;
    let ids: Vec<_> = linked
        .registrations
        .iter()
        .map(|id| format!("'{id}'"))
        .collect();
    format!(
        "{{'sessionId':{id}, 'sessionName':{id}, 'sessionDescription':{}, 'refCount': {}, \
         'linkedTo': 'primary', 'dead': False, 'isInstallationNeeded':0, \
         'registrationsList':[{}], 'depsList':[]}}",
        python_text(session.description().unwrap_or("null")),
        linked.registrations.len() + runs,
        ids.join(","),
        id = python_text(session.id()),
    )
}

/// A text as a Python literal.
fn python_text(text: &str) -> String {
    let mut literal = String::from("'");
    for character in text.chars() {
        match character {
            '\'' | '\\' => {
                literal.push('\\');
                literal.push(character);
            }
            '\n' => literal.push_str("\\n"),
            '\r' => literal.push_str("\\r"),
            '\0' => literal.push_str("\\x00"),
            _ => literal.push(character),
        }
    }
    literal.push('\'');
    literal
}

/// Every event of a key.
fn on_event(ctx: EventCtx, event: &[u8], key: &[u8]) {
    if let Some(registrations) = REGISTRATIONS.get() {
        registrations.on_event(ctx, event, key);
    }
}

/// Every command.
fn on_command(filtered: Filtered) {
    if let Some(registrations) = REGISTRATIONS.get() {
        registrations.filter(&filtered);
    }
}

impl Registrar<Cpython> for &'static Registrations {
    fn next_id(&self) -> Id {
        Id {
            shard: ShardId::ALONE,
            number: self.next.fetch_add(1, Ordering::Relaxed),
        }
    }

    fn verify(&self, change: &Change<Cpython>) -> Result<(), String> {
        self.lock.with(|_| self.verify_held(change))
    }

    fn apply(&self, change: Change<Cpython>) -> Result<(), String> {
        self.lock.with(|server| {
            if raw::is_replica() {
                return Err(
                    "READONLY a replica takes registrations from its master only".to_owned(),
                );
            }
            self.verify_held(&change)?;
            let bundle = self.apply_held(change);
            server.replicate(c"RG.INNERREGISTER", &[&seal(&bundle)]);
            Ok(())
        })
    }

    fn every(&self, event: TimeEvent<Cpython>) -> Result<bool, String> {
        self.start_time_event(event)
    }
}

#[cfg(test)]
mod tests {
    use super::python_text;

    #[test]
    fn texts_become_python_literals() {
        assert_eq!(python_text("it's"), r"'it\'s'");
        assert_eq!(python_text("a\\\n"), r"'a\\\n'");
    }
}
