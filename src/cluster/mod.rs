//! Shards talking to shards: who they are, the connections between them, and what is said over
//! these. It knows no server and no language: what others ask of this shard goes to a [`Station`],
//! and what it needs of the server comes from a [`Surroundings`].
//!
//! ```text
//! worker, main thread -> Cluster::send -> Link (network thread) -> socket of the other server
//! other server's main thread: RG.INNERMSGCOMMAND -> Cluster::message -> Part, Station
//! ```

#![forbid(unsafe_code)]

mod calls;
mod exchange;
mod link;
mod message;
mod peers;
mod topology;

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, Weak};
use std::thread;
use std::time::{Duration, Instant};

use futures_util::future::BoxFuture;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use calls::Calls;
use exchange::{Attendance, ClusterExchange};
use link::Link;
use message::{Message, Prepare};
use peers::Peers;

use crate::engine::{self, Id, LogLevel, Parcel, Part, ShardId, Shards, Team};

pub use calls::Answers;
pub use message::PROTOCOL;
pub use topology::{Range, SLOTS, Shard, Slots, SlotsWire, Topology, slot_of};

/// How often the network thread looks whether somebody is silent.
const LOOK: Duration = Duration::from_millis(50);

/// How to connect to other shards.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Access {
    /// As whom; `None`: the default user.
    pub user: Option<String>,
    /// Their password, if they have one.
    pub password: Option<String>,
    /// With TLS.
    pub tls: Option<Tls>,
}

/// The server's files for TLS.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tls {
    /// The certificate of this server.
    pub certificate: Option<String>,
    /// Its key.
    pub key: Option<String>,
    /// The authority that signs all.
    pub authority: Option<String>,
}

/// What the cluster needs of the server around it.
pub trait Surroundings: Send + Sync {
    /// How long shards may be silent.
    fn idle(&self) -> Duration;
    /// How often one message is sent; 0: as often as it takes.
    fn retries(&self) -> u64;
    /// The cluster as the server sees it at this very moment. Needs no lock of the server.
    fn topology(&self) -> Option<Arc<Topology>>;
    /// Runs a job on a thread that may wait for the server.
    fn run(&self, job: Box<dyn FnOnce() + Send>);
    /// Asks a shard for a token, over the cluster bus. Does not wait.
    fn ask_token(&self, shard: ShardId);
    /// Writes to the log.
    fn log(&self, level: LogLevel, text: &str);
}

/// What this shard does when others ask. Called on the server's main thread.
pub trait Station: Send + Sync {
    /// Makes the part of an execution. Its team hears whether it is ready.
    fn prepare(&self, id: Id, team: Team, run: Vec<u8>, keep: bool);
    /// Answers a question, now or later.
    fn ask(&self, from: ShardId, question: Vec<u8>, answer: Answer);
    /// Hears something.
    fn tell(&self, from: ShardId, word: Vec<u8>);
    /// A shard can be talked to, for the first time or again. On the network thread.
    fn connected(&self, shard: ShardId);
}

/// Takes the answer to a question.
pub type Answer = Box<dyn FnOnce(Result<Vec<u8>, String>) + Send>;

/// What went to other shards since the start.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Messages, repeated ones included.
    pub messages: u64,
    /// Their payload.
    pub bytes: u64,
}

/// A shard as listings show it.
#[derive(Debug)]
pub struct Listed {
    /// It.
    pub shard: Shard,
    /// What it calls itself; unknown until it was heard.
    pub run_id: Option<String>,
    /// Messages that it has not acknowledged.
    pub pending: usize,
}

/// The other shards. Used by all threads.
pub struct Cluster {
    run_id: String,
    language: String,
    surroundings: Box<dyn Surroundings>,
    station: Box<dyn Station>,
    state: RwLock<State>,
    /// Held by whoever looks how the cluster is.
    refreshing: Mutex<()>,
    /// That of the slots as they are now.
    digest: AtomicU64,
    parts: Mutex<HashMap<Id, Attendance>>,
    peers: Mutex<Peers>,
    calls: Calls,
    events: UnboundedSender<Event>,
    messages: AtomicU64,
    bytes: AtomicU64,
    /// Slots as they came last, so that equal ones are made once.
    slots: Mutex<Option<(SlotsWire, Arc<Slots>)>>,
    this: Weak<Self>,
}

#[derive(Default)]
struct State {
    topology: Option<Arc<Topology>>,
    access: Arc<Access>,
    links: HashMap<ShardId, Arc<Link>>,
}

/// What the network thread is to do.
enum Event {
    /// Drive a link.
    Drive(BoxFuture<'static, ()>),
    /// An execution can not go on.
    Lost(Id, String),
    /// The cluster is another one; these are not in it any more.
    Changed(Vec<Shard>),
}

impl Cluster {
    /// No cluster yet; the network thread starts.
    pub fn start(
        language: String,
        surroundings: Box<dyn Surroundings>,
        station: Box<dyn Station>,
    ) -> std::io::Result<Arc<Self>> {
        // The first provider wins; another one that is there already does as well.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_io()
            .enable_time()
            .build()?;
        let (events, queue) = unbounded_channel();
        let cluster = Arc::new_cyclic(|this| Self {
            run_id: engine::random_id(),
            language,
            surroundings,
            station,
            state: RwLock::default(),
            refreshing: Mutex::default(),
            digest: AtomicU64::new(0),
            parts: Mutex::default(),
            peers: Mutex::default(),
            calls: Calls::default(),
            events,
            messages: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
            slots: Mutex::default(),
            this: this.clone(),
        });
        let weak = Arc::downgrade(&cluster);
        thread::Builder::new()
            .name("geartrain-net".into())
            .spawn(move || runtime.block_on(serve(weak, queue)))?;
        Ok(cluster)
    }

    /// What this process calls itself.
    pub fn run_id(&self) -> &str {
        &self.run_id
    }

    pub(crate) fn language(&self) -> &str {
        &self.language
    }

    fn log(&self, level: LogLevel, text: &str) {
        self.surroundings.log(level, text);
    }

    fn retries(&self) -> u64 {
        self.surroundings.retries()
    }

    fn ask_token(&self, shard: ShardId) {
        self.surroundings.ask_token(shard);
    }

    fn connected(&self, shard: ShardId) {
        self.station.connected(shard);
    }

    fn read<R>(&self, body: impl FnOnce(&State) -> R) -> R {
        body(&self.state.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn access(&self) -> Arc<Access> {
        self.read(|state| state.access.clone())
    }

    fn parts(&self) -> MutexGuard<'_, HashMap<Id, Attendance>> {
        self.parts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn peers(&self) -> MutexGuard<'_, Peers> {
        self.peers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The cluster as it is known, if there is one.
    pub fn topology(&self) -> Option<Arc<Topology>> {
        self.read(|state| state.topology.clone())
    }

    fn me(&self) -> ShardId {
        self.topology()
            .map_or(ShardId::ALONE, |topology| topology.me)
    }

    /// The cluster, if this shard is not the only one.
    pub fn others(&self) -> Option<Arc<Topology>> {
        self.topology().filter(|topology| topology.is_cluster())
    }

    /// How other shards are connected to from now on.
    pub fn set_access(&self, access: Access) {
        let mut state = self.state.write().unwrap_or_else(PoisonError::into_inner);
        if *state.access != access {
            state.access = Arc::new(access);
        }
    }

    /// Looks how the cluster is now. Connections to shards that stay are kept.
    pub fn refresh(&self) {
        // What is read last is what stays.
        let _one = self
            .refreshing
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if let Some(topology) = self.surroundings.topology() {
            self.set_topology(topology);
        }
    }

    fn set_topology(&self, topology: Arc<Topology>) {
        let known = self.topology();
        if known.is_some_and(|known| Arc::ptr_eq(&known, &topology)) {
            return;
        }
        let (gone, new) = {
            let mut state = self.state.write().unwrap_or_else(PoisonError::into_inner);
            if state.topology.as_deref() == Some(&*topology) {
                state.topology = Some(topology);
                return;
            }
            let before = std::mem::take(&mut state.links);
            let (mut gone, mut new) = (Vec::new(), Vec::new());
            for (id, link) in before {
                let stays = topology.others().any(|shard| {
                    let at = (&shard.host, shard.port);
                    shard.id == id && at == (&link.shard.host, link.shard.port)
                });
                if stays {
                    state.links.insert(id, link);
                } else {
                    gone.push(link);
                }
            }
            for shard in topology.others() {
                if let std::collections::hash_map::Entry::Vacant(e) = state.links.entry(shard.id) {
                    let (link, driver) = Link::open(shard.clone(), &self.this);
                    e.insert(link);
                    new.push(driver);
                }
            }
            state.topology = Some(topology.clone());
            (gone, new)
        };
        self.digest
            .store(topology.slots().digest(), Ordering::Relaxed);
        for driver in new {
            // Fails only when the network thread is gone, and the server with it.
            let _ = self.events.send(Event::Drive(driver));
        }
        // By the network thread, since the one that noticed may be at work for an execution.
        let gone = gone.iter().map(|link| link.shard.clone()).collect();
        let _ = self.events.send(Event::Changed(gone));
    }

    /// Tells executions that the cluster is another one.
    fn changed(&self, gone: &[Shard]) {
        for shard in gone {
            let why = format!("{shard} is no master of the cluster any more");
            self.lost(shard.id, &why);
        }
        let digest = self.digest.load(Ordering::Relaxed);
        let hit: Vec<_> = {
            let parts = self.parts();
            let changed = parts.values().filter(|part| part.slots.digest() != digest);
            changed.filter_map(Attendance::part).collect()
        };
        for part in hit {
            part.moved();
        }
    }

    /// What went to other shards.
    pub fn traffic(&self) -> Traffic {
        Traffic {
            messages: self.messages.load(Ordering::Relaxed),
            bytes: self.bytes.load(Ordering::Relaxed),
        }
    }

    fn count(&self, bytes: usize) {
        self.messages.fetch_add(1, Ordering::Relaxed);
        self.bytes.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    /// The shards as listings show them.
    pub fn list(&self) -> Vec<Listed> {
        self.read(|state| {
            let Some(topology) = &state.topology else {
                return Vec::new();
            };
            let listed = |shard: &Shard| {
                let link = state.links.get(&shard.id);
                Listed {
                    shard: shard.clone(),
                    run_id: match link {
                        Some(link) => link.run_id(),
                        None => (shard.id == topology.me).then(|| self.run_id.clone()),
                    },
                    pending: link.map_or(0, |link| link.pending()),
                }
            };
            topology.listed().iter().map(listed).collect()
        })
    }

    /// Sends a message. The error says why the shard can not be reached.
    fn send(&self, to: ShardId, message: Message) -> Result<(), String> {
        let link = self.read(|state| state.links.get(&to).cloned());
        let Some(link) = link else {
            return Err(format!("shard {to} is no master of the cluster any more"));
        };
        link.send(message)
            .map_err(|why| format!("{}: {why}", link.shard))
    }

    /// Lets a shard know something, if it can be reached.
    pub fn tell(&self, to: ShardId, word: Vec<u8>) {
        if let Err(why) = self.send(to, Message::Tell(word)) {
            self.log(LogLevel::Verbose, &why);
        }
    }

    /// Lets all others know something.
    pub fn tell_all(&self, word: &[u8]) {
        for shard in self.other_ids() {
            self.tell(shard, word.to_vec());
        }
    }

    /// `RG.NETWORKTEST`
    pub fn test(&self) {
        for shard in self.other_ids() {
            if let Err(why) = self.send(shard, Message::Test) {
                self.log(LogLevel::Notice, &why);
            }
        }
    }

    fn other_ids(&self) -> Vec<ShardId> {
        let topology = self.topology();
        let others = topology.iter().flat_map(|topology| topology.others());
        others.map(|shard| shard.id).collect()
    }

    /// Asks all others that have slots; `done` gets what they answer, in the order in which they do.
    pub fn ask_all(&self, question: &[u8], most: Duration, done: Answers) {
        let others: Vec<_> = self.topology().map_or_else(Vec::new, |topology| {
            let ids = topology.shards().iter().map(|shard| shard.id);
            ids.filter(|&id| id != topology.me).collect()
        });
        self.ask(&others, question, most, done);
    }

    /// Asks these.
    pub fn ask(&self, shards: &[ShardId], question: &[u8], most: Duration, done: Answers) {
        let call = self.calls.open(shards, Instant::now() + most, done);
        for &shard in shards {
            if let Err(why) = self.send(shard, Message::Ask(call, question.to_vec())) {
                self.calls.answer(call, shard, Err(why));
            }
        }
    }

    /// Nothing that was said to this shard can be counted on.
    fn lost(&self, shard: ShardId, why: &str) {
        let hit: Vec<_> = {
            let parts = self.parts();
            let with = parts.values().filter(|part| part.shards.contains(&shard));
            with.filter_map(Attendance::part).collect()
        };
        for part in hit {
            part.lost(why);
        }
        for attendance in self.parts().values_mut() {
            attendance.lost(shard, why);
        }
        self.calls.lost(shard, why);
    }

    /// An execution can not go on; it is told by the network thread, since the one that noticed may
    /// be at work for it.
    fn lose(&self, id: Id, why: String) {
        let _ = self.events.send(Event::Lost(id, why));
    }

    /// Looks whether somebody is silent for too long.
    fn look(&self) {
        let now = Instant::now();
        let parts: Vec<_> = {
            let parts = self.parts();
            let there = parts.iter().map(|(id, part)| (*id, part.part()));
            there
                .filter_map(|(id, part)| part.map(|part| (id, part)))
                .collect()
        };
        for (id, part) in parts {
            if part.is_silent(now) {
                let this = self.this.clone();
                self.surroundings.run(Box::new(move || {
                    if let (Some(silent), Some(cluster)) = (part.look(now), this.upgrade()) {
                        let text =
                            format!("execution {id} was stopped: nothing was heard of {silent}");
                        cluster.log(LogLevel::Warning, &text);
                    }
                }));
            }
        }
        self.calls.look(now);
    }
}

/// The network thread.
async fn serve(cluster: Weak<Cluster>, mut events: UnboundedReceiver<Event>) {
    let mut look = tokio::time::interval(LOOK);
    loop {
        tokio::select! {
            event = events.recv() => match event {
                None => return,
                Some(Event::Drive(driver)) => {
                    tokio::spawn(driver);
                }
                Some(Event::Lost(id, why)) => {
                    let part = cluster.upgrade().and_then(|cluster| {
                        cluster.parts().get(&id).and_then(Attendance::part)
                    });
                    if let Some(part) = part {
                        part.lost(&why);
                    }
                }
                Some(Event::Changed(gone)) => {
                    if let Some(cluster) = cluster.upgrade() {
                        cluster.changed(&gone);
                    }
                }
            },
            _ = look.tick() => match cluster.upgrade() {
                Some(cluster) => cluster.look(),
                None => return,
            },
        }
    }
}

impl Shards for Cluster {
    fn id(&self) -> ShardId {
        self.others().map_or(ShardId::ALONE, |topology| topology.me)
    }

    fn team(&self, id: Id) -> Option<Team> {
        self.refresh();
        let topology = self.others()?;
        let shards: Arc<[ShardId]> = topology.shards().iter().map(|shard| shard.id).collect();
        let me = shards.iter().position(|&shard| shard == topology.me)?;
        let wire = topology.wire();
        let slots = self.shared_slots(&wire)?;
        Some(self.make_team(id, shards, me, me, slots, Some(wire)))
    }

    fn attend(&self, id: Id, part: Weak<dyn Part>) {
        let (there, early) = {
            let mut parts = self.parts();
            let Some(attendance) = parts.get_mut(&id) else {
                return;
            };
            let early = attendance.attend(part);
            (attendance.part(), early)
        };
        if let Some(there) = there {
            for (from, parcels) in early {
                there.receive(from, parcels);
            }
        }
    }

    fn leave(&self, id: Id) {
        self.parts().remove(&id);
    }

    fn moved(&self, id: Id) -> Option<String> {
        let now = self.surroundings.topology()?;
        if let Some(slot) = now.moving() {
            return Some(format!("slot {slot} is on its way between two shards"));
        }
        let parts = self.parts();
        parts.get(&id)?.moved(&now)
    }
}

impl Cluster {
    /// Slots as they travel, made once for equal ones.
    fn shared_slots(&self, wire: &SlotsWire) -> Option<Arc<Slots>> {
        let mut last = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((known, slots)) = &*last
            && known == wire
        {
            return Some(slots.clone());
        }
        let ids = wire.shards.iter();
        let ids: Option<Vec<_>> = ids.map(|id| ShardId::parse(id.as_bytes())).collect();
        let slots = Arc::new(Slots::new(ids?.into_iter(), wire.ranges.iter().copied()));
        *last = Some((wire.clone(), slots.clone()));
        Some(slots)
    }

    fn make_team(
        &self,
        id: Id,
        shards: Arc<[ShardId]>,
        me: usize,
        initiator: usize,
        slots: Arc<Slots>,
        wire: Option<SlotsWire>,
    ) -> Team {
        let attendance = Attendance::new(shards.clone(), slots.clone());
        self.parts().insert(id, attendance);
        Team {
            size: shards.len(),
            me,
            initiator,
            idle: self.surroundings.idle(),
            exchange: Box::new(ClusterExchange {
                cluster: self.this.clone(),
                id,
                shards,
                slots,
                wire,
            }),
        }
    }

    /// Another shard wants a part of an execution made.
    fn prepare(&self, from: ShardId, prepare: Prepare) {
        let parse = |id: &String| ShardId::parse(id.as_bytes());
        let shards: Option<Vec<_>> = prepare.slots.shards.iter().map(parse).collect();
        let id = Id::parse(prepare.id.as_bytes());
        self.refresh();
        let slots = self.shared_slots(&prepare.slots);
        let (Some(shards), Some(id), Some(slots)) = (shards, id, slots) else {
            let text = format!("shard {from} sent a plan without ids that make sense");
            return self.log(LogLevel::Warning, &text);
        };
        let place = |shard: ShardId| shards.iter().position(|&other| other == shard);
        let (me, initiator) = (place(self.me()), place(from));
        let (Some(me), Some(initiator)) = (me, initiator) else {
            let text = format!("execution {id} of shard {from} is of other shards than this one");
            let _ = self.send(
                from,
                Message::Parcels(id, vec![Parcel::Failed(text.clone())]),
            );
            return self.log(LogLevel::Warning, &text);
        };
        let mut team = self.make_team(id, shards.into(), me, initiator, slots, None);
        team.idle = Duration::from_millis(prepare.idle.max(1));
        self.station
            .prepare(id, team, prepare.run.into_vec(), prepare.keep);
    }

    /// Parcels of another shard came.
    fn parcels(&self, from: ShardId, id: Id, parcels: Vec<Parcel>) {
        let asks = parcels.contains(&Parcel::Alive);
        let found = {
            let mut parts = self.parts();
            let attendance = parts.get_mut(&id);
            attendance.and_then(|attendance| {
                let place = attendance.place(from)?;
                let parcels = attendance.keep(place, parcels);
                Some(parcels.and_then(|parcels| Some((attendance.part()?, place, parcels))))
            })
        };
        match found {
            Some(Some((part, place, parcels))) => part.receive(place, parcels),
            Some(None) => {}
            None if asks => {
                // Whoever asks how it stands is told that it is over.
                let why = format!("execution {id} is not known to {} any more", self.name());
                let _ = self.send(from, Message::Parcels(id, vec![Parcel::Failed(why)]));
            }
            None => {}
        }
    }

    /// How errors name this shard.
    pub fn name(&self) -> String {
        let topology = self.topology();
        let me = topology.as_ref().and_then(|t| t.shard(t.me));
        match me {
            Some(me) if !me.host.is_empty() => me.to_string(),
            _ => format!("shard {}", self.me()),
        }
    }
}
