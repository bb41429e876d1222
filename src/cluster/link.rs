//! One connection to another shard: made, kept, made again.
//!
//! Messages are numbered and wait until the shard has acknowledged them. After a break all that wait
//! are sent again, in order, and the shard ignores those that it had already. A shard that was
//! restarted knows nothing of what was said before: what waits for it is dropped, and whoever counts
//! on it is told. A link has a name of its own, under which its messages are numbered: one that is
//! made anew, because the shard was away or elsewhere, begins anew.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use futures_util::future::BoxFuture;
use futures_util::stream::{FuturesOrdered, StreamExt};
use redis::aio::MultiplexedConnection;
use redis::{
    AsyncConnectionConfig, Client, ClientTlsConfig, Cmd, ConnectionAddr, ConnectionInfo, ErrorKind,
    IntoConnectionInfo, ProtocolVersion, PushInfo, PushKind, RedisConnectionInfo, RedisError,
    TlsCertificates, Value,
};
use tokio::sync::Notify;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::time::{Instant, interval, sleep, timeout};

use super::message::{Message, PROTOCOL};
use super::{Access, Cluster, Shard, Tls};
use crate::engine::{LogLevel, random_id};

/// A shard that does not answer for so long is connected to anew.
const SILENCE: Duration = Duration::from_secs(2);
/// Between two looks at a connection that has nothing to carry.
const HEARTBEAT: Duration = Duration::from_secs(1);
/// Between two attempts.
const PAUSE: Duration = Duration::from_millis(500);
/// The cluster bus is asked again after so long.
const ASK_AGAIN: Duration = Duration::from_millis(200);
/// Messages that may be on their way without an answer.
const PIPELINE: usize = 1024;

/// A connection to a shard, for whoever sends.
pub(super) struct Link {
    pub(super) shard: Shard,
    queue: UnboundedSender<Message>,
    state: Mutex<State>,
    pending: AtomicUsize,
    /// A token came.
    wake: Notify,
}

#[derive(Default)]
struct State {
    /// What the shard called itself.
    run_id: Option<String>,
    /// Why it can not be reached.
    down: Option<String>,
    /// Proves to the shard who connects; good for once.
    token: Option<Vec<u8>>,
}

/// Messages from here to the shard.
struct Sent {
    message: Message,
    number: u64,
    times: u64,
}

enum Failure {
    /// It can not work until something changes.
    Final(String),
    /// It may work soon.
    Later(String),
}

impl Link {
    /// A link that begins to connect.
    pub(super) fn open(
        shard: Shard,
        cluster: &Weak<Cluster>,
    ) -> (Arc<Self>, BoxFuture<'static, ()>) {
        let (queue, messages) = unbounded_channel();
        let link = Arc::new(Self {
            shard,
            queue,
            state: Mutex::default(),
            pending: AtomicUsize::new(0),
            wake: Notify::new(),
        });
        let driver = Driver {
            link: Arc::downgrade(&link),
            shard: link.shard.clone(),
            cluster: cluster.clone(),
            messages,
            waiting: VecDeque::new(),
            name: random_id(),
            next: 0,
            run_id: None,
            trouble: None,
        };
        (link, Box::pin(driver.run()))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Queues a message. The error says why the shard can not be reached.
    pub(super) fn send(&self, message: Message) -> Result<(), String> {
        if let Some(why) = &self.state().down {
            return Err(why.clone());
        }
        self.pending.fetch_add(1, Ordering::Relaxed);
        // Fails only when the network thread is gone, and the server with it.
        let _ = self.queue.send(message);
        Ok(())
    }

    /// What the shard calls itself, once it was heard.
    pub(super) fn run_id(&self) -> Option<String> {
        self.state().run_id.clone()
    }

    /// Messages that it has not acknowledged.
    pub(super) fn pending(&self) -> usize {
        self.pending.load(Ordering::Relaxed)
    }

    /// A token of the shard.
    pub(super) fn give_token(&self, token: &[u8]) {
        self.state().token = Some(token.to_vec());
        self.wake.notify_one();
    }
}

/// The end of a link that the network thread drives.
struct Driver {
    link: Weak<Link>,
    shard: Shard,
    cluster: Weak<Cluster>,
    messages: UnboundedReceiver<Message>,
    waiting: VecDeque<Sent>,
    /// What its messages are numbered under.
    name: String,
    next: u64,
    run_id: Option<String>,
    /// Since when it can not be talked to.
    trouble: Option<Instant>,
}

/// Replies in the order of what was sent; `true` for those that acknowledge a message.
type InFlight = FuturesOrdered<BoxFuture<'static, (bool, Result<Value, RedisError>)>>;

impl Driver {
    async fn run(mut self) {
        let mut pause = Duration::ZERO;
        while self.link.strong_count() > 0 {
            sleep(pause).await;
            pause = PAUSE;
            let connected = self.connect().await;
            let Some(cluster) = self.cluster.upgrade() else {
                return;
            };
            match connected {
                Ok((connection, pushes, run_id)) => {
                    self.trouble = None;
                    self.welcome(&cluster, run_id);
                    drop(cluster);
                    let why = self.serve(connection, pushes).await;
                    let Some(why) = why else { return };
                    self.log(&format!("the connection broke: {why}"));
                    pause = Duration::from_millis(20);
                }
                Err(Failure::Final(why)) => self.give_up(&cluster, &why),
                Err(Failure::Later(why)) => {
                    let since = *self.trouble.get_or_insert_with(Instant::now);
                    if since.elapsed() > SILENCE {
                        self.give_up(&cluster, &why);
                    }
                    pause = ASK_AGAIN;
                }
            }
        }
    }

    fn log(&self, text: &str) {
        if let Some(cluster) = self.cluster.upgrade() {
            cluster.log(LogLevel::Notice, &format!("{}: {text}", self.shard));
        }
    }

    fn with_link<R>(&self, body: impl FnOnce(&Link) -> R) -> Option<R> {
        self.link.upgrade().map(|link| body(&link))
    }

    fn acknowledged(&mut self, count: usize) {
        self.waiting.drain(..count.min(self.waiting.len()));
        self.with_link(|link| link.pending.fetch_sub(count, Ordering::Relaxed));
    }

    /// The shard is there.
    fn welcome(&mut self, cluster: &Cluster, run_id: String) {
        let before = self.run_id.replace(run_id.clone());
        let restarted = before.is_some_and(|before| before != run_id);
        if restarted {
            self.acknowledged(self.waiting.len());
            self.next = 0;
            cluster.lost(self.shard.id, &format!("{} was restarted", self.shard));
        }
        let was_down = self.with_link(|link| {
            let mut state = link.state();
            state.run_id = Some(run_id);
            state.down.take().is_some()
        });
        if was_down == Some(true) {
            self.log("it can be reached again");
        }
        cluster.connected(self.shard.id);
    }

    /// Nothing can be sent now: all that waits is lost.
    fn give_up(&mut self, cluster: &Cluster, why: &str) {
        let news = self.with_link(|link| {
            let mut state = link.state();
            let news = state.down.as_deref() != Some(why);
            state.down = Some(why.to_owned());
            news
        });
        self.acknowledged(self.waiting.len());
        while self.messages.try_recv().is_ok() {
            self.with_link(|link| link.pending.fetch_sub(1, Ordering::Relaxed));
        }
        if news == Some(true) {
            cluster.log(LogLevel::Warning, &format!("{}: {why}", self.shard));
        }
        cluster.lost(self.shard.id, &format!("{}: {why}", self.shard));
    }

    /// Connects and says who this is.
    async fn connect(
        &mut self,
    ) -> Result<(MultiplexedConnection, UnboundedReceiver<PushInfo>, String), Failure> {
        let gone = || Failure::Later("the server goes down".into());
        let access = self.cluster.upgrade().ok_or_else(gone)?.access();
        let client = client(&self.shard, &access).map_err(Failure::Final)?;
        let (sender, pushes) = unbounded_channel();
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(SILENCE))
            .set_response_timeout(Some(SILENCE))
            .set_pipeline_buffer_size(PIPELINE)
            .set_push_sender(sender);
        let connection = client.get_multiplexed_async_connection_with_config(&config);
        let mut connection = connection.await.map_err(|error| refused(&error, &access))?;
        let token = self.token().await?;
        let cluster = self.cluster.upgrade().ok_or_else(gone)?;
        let mut hello = Cmd::new();
        hello
            .arg("RG.HELLO")
            .arg(PROTOCOL)
            .arg(cluster.me().as_str());
        hello.arg(&self.name).arg(token);
        hello.arg(env!("CARGO_PKG_VERSION")).arg(cluster.language());
        drop(cluster);
        match connection.send_packed_command(&hello).await {
            Ok(Value::BulkString(id)) => {
                let run_id = String::from_utf8_lossy(&id).into_owned();
                Ok((connection, pushes, run_id))
            }
            Ok(Value::ServerError(error)) => {
                let text = error.details().unwrap_or_default().to_owned();
                Err(match error.code() {
                    // It does not know of the cluster yet, or the token came too late.
                    "ERRCLUSTER" | "NOTPEER" => Failure::Later(text),
                    code => Failure::Final(format!("it refused this shard: {code} {text}")),
                })
            }
            Ok(other) => Err(Failure::Final(format!(
                "it answered RG.HELLO with {other:?}: is the module loaded there?"
            ))),
            Err(error) => Err(Failure::Later(error.to_string())),
        }
    }

    /// What proves to the shard who this is. It sends it over the cluster bus, which only members of
    /// the cluster are on.
    async fn token(&self) -> Result<Vec<u8>, Failure> {
        let begin = Instant::now();
        while begin.elapsed() < SILENCE {
            let link = self.link.upgrade();
            let (Some(cluster), Some(link)) = (self.cluster.upgrade(), link) else {
                return Err(Failure::Later("the server goes down".into()));
            };
            if let Some(token) = link.state().token.take() {
                return Ok(token);
            }
            cluster.ask_token(self.shard.id);
            drop(cluster);
            // A notification that nobody waited for is not lost.
            let _ = timeout(ASK_AGAIN, link.wake.notified()).await;
        }
        Err(Failure::Final(
            "it did not answer over the cluster bus: is the module loaded there?".into(),
        ))
    }

    /// Carries messages until the connection breaks; says why. `None`: nobody needs it any more.
    async fn serve(
        &mut self,
        connection: MultiplexedConnection,
        mut pushes: UnboundedReceiver<PushInfo>,
    ) -> Option<String> {
        let mut in_flight = InFlight::new();
        self.send_again(&connection, &mut in_flight);
        let mut heartbeat = interval(HEARTBEAT);
        loop {
            tokio::select! {
                biased;
                Some((counts, reply)) = in_flight.next(), if !in_flight.is_empty() => {
                    match reply {
                        Ok(Value::Okay | Value::SimpleString(_)) if counts => self.acknowledged(1),
                        Ok(Value::ServerError(error)) => {
                            return Some(format!("{} {}", error.code(), error.details().unwrap_or_default()));
                        }
                        Ok(_) => {}
                        Err(error) => return Some(error.to_string()),
                    }
                }
                push = pushes.recv() => {
                    if push.is_none_or(|push| push.kind == PushKind::Disconnection) {
                        return Some("closed".into());
                    }
                }
                message = self.messages.recv() => {
                    let message = message?;
                    let sent = Sent { message, number: self.next, times: 1 };
                    self.next += 1;
                    in_flight.push_back(self.post(&connection, &sent));
                    self.waiting.push_back(sent);
                }
                _ = heartbeat.tick() => {
                    if in_flight.is_empty() {
                        let mut connection = connection.clone();
                        in_flight.push_back(Box::pin(async move {
                            let ping = redis::cmd("PING");
                            (false, connection.send_packed_command(&ping).await)
                        }));
                    }
                }
            }
        }
    }

    /// Sends what was not acknowledged before the connection broke, unless it was sent too often.
    fn send_again(&mut self, connection: &MultiplexedConnection, in_flight: &mut InFlight) {
        let Some(cluster) = self.cluster.upgrade() else {
            return;
        };
        let most = cluster.retries();
        let too_often = |sent: &Sent| most > 0 && sent.times >= most;
        if self.waiting.iter().any(too_often) {
            // Without it those after it make no sense.
            let count = self.waiting.len();
            self.acknowledged(count);
            let why = format!(
                "{} did not acknowledge a message that was sent {most} times",
                self.shard
            );
            self.log(&why);
            cluster.lost(self.shard.id, &why);
        }
        for sent in &mut self.waiting {
            sent.times += 1;
        }
        for sent in &self.waiting {
            in_flight.push_back(self.post(connection, sent));
        }
    }

    /// Sends a message; the reply comes later.
    fn post(
        &self,
        connection: &MultiplexedConnection,
        sent: &Sent,
    ) -> BoxFuture<'static, (bool, Result<Value, RedisError>)> {
        let mut command = Cmd::new();
        command.arg("RG.INNERMSGCOMMAND");
        let payload = sent.message.encode();
        if let Some(cluster) = self.cluster.upgrade() {
            cluster.count(payload.len());
            command.arg(cluster.me().as_str()).arg(&self.name);
        }
        command.arg(sent.message.function());
        command.arg(payload).arg(sent.number);
        let mut connection = connection.clone();
        Box::pin(async move { (true, connection.send_packed_command(&command).await) })
    }
}

/// How to connect.
fn client(shard: &Shard, access: &Access) -> Result<Client, String> {
    let mut how = RedisConnectionInfo::default()
        .set_protocol(ProtocolVersion::RESP3)
        .set_skip_set_lib_name();
    if let Some(password) = &access.password {
        how = how.set_password(password);
        if let Some(user) = &access.user {
            how = how.set_username(user);
        }
    }
    let address = |addr: ConnectionAddr| -> Result<ConnectionInfo, RedisError> {
        Ok(addr.into_connection_info()?.set_redis_settings(how.clone()))
    };
    let failed = |error: RedisError| error.to_string();
    let Some(tls) = &access.tls else {
        let tcp = ConnectionAddr::Tcp(shard.host.clone(), shard.port);
        return Client::open(address(tcp).map_err(failed)?).map_err(failed);
    };
    let certificates = certificates(tls)?;
    let mut addr = ConnectionAddr::TcpTls {
        host: shard.host.clone(),
        port: shard.port,
        insecure: false,
        tls_params: None,
    };
    let client = Client::build_with_tls(address(addr).map_err(failed)?, certificates);
    let client = client.map_err(|error| format!("the TLS files can not be used: {error}"))?;
    // Its certificate is that of the cluster; what it is called does not matter, as to the server.
    addr = client.get_connection_info().addr().clone();
    addr.set_danger_accept_invalid_hostnames(true);
    let info = client.get_connection_info().clone().set_addr(addr);
    Client::open(info).map_err(failed)
}

fn certificates(tls: &Tls) -> Result<TlsCertificates, String> {
    let read = |path: &Option<String>| match path {
        None => Ok(None),
        Some(path) => std::fs::read(path)
            .map(Some)
            .map_err(|error| format!("{path}, which the server's tls settings name: {error}")),
    };
    let client_tls = match (read(&tls.certificate)?, read(&tls.key)?) {
        (Some(client_cert), Some(client_key)) => Some(ClientTlsConfig {
            client_cert,
            client_key,
        }),
        _ => None,
    };
    Ok(TlsCertificates {
        client_tls,
        root_cert: read(&tls.authority)?,
    })
}

fn refused(error: &RedisError, access: &Access) -> Failure {
    if error.to_string().contains("UnsupportedCertVersion") {
        return Failure::Final(
            "its certificate is of X.509 version 1: connections between shards need version 3 \
             (openssl x509 with -extfile makes one)"
                .into(),
        );
    }
    let auth = matches!(error.code(), Some("NOAUTH" | "WRONGPASS"));
    if auth || error.kind() == ErrorKind::AuthenticationFailed {
        let hint = if access.password.is_some() {
            "the password was not accepted"
        } else {
            "it wants a password"
        };
        return Failure::Final(format!(
            "{hint}: set masterauth (and masteruser) so that shards can connect to each other \
             ({error})"
        ));
    }
    Failure::Final(format!("no connection: {error}"))
}
