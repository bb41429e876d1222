//! Shards that connect to this one: who they are, and what they said already.
//!
//! A shard proves who it is by a token that it was sent over the cluster bus, which only members of
//! the cluster are on. A token is good for one connection.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use super::Cluster;
use super::message::{Message, PROTOCOL};
use crate::engine::{LogLevel, ShardId, random_id};

/// A token is good for so long.
const GOOD_FOR: Duration = Duration::from_secs(10);

/// Those that are connected, or are about to.
#[derive(Default)]
pub(super) struct Peers {
    tokens: HashMap<ShardId, (String, Instant)>,
    known: HashMap<ShardId, Peer>,
}

struct Peer {
    /// The connection that it speaks over.
    client: u64,
    /// Its link, under which it numbers its messages.
    link: Vec<u8>,
    /// The number of the last message.
    last: Option<u64>,
}

/// What a shard says first.
struct Hello<'a> {
    protocol: &'a [u8],
    id: &'a [u8],
    link: &'a [u8],
    token: &'a [u8],
    version: &'a [u8],
    language: &'a [u8],
}

impl Hello<'_> {
    /// Why this shard, which runs `language`, and that one do not understand each other.
    fn mismatch(&self, language: &str) -> Option<String> {
        let text = |word: &[u8]| String::from_utf8_lossy(word).into_owned();
        let version = env!("CARGO_PKG_VERSION");
        if self.protocol != PROTOCOL.to_string().as_bytes() {
            return Some(format!(
                "MISMATCH it runs geartrain {version} with protocol {PROTOCOL}, the other shard \
                 geartrain {} with protocol {}: run the same version on all shards",
                text(self.version),
                text(self.protocol)
            ));
        }
        (self.language != language.as_bytes()).then(|| {
            format!(
                "MISMATCH it runs {language}, the other shard {}: functions can only be sent between \
                 shards with the same one",
                text(self.language)
            )
        })
    }
}

/// What becomes of a message.
#[derive(Debug, PartialEq, Eq)]
enum Fate {
    New(ShardId),
    Duplicate,
    /// Not of a shard that has said who it is.
    Stranger,
}

impl Peers {
    fn token_for(&mut self, shard: ShardId, now: Instant) -> String {
        let token = random_id();
        self.tokens
            .retain(|_, (_, since)| now.saturating_duration_since(*since) < GOOD_FOR);
        self.tokens.insert(shard, (token.clone(), now));
        token
    }

    /// Whether a token is the one that was given; not again.
    fn take_token(&mut self, shard: ShardId, token: &[u8], now: Instant) -> bool {
        self.tokens.remove(&shard).is_some_and(|(given, since)| {
            given.as_bytes() == token && now.saturating_duration_since(since) < GOOD_FOR
        })
    }

    /// A shard speaks over this connection from now on. Whether it begins anew.
    fn admit(&mut self, shard: ShardId, client: u64, link: &[u8]) -> bool {
        let before = self.known.remove(&shard);
        let same = before.as_ref().is_some_and(|peer| peer.link == link);
        let last = before.as_ref().filter(|_| same).and_then(|peer| peer.last);
        let peer = Peer {
            client,
            link: link.to_vec(),
            last,
        };
        self.known.insert(shard, peer);
        before.is_some() && !same
    }

    /// Counts a message.
    fn hear(&mut self, shard: ShardId, client: u64, link: &[u8], number: u64) -> Fate {
        let Some(peer) = self.known.get_mut(&shard) else {
            return Fate::Stranger;
        };
        if peer.client != client || peer.link != link {
            return Fate::Stranger;
        }
        if peer.last.is_some_and(|last| number <= last) {
            return Fate::Duplicate;
        }
        peer.last = Some(number);
        Fate::New(shard)
    }
}

impl Cluster {
    /// A token for a member of the cluster, to be sent to it over the bus.
    pub fn token_for(&self, shard: ShardId) -> String {
        self.peers().token_for(shard, Instant::now())
    }

    /// A token of another shard came over the bus.
    pub fn give_token(&self, shard: ShardId, token: &[u8]) {
        let link = self.read(|state| state.links.get(&shard).cloned());
        if let Some(link) = link {
            link.give_token(token);
        }
    }

    /// `RG.HELLO`: a shard says who it is. Returns what this process calls itself.
    pub fn hello(&self, client: u64, words: &[&[u8]]) -> Result<&str, String> {
        if self.topology().is_none() {
            return Err("ERRCLUSTER NULL cluster state on hello msg".into());
        }
        let &[protocol, id, link, token, version, language] = words else {
            return Err("NOTPEER only other shards of the cluster say RG.HELLO".into());
        };
        let hello = Hello {
            protocol,
            id,
            link,
            token,
            version,
            language,
        };
        let shard = ShardId::parse(hello.id).ok_or("NOTPEER no id of a shard")?;
        if !self.peers().take_token(shard, hello.token, Instant::now()) {
            return Err("NOTPEER only other shards of the cluster say RG.HELLO".into());
        }
        if let Some(mismatch) = hello.mismatch(&self.language) {
            return Err(mismatch);
        }
        if self.peers().admit(shard, client, hello.link) {
            let why = format!("shard {shard} was restarted, or left the cluster and came back");
            self.lost(shard, &why);
        }
        Ok(self.run_id())
    }

    /// `RG.INNERMSGCOMMAND sender run-id function payload number`. Returns the status.
    pub fn message(&self, client: u64, words: &[&[u8]]) -> Result<&'static str, String> {
        if self.topology().is_none() {
            return Err("ERRCLUSTER NULL cluster state".into());
        }
        let &[sender, link, function, payload, number] = words else {
            return Err("ERR wrong number of words".into());
        };
        let number = std::str::from_utf8(number)
            .ok()
            .and_then(|n| n.parse().ok());
        let number: u64 = number.ok_or("bad msg id given")?;
        let shard = ShardId::parse(sender);
        let fate = shard.map_or(Fate::Stranger, |shard| {
            self.peers().hear(shard, client, link, number)
        });
        let shard = match fate {
            Fate::New(shard) => shard,
            Fate::Duplicate => return Ok("duplicate message ignored"),
            Fate::Stranger => {
                return Err("NOTPEER only other shards of the cluster send messages".into());
            }
        };
        match Message::decode(function, payload) {
            Ok(message) => self.hear(shard, message),
            Err(why) => self.log(
                LogLevel::Warning,
                &format!("a message of shard {shard} is dropped: {why}"),
            ),
        }
        Ok("OK")
    }

    fn hear(&self, shard: ShardId, message: Message) {
        match message {
            Message::Prepare(prepare) => self.prepare(shard, prepare),
            Message::Parcels(id, parcels) => self.parcels(shard, id, parcels),
            Message::Ask(call, question) => {
                let this = self.this.clone();
                let answer = move |answer| {
                    if let Some(cluster) = this.upgrade() {
                        // If it can not be reached it will not wait.
                        let _ = cluster.send(shard, Message::Answer(call, answer));
                    }
                };
                self.station.ask(shard, question, Box::new(answer));
            }
            Message::Answer(call, answer) => self.calls.answer(call, shard, answer),
            Message::Tell(word) => self.station.tell(shard, word),
            Message::Test => self.log(LogLevel::Notice, &format!("shard {shard} says hello")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shard(letter: u8) -> ShardId {
        ShardId::parse(&[letter; 40]).expect("an id")
    }

    #[test]
    fn a_token_is_good_once_and_not_for_long() {
        let mut peers = Peers::default();
        let now = Instant::now();
        let token = peers.token_for(shard(b'a'), now);
        assert!(!peers.take_token(shard(b'b'), token.as_bytes(), now));
        assert!(peers.take_token(shard(b'a'), token.as_bytes(), now));
        assert!(!peers.take_token(shard(b'a'), token.as_bytes(), now));
        let token = peers.token_for(shard(b'a'), now);
        assert!(!peers.take_token(shard(b'a'), token.as_bytes(), now + GOOD_FOR));
        peers.token_for(shard(b'a'), now);
        assert!(!peers.take_token(shard(b'a'), b"", now));
    }

    #[test]
    fn shards_of_other_versions_are_told_what_differs() {
        let hello = |protocol, language| Hello {
            protocol,
            id: b"",
            link: b"",
            token: b"",
            version: b"9.8.7",
            language,
        };
        let here = "python 3.11";
        let protocol = PROTOCOL.to_string();
        let same = hello(protocol.as_bytes(), here.as_bytes());
        assert_eq!(same.mismatch(here), None);
        let newer = hello(b"99", here.as_bytes()).mismatch(here);
        assert!(newer.is_some_and(|text| text.contains("geartrain 9.8.7 with protocol 99")));
        let other = hello(protocol.as_bytes(), b"python 3.13").mismatch(here);
        assert!(other.is_some_and(|text| text.contains("python 3.13") && text.contains(here)));
    }

    #[test]
    fn a_message_is_heard_once_and_only_from_a_shard() {
        let mut peers = Peers::default();
        let (a, run) = (shard(b'a'), b"run".as_slice());
        assert_eq!(peers.hear(a, 1, run, 0), Fate::Stranger);
        assert!(!peers.admit(a, 1, run));
        assert_eq!(peers.hear(a, 1, run, 0), Fate::New(a));
        assert_eq!(peers.hear(a, 1, run, 0), Fate::Duplicate);
        assert_eq!(peers.hear(a, 2, run, 1), Fate::Stranger);
        assert_eq!(peers.hear(shard(b'b'), 1, run, 1), Fate::Stranger);
        // The same link over a new connection.
        assert!(!peers.admit(a, 2, run));
        assert_eq!(peers.hear(a, 2, run, 0), Fate::Duplicate);
        assert_eq!(peers.hear(a, 1, run, 1), Fate::Stranger);
        // Another link.
        assert!(peers.admit(a, 3, b"other"));
        assert_eq!(peers.hear(a, 3, b"other", 0), Fate::New(a));
    }
}
