//! The cluster around this server: looked at, and what other shards ask of this one.

use std::collections::HashMap;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant, SystemTime};

use super::config::Settings;
use super::lock::Lock;
use super::raw::Server;
use super::registrations::Registrations;
use super::{MODULE, Module};
use crate::cluster::{Access, Answer, Cluster, Station, Surroundings, Tls, Topology};
use crate::engine::wire::{RunWire, SessionWire, WhatWire};
use crate::engine::{Command, Id, Launch, LogLevel, Parcel, Registry, Reply, ShardId, Team};
use crate::python::{self, Cpython, Session};

/// All of it is read once in so many looks; in between only if something shows that it changed.
const LOOKS: u64 = 10;

/// Shards compare their registrations once in so many.
const LOOKS_TO_COMPARE: u64 = 50;

/// What a node says over the bus: it asks for a token, or sends one.
const ASKS: &[u8] = b"?";
const TOKEN: u8 = b'!';

/// What the cluster needs of this server.
struct Around {
    server: Server,
    settings: Arc<Settings>,
    lock: Arc<Lock>,
    nodes: Arc<Nodes>,
}

impl Surroundings for Around {
    fn topology(&self) -> Option<Arc<Topology>> {
        self.nodes.topology(self.server)
    }

    fn idle(&self) -> Duration {
        self.settings.max_idle()
    }

    fn retries(&self) -> u64 {
        self.settings.send_retries()
    }

    fn run(&self, job: super::threads::Job) {
        run(job);
    }

    fn ask_token(&self, shard: ShardId) {
        let (server, lock) = (self.server, self.lock.clone());
        // The network thread does not wait for the server.
        run(Box::new(move || {
            lock.with(|_| server.send_to_node(shard, ASKS));
        }));
    }

    fn log(&self, level: LogLevel, text: &str) {
        self.server.log(level, text);
    }
}

/// Runs a job on a thread that may wait.
fn run(job: super::threads::Job) {
    // While the module loads no other shard is known.
    if let Some(module) = MODULE.get() {
        module.run(job);
    }
}

/// Starts the connections to other shards, if the server is a node of a cluster.
pub(super) fn start(
    server: Server,
    settings: &Arc<Settings>,
    lock: &Arc<Lock>,
) -> Result<Option<(Arc<Cluster>, Watch)>, String> {
    if server.node_id().is_none() {
        return Ok(None);
    }
    let nodes = Nodes::of(server).ok_or("the server has no cluster-config-file")?;
    let around = Around {
        server,
        settings: settings.clone(),
        lock: lock.clone(),
        nodes: nodes.clone(),
    };
    let cluster = Cluster::start(python::language(), Box::new(around), Box::new(Here));
    let cluster = cluster.map_err(|error| format!("could not start a thread: {error}"))?;
    let looks = AtomicU64::new(0);
    Ok(Some((cluster, Watch { looks, nodes })))
}

/// A message of the bus, which only nodes of the cluster are on.
pub(super) fn heard_on_bus(from: ShardId, message: &[u8]) {
    let Some((module, cluster)) = MODULE.get().and_then(|m| Some((m, m.cluster()?))) else {
        return;
    };
    if message == ASKS {
        let mut reply = vec![TOKEN];
        reply.extend_from_slice(cluster.token_for(from).as_bytes());
        module.server.send_to_node(from, &reply);
    } else if let Some((&TOKEN, token)) = message.split_first() {
        cluster.give_token(from, token);
    }
}

/// The file in which the server writes what it knows of the cluster, whenever that changes. (To ask
/// by CLUSTER SLOTS ends Valkey 8.0 to 9.0.0 where no client stands behind it.) Read by all threads.
pub(super) struct Nodes {
    path: PathBuf,
    /// Whether shards connect by TLS.
    tls: AtomicBool,
    last: Mutex<Option<Read>>,
}

/// What was in the file.
struct Read {
    version: Version,
    /// Whether no other version can look like this one any more.
    settled: bool,
    topology: Arc<Topology>,
}

/// Differs between two versions of the file: where it lies, how long it is, when it was written, and
/// which of its ports count.
type Version = (u64, u64, Option<SystemTime>, bool);

/// Within this time a file may be written again and carry the same time: clocks of file systems are
/// as coarse as that.
const TICK: Duration = Duration::from_secs(2);

impl Nodes {
    fn of(server: Server) -> Option<Arc<Self>> {
        let mut values = config(server, &["cluster-config-file", "tls-cluster"]);
        let tls = values.remove("tls-cluster").as_deref() == Some("yes");
        Some(Arc::new(Self::new(
            values.remove("cluster-config-file")?.into(),
            tls,
        )))
    }

    fn new(path: PathBuf, tls: bool) -> Self {
        Self {
            path,
            tls: AtomicBool::new(tls),
            last: Mutex::new(None),
        }
    }

    /// The cluster at this moment.
    fn topology(&self, server: Server) -> Option<Arc<Topology>> {
        self.read().unwrap_or_else(|error| {
            let path = self.path.display();
            let text = format!("{path}, which tells of the cluster, can not be read: {error}");
            server.log(LogLevel::Warning, &text);
            None
        })
    }

    /// What the file says; `None` if it is being written.
    fn read(&self) -> std::io::Result<Option<Arc<Topology>>> {
        let tls = self.tls.load(Ordering::Relaxed);
        let data = std::fs::metadata(&self.path)?;
        let written = data.modified().ok();
        let version = (data.ino(), data.len(), written, tls);
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(read) = &*last
            && read.settled
            && read.version == version
        {
            return Ok(Some(read.topology.clone()));
        }
        let settled = written.is_some_and(|at| at.elapsed().is_ok_and(|since| since > TICK));
        let nodes = std::fs::read_to_string(&self.path)?;
        let Some(mut topology) = Topology::parse(&nodes, tls).map(Arc::new) else {
            return Ok(None);
        };
        if let Some(read) = &*last
            && *read.topology == *topology
        {
            topology = read.topology.clone();
        }
        *last = Some(Read {
            version,
            settled,
            topology: topology.clone(),
        });
        Ok(Some(topology))
    }
}

/// When to look at the cluster.
pub(super) struct Watch {
    looks: AtomicU64,
    nodes: Arc<Nodes>,
}

impl Module {
    /// Looks whether the cluster changed. The server lock is held.
    pub(super) fn look_at_cluster(&self) {
        let Some((cluster, watch)) = &self.cluster else {
            return;
        };
        let looks = watch.looks.fetch_add(1, Ordering::Relaxed);
        if looks.is_multiple_of(LOOKS) {
            let access = access(self.server, &self.settings);
            watch
                .nodes
                .tls
                .store(access.tls.is_some(), Ordering::Relaxed);
            cluster.set_access(access);
        }
        self.read_cluster();
        if looks.is_multiple_of(LOOKS_TO_COMPARE) && cluster.others().is_some() {
            self.tell_what_is_registered();
        }
    }

    /// Reads the cluster.
    pub(super) fn read_cluster(&self) {
        if let Some(cluster) = self.cluster() {
            cluster.refresh();
        }
    }

    /// The other shards, if the server is a node of a cluster.
    pub(super) fn cluster(&self) -> Option<&Arc<Cluster>> {
        self.cluster.as_ref().map(|(cluster, _)| cluster)
    }
}

/// Settings of the server that are set.
fn config(server: Server, names: &[&str]) -> HashMap<String, String> {
    let mut command = Command::of(&[b"CONFIG", b"GET"]);
    for name in names {
        command.push(name.as_bytes());
    }
    let mut values = HashMap::new();
    if let Ok(Reply::Array(items)) = server.read(&command) {
        for pair in items.chunks_exact(2) {
            if let [Reply::Bytes(name), Reply::Bytes(value)] = pair
                && !value.is_empty()
            {
                let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
                values.insert(text(name), text(value));
            }
        }
    }
    values
}

/// How shards connect to each other: as replicas to their masters, or by settings of our own.
fn access(server: Server, settings: &Settings) -> Access {
    let mut values = config(
        server,
        &[
            "masteruser",
            "masterauth",
            "requirepass",
            "tls-cluster",
            "tls-cert-file",
            "tls-key-file",
            "tls-client-cert-file",
            "tls-client-key-file",
            "tls-ca-cert-file",
        ],
    );
    let mut take = |name: &str| values.remove(name);
    let (user, password) = (take("masteruser"), take("masterauth"));
    let default = take("requirepass");
    let (user, password) = match (settings.cluster_login(), password) {
        (Some((user, password)), _) => (user, Some(password)),
        (None, Some(password)) => (user, Some(password)),
        // All nodes of a cluster have the same one, as a rule.
        (None, None) => (None, default),
    };
    let tls = (take("tls-cluster").as_deref() == Some("yes")).then(|| {
        let (certificate, key) = (take("tls-cert-file"), take("tls-key-file"));
        Tls {
            certificate: take("tls-client-cert-file").or(certificate),
            key: take("tls-client-key-file").or(key),
            authority: take("tls-ca-cert-file"),
        }
    });
    Access {
        user,
        password,
        tls,
    }
}

/// What this shard does when others ask.
struct Here;

/// Sessions of runs, of this shard and of others, by instance, for as long as somebody uses them.
static RUNS: Mutex<Option<HashMap<String, Weak<Session>>>> = Mutex::new(None);

/// What a run registers belongs to its session, on every shard, whoever is first.
pub(super) fn remember(session: &Arc<Session>) {
    if !MODULE.get().is_some_and(Module::has_shards) {
        return;
    }
    let mut runs = RUNS.lock().unwrap_or_else(PoisonError::into_inner);
    let runs = runs.get_or_insert_default();
    runs.retain(|_, session| session.strong_count() > 0);
    runs.insert(session.instance().to_owned(), Arc::downgrade(session));
}

/// The session of a run.
pub(super) fn known_session(wire: &SessionWire) -> Option<Arc<Session>> {
    let runs = RUNS.lock().unwrap_or_else(PoisonError::into_inner);
    let session = runs.as_ref()?.get(&wire.instance)?.upgrade();
    drop(runs);
    session.filter(|session| session.is_of(wire))
}

/// The session of a run: the one with registrations here, that of another run, or a new one.
fn session_of(
    linked: Option<Arc<Session>>,
    wire: &SessionWire,
    from: ShardId,
) -> Result<Arc<Session>, String> {
    if let Some(linked) = linked {
        return Ok(linked);
    }
    if let Some(session) = known_session(wire) {
        return Ok(session);
    }
    let module = MODULE.get().ok_or("the module is not loaded")?;
    let session = python::receive_session(wire, module.requirements.needs(wire, from)?)?;
    remember(&session);
    Ok(session)
}

/// What a part is made of, with what must be looked up under the server lock.
enum Work {
    Registration(Launch<Cpython>),
    Plan(RunWire, Option<Arc<Session>>),
    /// A registration that this shard has not heard of.
    Coming(Id),
}

/// So long a registration may be on its way here, by another job.
const COMING: Duration = Duration::from_secs(2);
/// Between two looks for it.
const LOOK: Duration = Duration::from_millis(5);
/// More executions do not wait for that: the jobs that bring registrations need threads, too.
const MOST_WAITING: usize = 16;

/// Waits for a registration that code of another shard made a moment ago.
fn wait_for(module: &'static Module, run: &[u8]) -> Result<Work, String> {
    static WAITING: AtomicUsize = AtomicUsize::new(0);
    let begin = Instant::now();
    let waits = WAITING.fetch_add(1, Ordering::Relaxed) < MOST_WAITING;
    let mut found = module.lock.with(|_| work(module.registrations, run));
    while waits && matches!(found, Ok(Work::Coming(_))) && begin.elapsed() < COMING {
        std::thread::sleep(LOOK);
        found = module.lock.with(|_| work(module.registrations, run));
    }
    WAITING.fetch_sub(1, Ordering::Relaxed);
    found
}

fn work(registrations: &Registrations, run: &[u8]) -> Result<Work, String> {
    let run = RunWire::decode(run).map_err(|damage| damage.to_string())?;
    match &run.what {
        WhatWire::Registration(id) => {
            let missing = || format!("registration {id} is not there");
            let id = Id::parse(id.as_bytes()).ok_or_else(missing)?;
            let Some(function) = registrations.function_for_others(id) else {
                let gone = registrations.is_buried(id);
                return if gone {
                    Err(missing())
                } else {
                    Ok(Work::Coming(id))
                };
            };
            if let Some(broken) = &function.broken {
                return Err(broken.clone());
            }
            let source = run.source.source().ok_or("its records are damaged")?;
            Ok(Work::Registration(Launch::of_part(&function, source)))
        }
        WhatWire::Plan { session, .. } => {
            let known = registrations.session_of_run(session);
            Ok(Work::Plan(run, known))
        }
    }
}

fn launch(work: Work, from: ShardId) -> Result<Launch<Cpython>, String> {
    match work {
        Work::Registration(launch) => Ok(launch),
        Work::Coming(id) => Err(format!("registration {id} is not there")),
        Work::Plan(run, linked) => match &run.what {
            WhatWire::Plan { plan, session } => {
                let made = session_of(linked, session, from)?;
                python::receive_run(plan, &run.source, &made, &session.language)
            }
            WhatWire::Registration(_) => Err("no plan was sent".into()),
        },
    }
}

fn begin(registry: &Registry<Cpython>, id: Id, team: Team, work: Result<Work, String>, keep: bool) {
    match work.and_then(|work| launch(work, id.shard)) {
        Ok(launch) => {
            let execution = registry.create_part(id, team, launch);
            registry.start(&execution, keep);
        }
        Err(why) => {
            let why = format!("{}: {why}", team.exchange.name(team.me));
            registry.refuse_part(id);
            team.exchange
                .send(team.initiator, vec![Parcel::Failed(why)]);
        }
    }
}

impl Station for Here {
    fn prepare(&self, id: Id, team: Team, run_bytes: Vec<u8>, keep: bool) {
        let Some(module) = MODULE.get() else { return };
        let work = work(module.registrations, &run_bytes);
        let registry = module.registry.clone();
        if let Ok(Work::Registration(launch)) = &work
            && launch.plan.is_prepared()
        {
            return begin(&registry, id, team, work, keep);
        }
        // Callbacks are unpacked where nobody waits for it.
        run(Box::new(move || {
            let work = match work {
                Ok(Work::Coming(_)) => wait_for(module, &run_bytes),
                work => work,
            };
            begin(&registry, id, team, work, keep);
        }));
    }

    fn ask(&self, from: ShardId, question: Vec<u8>, answer: Answer) {
        let Some(module) = MODULE.get() else { return };
        module.answer(from, &question, answer);
    }

    fn tell(&self, from: ShardId, word: Vec<u8>) {
        if let Some(module) = MODULE.get() {
            module.hear(from, &word);
        }
    }

    fn connected(&self, shard: ShardId) {
        run(Box::new(move || {
            if let Some(module) = MODULE.get() {
                module.meet(shard);
            }
        }));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;
    use std::io::Write;

    const ME: &str = "0123456789012345678901234567890123456789";

    /// A file of one node, written at this time.
    fn write(path: &std::path::Path, slots: &str, at: SystemTime) {
        let mut file = File::create(path).expect("a file");
        let node = format!("{ME} 127.0.0.1:7000@17000 myself,master - 0 0 1 connected {slots}\n");
        file.write_all(node.as_bytes()).expect("written");
        file.write_all(b"vars currentEpoch 1 lastVoteEpoch 0\n")
            .expect("written");
        file.set_modified(at).expect("a time");
    }

    #[test]
    fn a_file_that_changes_within_a_tick_is_read_again() {
        let name = format!("geartrain-{}-nodes.conf", uuid::Uuid::new_v4());
        let path = std::env::temp_dir().join(name);
        let nodes = Nodes::new(path.clone(), false);
        let owns = |slot| {
            let topology = nodes.read().expect("read").expect("whole");
            topology.owner(slot).is_some()
        };

        let now = SystemTime::now();
        write(&path, "0-16376", now);
        assert!(!owns(16377));
        write(&path, "0-16377", now);
        assert!(owns(16377));

        // What does not change stays the same, and what is old is not read again.
        let first = nodes.read().expect("read");
        let second = nodes.read().expect("read");
        assert!(Arc::ptr_eq(&first.expect("whole"), &second.expect("whole")));
        let old = now - 2 * TICK;
        write(&path, "0-16378", old);
        assert!(owns(16378));
        write(&path, "0-16379", old);
        assert!(!owns(16379));
        write(&path, "0-16379", now);
        assert!(owns(16379));
        std::fs::remove_file(&path).expect("removed");
    }
}
