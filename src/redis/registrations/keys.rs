//! Functions that react to changes of keys.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::index::Names;
use super::streams::is_own_note;
use super::{Function, Registrations};
use crate::engine::{
    Caller, Chunk, Execution, KeyType, KeysTrigger, Lane, Launch, Mode, Need, Reader, RecordError,
    Source, Unfinished,
};
use crate::python::Cpython;
use crate::redis::lock::Lock;
use crate::redis::raw::{self, EventCtx, Server};
use crate::redis::readers::{Values, write_key};

use super::hooks::KeysCall;

/// A registration of a KeysReader, ready to be fired.
pub(super) struct KeysFunction {
    pub(super) function: Arc<Function>,
    pub(super) names: Names,
    /// In lower case.
    pub(super) events: Option<Vec<Vec<u8>>>,
    types: Option<Vec<KeyType>>,
    /// In lower case.
    pub(super) commands: Option<Vec<Vec<u8>>>,
    values: Values,
    need: Need,
    pub(super) lane: Arc<Lane<crate::python::Cpython>>,
}

fn lower(words: &[String]) -> Vec<Vec<u8>> {
    words
        .iter()
        .map(|word| word.to_ascii_lowercase().into_bytes())
        .collect()
}

impl KeysFunction {
    pub(super) fn new(
        function: Arc<Function>,
        trigger: &KeysTrigger,
        lane: Arc<Lane<crate::python::Cpython>>,
    ) -> Self {
        let types = trigger.key_types.as_ref().map(|types| {
            let named = |name: &String| KeyType::of_name(name);
            types.iter().filter_map(named).collect()
        });
        Self {
            names: Names::of(&trigger.prefix),
            events: trigger.event_types.as_deref().map(lower),
            types,
            commands: trigger.commands.as_deref().map(lower),
            values: Values::of(trigger.read_value, trigger.all_values),
            need: function.need(),
            function,
            lane,
        }
    }

    /// The record of an event, as the key is now. The server lock is held.
    fn record(&self, server: Server, event: Event<'_>) -> Result<Chunk, String> {
        self.look(server, event).map(|(chunk, _)| chunk)
    }

    /// The same, and whether it says that there is no such key.
    fn look(&self, server: Server, event: Event<'_>) -> Result<(Chunk, bool), String> {
        let (key, name) = (event.key, event.name);
        if self.need == Need::Number {
            return Ok((Chunk::counted(1), false));
        }
        let mut chunk = Chunk::events();
        if self.values == Values::None {
            let mark = chunk.begin_event(name, key, None);
            chunk.end_record(mark);
            return Ok((chunk, false));
        }
        let owner = crate::engine::Context::user(&*self.function.plan.context);
        let user = server.user(owner)?;
        let mut gone = false;
        let read = |found: Option<&raw::Key<'_>>| {
            gone = found.is_none();
            write_key(&mut chunk, self.need, self.values, Some(name), key, found);
        };
        raw::with_key(server, &user, event.database, key, read).ok_or_else(|| {
            let key = String::from_utf8_lossy(key);
            format!("NOPERM the user '{owner}' may not read the key '{key}'")
        })?;
        Ok((chunk, gone))
    }

    /// Runs it at once over a record, or what became of reading one; what it only promises has to go
    /// on elsewhere. The server lock is held.
    pub(super) fn run_here(
        &self,
        record: Result<Chunk, String>,
        caller: Option<&Arc<dyn Caller>>,
    ) -> Option<Box<Unfinished<Cpython>>> {
        let _active = Active::begin(&KEYS_ACTIVE);
        match record {
            Ok(chunk) => self.function.run_here(&chunk, caller, |_, _| ()).err(),
            Err(error) => {
                self.function
                    .statistics
                    .finish(&[error], false, std::time::Duration::ZERO);
                None
            }
        }
    }

    fn matches_type(&self, server: Server, event: Event<'_>) -> bool {
        let Some(types) = &self.types else {
            return true;
        };
        // Whose rights do not matter: only the type is looked at, which TYPE tells everybody.
        types.contains(&raw::key_type(server, event.database, event.key))
    }
}

/// What happened to a key. Functions look at the key in its database; what they do themselves is done
/// in database 0.
#[derive(Clone, Copy)]
struct Event<'a> {
    name: &'a [u8],
    database: i32,
    key: &'a [u8],
}

/// The same, for later.
struct KeptEvent {
    name: Vec<u8>,
    database: i32,
    key: Vec<u8>,
}

impl Event<'_> {
    fn keep(self) -> KeptEvent {
        KeptEvent {
            name: self.name.to_vec(),
            database: self.database,
            key: self.key.to_vec(),
        }
    }
}

impl KeptEvent {
    fn event(&self) -> Event<'_> {
        Event {
            name: &self.name,
            database: self.database,
            key: &self.key,
        }
    }
}

/// Whether a function that reacts to keys at once is at work: what it writes triggers no other one, as
/// in RedisGears 1.x. Changed under the server lock.
static KEYS_ACTIVE: AtomicBool = AtomicBool::new(false);

/// Sets such a mark until it is dropped.
pub(super) struct Active<'a> {
    mark: &'a AtomicBool,
    before: bool,
}

impl<'a> Active<'a> {
    pub(super) fn begin(mark: &'a AtomicBool) -> Self {
        Self {
            mark,
            before: mark.swap(true, Ordering::Relaxed),
        }
    }
}

impl Drop for Active<'_> {
    fn drop(&mut self) {
        self.mark.store(self.before, Ordering::Relaxed);
    }
}

/// Reads the key of an event when its execution runs.
struct EventReader {
    lock: Arc<Lock>,
    function: Arc<KeysFunction>,
    /// `None` once read.
    event: Option<KeptEvent>,
}

impl Reader for EventReader {
    fn read(&mut self) -> Result<Option<Chunk>, RecordError> {
        let Some(event) = self.event.take() else {
            return Ok(None);
        };
        let function = &self.function;
        let read = self
            .lock
            .with(|server| function.record(server, event.event()));
        read.map(Some).map_err(RecordError::new)
    }
}

impl Registrations {
    /// A key changed. The server lock is held.
    pub(super) fn on_key_event(&'static self, ctx: EventCtx, event: &[u8], key: &[u8]) {
        if KEYS_ACTIVE.load(Ordering::Relaxed) || (event == b"keymiss" && raw::is_opening()) {
            return;
        }
        if is_own_note(event) {
            return;
        }
        let mut found = Vec::new();
        {
            let state = self.state();
            let mut lower = [0; 64];
            let name = match lower.get_mut(..event.len()) {
                Some(name) => {
                    name.copy_from_slice(event);
                    name.make_ascii_lowercase();
                    &*name
                }
                None => event,
            };
            if let Some(index) = state.keys_by_event.get(name) {
                index.find(key, &mut found);
            }
            state.keys_of_all_events.find(key, &mut found);
        }
        // In the order in which they were registered.
        if found.len() > 1 {
            found.sort_unstable_by_key(|&(order, _)| order);
            found.dedup_by_key(|&mut (order, _)| order);
        }
        if found.is_empty() {
            return;
        }
        let event = Event {
            name: event,
            database: ctx.database(),
            key,
        };
        for (_, function) in found {
            self.fire(ctx, function, event);
        }
    }

    fn fire(&'static self, ctx: EventCtx, function: Arc<KeysFunction>, event: Event<'_>) {
        let call = match &function.commands {
            None => None,
            // Such functions react to what the commands do that they name, and to nothing else.
            Some(commands) => match self.current_call() {
                Some(call) if commands.iter().any(|name| *name == call.name) => Some(call),
                _ => return,
            },
        };
        if !function.matches_type(self.server, event) {
            return;
        }
        function.function.statistics.trigger();
        match (function.function.mode, call) {
            // The record is read now, whatever the same transaction does to the key afterwards.
            (Mode::Sync, Some(call)) => {
                let record = function.record(self.server, event);
                call.later(function, record);
            }
            (Mode::Sync, None) => {
                let (record, gone) = match function.look(self.server, event) {
                    Ok((chunk, gone)) => (Ok(chunk), gone),
                    Err(error) => (Err(error), false),
                };
                // A key that was deleted may be there again when the transaction or script is done.
                // The function would be wrong to do away with what is left of it. One that was missed
                // was not deleted: GETSET misses what it writes.
                let deleted = gone && event.name != b"keymiss";
                let event = deleted.then(|| event.keep());
                let job = move || {
                    let back = event.filter(|event| {
                        let now = raw::key_type(self.server, event.database, &event.key);
                        now != KeyType::Empty
                    });
                    let record =
                        back.map_or(record, |event| function.record(self.server, event.event()));
                    if let Some(unfinished) = function.run_here(record, None) {
                        self.go_on(&function, unfinished, None);
                    }
                };
                raw::after_event(ctx, Box::new(job));
            }
            (Mode::Async | Mode::AsyncLocal, call) => self.launch(&function, event, call),
        }
    }

    fn launch(&self, function: &Arc<KeysFunction>, event: Event<'_>, call: Option<Arc<KeysCall>>) {
        let source = if function.need == Need::Number {
            Source::Records(Chunk::counted(1))
        } else {
            Source::Direct(Box::new(EventReader {
                lock: self.lock.clone(),
                function: function.clone(),
                event: Some(event.keep()),
            }))
        };
        // A client that can not be made to wait is not linked to the execution.
        let call = call.filter(|call| call.may_wait());
        let launch = self.launch_here(&function.function, source);
        let execution = self.create_for(launch, call);
        self.registry.start_in(&function.lane, execution, true);
    }

    /// What a function that runs at once has only promised comes later: the writer does not wait,
    /// unless the function reacts to its command.
    pub(super) fn go_on(
        &self,
        function: &KeysFunction,
        unfinished: Box<Unfinished<Cpython>>,
        call: Option<Arc<KeysCall>>,
    ) {
        let source = Source::Unfinished(unfinished);
        let launch = Launch::of_registration(&function.function, source);
        let execution = self.create_for(launch, call);
        self.registry.start(&execution, true);
    }

    /// An execution that the reply of a command waits for, if there is one.
    fn create_for(
        &self,
        mut launch: Launch<Cpython>,
        call: Option<Arc<KeysCall>>,
    ) -> Arc<Execution<Cpython>> {
        launch.caller = call.clone().map(|call| call as Arc<dyn Caller>);
        let execution = self.registry.create(launch);
        if let Some(call) = call {
            call.hold();
            execution.when_done(Box::new(move |_| call.release()));
        }
        execution
    }
}
