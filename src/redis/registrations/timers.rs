//! Things to do later: partial batches of streams, retries, time events.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::{REGISTRATIONS, Registrations};
use crate::engine::wire::{SessionWire, Shipped, seal, unseal};
use crate::engine::{LogLevel, TimeEvent};
use crate::python::{self, Cpython, Session};
use crate::redis::guard::guard;
use crate::redis::raw::{self, Args, Ctx};

type Task = Box<dyn FnOnce() + Send>;

struct Due {
    at: Instant,
    number: u64,
    task: Task,
}

impl PartialEq for Due {
    fn eq(&self, other: &Self) -> bool {
        (self.at, self.number) == (other.at, other.number)
    }
}

impl Eq for Due {}

impl PartialOrd for Due {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Due {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.at, self.number).cmp(&(other.at, other.number))
    }
}

#[derive(Default)]
struct Queue {
    due: Mutex<(BinaryHeap<Reverse<Due>>, u64)>,
    came: Condvar,
}

/// A thread that does things later.
pub(super) struct Timers(Arc<Queue>);

impl Timers {
    /// Starts it.
    pub(super) fn start() -> std::io::Result<Self> {
        let queue = Arc::new(Queue::default());
        let served = queue.clone();
        thread::Builder::new()
            .name("geartrain-timer".into())
            .stack_size(16 << 20)
            .spawn(move || python::enter_thread(&mut || served.serve()))?;
        Ok(Self(queue))
    }

    /// Does something after a while, on the timer thread.
    pub(super) fn after(&self, time: Duration, task: Task) {
        let mut due = self.0.due();
        due.1 += 1;
        let number = due.1;
        let at = Instant::now() + time;
        due.0.push(Reverse(Due { at, number, task }));
        drop(due);
        self.0.came.notify_one();
    }
}

impl Queue {
    fn due(&self) -> MutexGuard<'_, (BinaryHeap<Reverse<Due>>, u64)> {
        self.due.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn serve(&self) {
        let mut due = self.due();
        loop {
            let now = Instant::now();
            let first = due.0.peek().map(|Reverse(first)| first.at);
            due = match first {
                None => self.came.wait(due).unwrap_or_else(PoisonError::into_inner),
                Some(at) if at > now => {
                    let waited = self.came.wait_timeout(due, at - now);
                    waited.unwrap_or_else(PoisonError::into_inner).0
                }
                Some(_) => {
                    let first = due.0.pop();
                    drop(due);
                    if let Some(Reverse(first)) = first {
                        guard(first.task);
                    }
                    self.due()
                }
            };
        }
    }
}

/// The number of time events that can not run; no other one has it.
const BROKEN: u64 = 0;

/// Time events by number.
#[derive(Default)]
pub(super) struct TimeEvents {
    all: Mutex<Numbered>,
}

#[derive(Default)]
struct Numbered {
    events: HashMap<u64, Arc<TimeEvent<Cpython>>>,
    last: u64,
}

impl TimeEvents {
    fn all(&self) -> MutexGuard<'_, Numbered> {
        self.all.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn find(&self, number: u64) -> Option<Arc<TimeEvent<Cpython>>> {
        self.all().events.get(&number).cloned()
    }

    /// Their sessions, one each.
    pub(super) fn sessions(&self) -> Vec<Arc<Session>> {
        let all = self.all();
        let events = all.events.values();
        events.map(|event| event.session.clone()).collect()
    }

    fn insert(&self, event: TimeEvent<Cpython>) -> u64 {
        let mut all = self.all();
        all.last += 1;
        let number = all.last;
        all.events.insert(number, Arc::new(event));
        number
    }

    fn remove(&self, number: u64) {
        let gone = self.all().events.remove(&number);
        drop(gone);
    }
}

/// What is saved of a time event.
#[derive(Serialize, Deserialize)]
struct TimeEventWire {
    session: SessionWire,
    seconds: u64,
    callback: Shipped,
}

impl Registrations {
    /// Starts a time event; `false` if its key exists already.
    pub(super) fn start_time_event(
        &'static self,
        event: TimeEvent<Cpython>,
    ) -> Result<bool, String> {
        let (key, user) = (event.key.clone(), event.session.user_name().to_owned());
        let session = event.session.clone();
        let number = self.time_events.insert(event);
        let Some(key) = key else {
            self.arm(number);
            return Ok(true);
        };
        self.requirements.publish(session.requirements());
        let held = self.lock.with(|server| {
            if raw::is_replica() {
                return Err("READONLY You can't write against a read only replica.".into());
            }
            if server.is_paused() {
                return Err(raw::NO_WRITES_NOW.into());
            }
            if !server.user(&user)?.may_change(&key) {
                let key = String::from_utf8_lossy(&key);
                return Err(format!(
                    "NOPERM the user '{user}' may not write the key '{key}'"
                ));
            }
            let saved = self.saved_time_event(number);
            let held = server.hold_timer(&key, number, saved.clone());
            if held {
                server.replicate(TIME_EVENT, &[&key, &saved]);
                self.arm(number);
            }
            Ok(held)
        });
        if held != Ok(true) {
            self.time_events.remove(number);
        }
        held
    }

    fn arm(&'static self, number: u64) {
        let Some(event) = self.time_events.find(number) else {
            return;
        };
        let time = Duration::from_secs(event.seconds);
        self.timers.after(time, Box::new(move || self.tick(number)));
    }

    /// Calls the callback and arms it again, unless its key is gone or it failed.
    fn tick(&'static self, number: u64) {
        let Some(event) = self.time_events.find(number) else {
            return;
        };
        let called = self.lock.with(|_| {
            // Its key may have gone while the lock was waited for.
            let gone = self.time_events.find(number).is_none();
            if gone || raw::is_replica() || self.is_loading() {
                return Ok(());
            }
            python::call(&event.session, &event.callback, true)
        });
        match called {
            Ok(()) => self.arm(number),
            Err(error) => {
                let message = format!("a time event failed and is stopped: {error}");
                self.log(LogLevel::Warning, &message);
                if event.shipped.is_none() {
                    self.time_events.remove(number);
                }
            }
        }
    }

    /// What is saved of a time event.
    fn saved_time_event(&self, number: u64) -> Vec<u8> {
        let Some(event) = self.time_events.find(number) else {
            return Vec::new();
        };
        seal(&TimeEventWire {
            session: event.session.wire(),
            seconds: event.seconds,
            callback: event.shipped.clone().unwrap_or_default(),
        })
    }

    /// Makes a time event of what was saved; its number. One that can not run here, since it is of
    /// another Python or a package is missing, keeps its key and what was saved.
    pub(super) fn load_time_event(&'static self, blob: &[u8]) -> Result<u64, String> {
        let wire: TimeEventWire = unseal(blob).map_err(|damage| damage.to_string())?;
        let id = wire.session.id.clone();
        let opened = self.open_time_event(wire);
        Ok(opened.unwrap_or_else(|error| {
            let message = format!(
                "a time event of session {id} can not run: {error}. Delete its key and send its \
                 script again"
            );
            self.log(LogLevel::Warning, &message);
            BROKEN
        }))
    }

    fn open_time_event(&'static self, wire: TimeEventWire) -> Result<u64, String> {
        let session = self.session_of(&wire.session)?;
        let callback = python::receive_function(&wire.callback, &session, &wire.session.language)?;
        self.link_if_free(&session, &wire.session);
        let number = self.time_events.insert(TimeEvent {
            session,
            seconds: wire.seconds.max(1),
            callback,
            shipped: Some(wire.callback),
            key: None,
        });
        self.arm(number);
        Ok(number)
    }

    /// The key of a time event is gone.
    pub(super) fn free_time_event(&self, number: u64) {
        self.time_events.remove(number);
    }

    /// `RG.INNERTIMEEVENT key blob`: a time event from the master or the AOF.
    pub(in crate::redis) fn inner_time_event(&'static self, ctx: Ctx<'_>, args: &Args<'_>) {
        if !ctx.is_replayed() {
            return ctx.error(b"ERR RG.INNERTIMEEVENT is internal: scripts use registerTE");
        }
        let [key, blob] = args.rest() else {
            return ctx.wrong_arity();
        };
        match self.load_time_event(blob) {
            Ok(number) => {
                if !self.server.hold_timer(key, number, blob.to_vec()) {
                    self.time_events.remove(number);
                }
                ctx.replicate_verbatim();
                ctx.status(b"OK");
            }
            Err(error) => {
                let message = format!("a time event can not be taken: {error}");
                self.log(LogLevel::Warning, &message);
                ctx.error(format!("ERR {message}").as_bytes());
            }
        }
    }
}

/// The command that makes a time event on replicas and from the AOF.
pub(super) const TIME_EVENT: &std::ffi::CStr = c"RG.INNERTIMEEVENT";

/// The registrations, for callbacks of the data type.
pub(super) fn registrations() -> Result<&'static Registrations, String> {
    REGISTRATIONS
        .get()
        .ok_or_else(|| "the module is not loaded".into())
}
