//! Registrations: kept, fired by events and commands, listed. The functions themselves are the
//! engine's; here is what binds them to the server.
//!
//! All state is behind one mutex that is only ever taken with the server lock held, so that it is
//! free when the server makes a child to save the data, and never waited for.

mod everywhere;
mod hooks;
mod index;
mod indices;
mod keys;
mod listing;
mod manage;
mod persistence;
mod revive;
mod sessions;
mod spec;
mod stream_groups;
mod streams;
mod table;
mod timers;

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::time::Instant;

use super::config::Settings;
use super::lock::Lock;
use super::raw::{self, BlockedClient, Ctx, EventCtx, Filtered, Server};
use super::reply;
use super::requirements::Requirements;
use crate::engine::wire::{RegistrationWire, RunWire, SourceWire, Version, WhatWire};
use crate::engine::{
    Caller, Chunk, Command, Id, Lane, Launch, LogLevel, Mode, Registration, Registry, Reply,
    Results, ShardId, Source,
};
use crate::python::{Cpython, Session};

use everywhere::Held;
pub(super) use everywhere::Refusal;
use hooks::{Hooked, KeysCall};
use index::Index;
use keys::KeysFunction;
pub(super) use listing::Listed;
pub(super) use persistence::{AUX, TIMER_KEYS};
pub(super) use sessions::ListedSession;
use sessions::{Linked, Replaced};
use spec::CommandSpec;
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

/// What becomes of executions of a registration that is removed, if no worker has seen them.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Waiting {
    /// They run all the same.
    Run,
    /// Those run that a client waits for: it does not learn that the function was replaced.
    AreAnswered,
    /// None runs.
    AreAborted,
}

#[derive(Default)]
struct State {
    /// In the order in which they were registered.
    entries: BTreeMap<u64, Entry>,
    order_of: HashMap<Id, u64>,
    next_order: u64,
    sessions: BTreeMap<String, Linked>,
    /// Sessions that were replaced, the oldest first.
    dead: Vec<Weak<Session>>,
    replaced: Replaced,
    triggers: HashMap<Vec<u8>, Arc<CommandFunction>>,
    /// What the server says of commands that have hooks, by name in lower case.
    specs: HashMap<Vec<u8>, CommandSpec>,
    /// By the command's name in lower case.
    hooked: HashMap<Vec<u8>, Hooked>,
    /// By the event's name in lower case.
    keys_by_event: HashMap<Vec<u8>, Index<Arc<KeysFunction>>>,
    keys_of_all_events: Index<Arc<KeysFunction>>,
    streams: Vec<Arc<Consumer>>,
    streams_by_name: Index<Arc<Consumer>>,
    /// The command that runs and that KeysReader functions react to.
    call: Option<Arc<KeysCall>>,
    /// Something was taken out that the indices still have.
    stale: bool,
    /// Those that are being removed: onUnregistered runs.
    leaving: HashSet<Id>,
    /// Calls of onRegistered that wait for the end of loading.
    after_load: Vec<Arc<Function>>,
    /// Of all of them.
    version: Version,
    /// Equal for equal registrations; made when somebody asks.
    digest: Option<u64>,
    /// Registrations that went.
    buried: VecDeque<Id>,
    /// Digests, of the own registrations and of theirs, at which other shards were asked for all.
    asked: HashMap<ShardId, (u64, u64)>,
    /// Registrations of other shards that were verified, by transaction.
    held: HashMap<String, Held>,
    /// Transactions that other shards gave up, lately.
    cancelled: VecDeque<String>,
    /// Names of triggers that are kept free for a transaction.
    held_names: HashMap<Vec<u8>, (String, Instant)>,
}

/// The registrations of this server.
pub(super) struct Registrations {
    server: Server,
    lock: Arc<Lock>,
    registry: Arc<Registry<Cpython>>,
    settings: Arc<Settings>,
    requirements: &'static Requirements,
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

/// RG.TRIGGER: no command stands behind it, and its reply is its results.
struct Plain {
    may_wait: bool,
}

impl Caller for Plain {
    fn may_wait(&self) -> bool {
        self.may_wait
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
        requirements: &'static Requirements,
    ) -> std::io::Result<&'static Self> {
        let timers = Timers::start()?;
        Ok(REGISTRATIONS.get_or_init(|| Self {
            server,
            lock,
            registry,
            settings,
            requirements,
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

    /// Whether triggers do not come as the commands that they are: a replica refuses those, since they
    /// may write. One of a cluster has to: what it runs does not reach its keys.
    fn carries_triggers(&self) -> bool {
        raw::is_replica() && self.server.node_id().is_none()
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

    /// `RG.TRIGGER name argument ...`: the words after the command.
    pub(super) fn trigger(&self, ctx: Ctx<'_>, words: &[&[u8]]) {
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
            let caller = plain(may_wait);
            let ran = function.run_here(&chunk, Some(caller), |results, errors| {
                reply::results_or_error(ctx, results, errors);
            });
            if let Err(unfinished) = ran {
                let mut launch = Launch::of_registration(function, Source::Unfinished(unfinished));
                launch.caller = Some(caller.clone());
                self.start(&found, launch, ctx.block(), reply::results_or_error);
            }
            return;
        }
        let mut launch = Launch::of_registration(function, Source::Records(chunk));
        // Every shard gets the same record.
        if function.mode == Mode::Async
            && self.registry.has_shards()
            && let Source::Records(chunk) = &launch.source
        {
            let mut bytes = Vec::new();
            chunk.encode(&mut bytes);
            launch.everywhere = Some(run_of(function, SourceWire::Records(bytes.into())));
        }
        launch.caller = Some(plain(may_wait).clone());
        self.start(&found, launch, ctx.block(), reply::results_or_error);
    }

    /// A run of a registration that an event on this shard starts: other shards are part of it if its
    /// records move to the shards of their keys.
    fn launch_here(&self, function: &Arc<Function>, source: Source<Cpython>) -> Launch<Cpython> {
        let mut launch = Launch::of_registration(function, source);
        let moves = function.mode == Mode::Async && function.plan.moves_by_key();
        if moves && self.registry.has_shards() {
            launch.everywhere = Some(run_of(function, SourceWire::Nothing));
        }
        launch
    }

    /// A registration. The server lock is held.
    pub(super) fn function(&self, id: Id) -> Option<Arc<Function>> {
        let state = self.state();
        let entry = state.entries.get(state.order_of.get(&id)?);
        entry.map(|entry| entry.function.clone())
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
        let waits = keys + streams > 0 && !raw::has_jobs();
        let filters = self.has_hooks() || waits || self.carries_triggers();
        raw::filter_commands(self.server, filters.then_some(on_command));
    }

    /// Files, sockets and other servers' data end or begin. The server lock is held.
    pub(super) fn role_changed(&'static self, is_replica: bool) {
        raw::set_replica(is_replica);
        self.listen();
        let consumers = self.state().streams.clone();
        for consumer in consumers {
            consumer.role_changed();
        }
        if !is_replica {
            self.start_streams();
        }
    }

    /// The keys of database 0 went, or others came, without an event for each. The server lock is
    /// held.
    pub(super) fn data_dropped(&self) {
        let consumers = self.state().streams.clone();
        for consumer in consumers {
            consumer.forget_streams();
        }
    }

    /// Looks for streams that came without an event for each. The server lock is held.
    pub(super) fn data_came(&self) {
        if self.is_loading() || raw::is_replica() {
            return;
        }
        let consumers = self.state().streams.clone();
        for consumer in consumers {
            consumer.look_again();
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

/// What other shards are told to run of a registration.
fn run_of(function: &Function, source: SourceWire) -> Arc<[u8]> {
    let run = RunWire {
        what: WhatWire::Registration(function.id.to_string()),
        source,
    };
    run.encode().into()
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
