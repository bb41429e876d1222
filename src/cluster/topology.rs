//! Who is in the cluster: shards, their addresses and their slots. Plain data that the server room
//! reads from the server and hands over.

use std::fmt;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::OnceLock;

use serde::{Deserialize, Serialize};

use crate::engine::ShardId;

/// Slots of a cluster.
pub const SLOTS: usize = 16384;
/// In the table of slots: nobody has it.
const NOBODY: u16 = u16::MAX;

/// Slots that belong together: from, to (inclusive).
pub type Range = (u16, u16);

/// A master with its slots.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Shard {
    /// Its node id.
    pub id: ShardId,
    /// Where it listens.
    pub host: String,
    /// On which port.
    pub port: u16,
    /// What it owns, in order.
    pub ranges: Vec<Range>,
}

impl fmt::Display for Shard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { id, host, port, .. } = self;
        if host.contains(':') {
            write!(f, "shard {id} ([{host}]:{port})")
        } else {
            write!(f, "shard {id} ({host}:{port})")
        }
    }
}

/// The cluster as this shard sees it.
#[derive(Clone, PartialEq, Eq)]
pub struct Topology {
    /// This shard.
    pub me: ShardId,
    /// All masters that have slots, and this one in any case, by id.
    shards: Vec<Shard>,
    /// Other masters, which have no slots: they may run functions too, and get registrations.
    idle: Vec<Shard>,
    /// What a replica sees: all masters that have slots, by id. It has nothing to do with them.
    seen: Vec<Shard>,
    slots: Slots,
    /// A slot that comes to this shard or leaves it just now.
    moving: Option<u16>,
    /// Hashes to the first slot of this shard. Found when somebody asks.
    tag: OnceLock<String>,
}

/// Which shard, by its position, owns a slot.
#[derive(Clone, PartialEq, Eq)]
pub struct Slots {
    owners: Box<[u16]>,
    /// Equal for equal shards with equal slots.
    digest: u64,
}

/// The same as it travels: shards, and their ranges.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SlotsWire {
    /// Ids of shards, by position.
    pub shards: Vec<String>,
    /// From, to, and the position of the owner.
    pub ranges: Vec<(u16, u16, u16)>,
}

impl Topology {
    /// The cluster of these masters. A shard that is named twice has the slots of both.
    pub fn new(me: ShardId, masters: impl IntoIterator<Item = Shard>) -> Self {
        let mut shards: Vec<Shard> = Vec::new();
        let mut idle: Vec<Shard> = Vec::new();
        for master in masters {
            if master.ranges.is_empty() {
                idle.push(master);
                continue;
            }
            match shards.iter_mut().find(|shard| shard.id == master.id) {
                Some(shard) => shard.ranges.extend(master.ranges),
                None => shards.push(master),
            }
        }
        if !shards.iter().any(|shard| shard.id == me) {
            // It may run functions before it has data.
            let known = idle.iter().find(|shard| shard.id == me);
            shards.push(known.cloned().unwrap_or(Shard {
                id: me,
                host: String::new(),
                port: 0,
                ranges: Vec::new(),
            }));
        }
        idle.retain(|shard| shard.id != me);
        shards.sort_by_key(|shard| shard.id);
        for shard in &mut shards {
            shard.ranges.sort_unstable();
        }
        let ranges = shards.iter().enumerate().flat_map(|(at, shard)| {
            let at = u16::try_from(at).unwrap_or(NOBODY);
            shard.ranges.iter().map(move |&(from, to)| (from, to, at))
        });
        let slots = Slots::new(shards.iter().map(|shard| shard.id), ranges);
        Self {
            me,
            shards,
            idle,
            seen: Vec::new(),
            slots,
            moving: None,
            tag: OnceLock::new(),
        }
    }

    /// The cluster of a file of nodes, which the server writes whenever something changes: in the
    /// format of CLUSTER NODES. With `tls` shards are connected to by TLS. `None` if this server is not
    /// in it, or if its end is missing: it is being written.
    pub fn parse(nodes: &str, tls: bool) -> Option<Self> {
        if !nodes.lines().last()?.starts_with("vars ") || !nodes.ends_with('\n') {
            return None;
        }
        let (mut me, mut moving, mut follows) = (None, None, false);
        let mut masters = Vec::new();
        for line in nodes.lines() {
            let mut words = line.split(' ').filter(|word| !word.is_empty());
            let (Some(id), Some(address), Some(flags)) = (words.next(), words.next(), words.next())
            else {
                continue;
            };
            let Some(id) = ShardId::parse(id.as_bytes()) else {
                continue;
            };
            let is = |flag: &str| flags.split(',').any(|other| other == flag);
            // Its master, when it pinged and ponged, its epoch and the state of its link.
            let slots: Vec<_> = words.skip(5).collect();
            if is("myself") {
                me = Some(id);
                follows = is("slave");
                moving = slots.iter().find_map(|word| parse_moving(word));
            }
            let ranges: Vec<_> = slots.into_iter().filter_map(parse_range).collect();
            // One that has failed and left nothing behind is gone.
            let gone = is("fail") || is("noaddr") || is("handshake");
            if is("master") && !(ranges.is_empty() && gone) {
                let (host, port) = parse_address(address, tls)?;
                masters.push(Shard {
                    id,
                    host,
                    port,
                    ranges,
                });
            }
        }
        let me = me?;
        if follows {
            // Its master does what there is to do.
            let mut seen = Self::new(me, masters).shards;
            seen.retain(|shard| shard.id != me);
            return Some(Self {
                seen,
                ..Self::new(me, [])
            });
        }
        Some(Self {
            moving,
            ..Self::new(me, masters)
        })
    }

    /// A slot that comes to this shard or leaves it just now.
    pub fn moving(&self) -> Option<u16> {
        self.moving
    }

    /// Those that run what starts here, by id: the shards with slots, and this one.
    pub fn shards(&self) -> &[Shard] {
        &self.shards
    }

    /// Those that have slots, by id, and this one unless it is a replica.
    pub fn listed(&self) -> &[Shard] {
        if self.seen.is_empty() {
            &self.shards
        } else {
            &self.seen
        }
    }

    /// The shard of this id.
    pub fn shard(&self, id: ShardId) -> Option<&Shard> {
        let mut all = self.shards.iter().chain(&self.idle);
        all.find(|shard| shard.id == id)
    }

    /// A text that in braces hashes to the first slot of this shard; to the first of all if it has none.
    pub fn tag(&self) -> &str {
        self.tag.get_or_init(|| {
            let first = self.shard(self.me).and_then(|own| own.ranges.first());
            tag_of(first.map_or(0, |&(slot, _)| slot))
        })
    }

    /// Whether there are others.
    pub fn is_cluster(&self) -> bool {
        self.shards.len() > 1
    }

    /// All masters but this one, with slots or without.
    pub fn others(&self) -> impl Iterator<Item = &Shard> {
        let with_slots = self.shards.iter().filter(|shard| shard.id != self.me);
        with_slots.chain(&self.idle)
    }

    /// The owners of the slots.
    pub fn slots(&self) -> &Slots {
        &self.slots
    }

    /// The id of the shard that owns a slot.
    pub fn owner(&self, slot: u16) -> Option<ShardId> {
        let at = self.slots.owner(slot)?;
        self.shards.get(at).map(|shard| shard.id)
    }

    /// What other shards need to hash as this one does.
    pub fn wire(&self) -> SlotsWire {
        let ranges = self.shards.iter().enumerate().flat_map(|(at, shard)| {
            let at = u16::try_from(at).unwrap_or(NOBODY);
            shard.ranges.iter().map(move |&(from, to)| (from, to, at))
        });
        SlotsWire {
            shards: self.shards.iter().map(|s| s.id.to_string()).collect(),
            ranges: ranges.collect(),
        }
    }
}

impl Slots {
    /// The owners of these ranges.
    pub fn new(
        shards: impl Iterator<Item = ShardId>,
        ranges: impl Iterator<Item = (u16, u16, u16)>,
    ) -> Self {
        let mut owners = vec![NOBODY; SLOTS].into_boxed_slice();
        for (from, to, shard) in ranges {
            if let Some(range) = owners.get_mut(usize::from(from)..=usize::from(to)) {
                range.fill(shard);
            }
        }
        let mut hasher = DefaultHasher::new();
        for shard in shards {
            shard.hash(&mut hasher);
        }
        owners.hash(&mut hasher);
        Self {
            owners,
            digest: hasher.finish(),
        }
    }

    /// The position of the shard that owns a slot.
    pub fn owner(&self, slot: u16) -> Option<usize> {
        let owner = *self.owners.get(usize::from(slot))?;
        (owner != NOBODY).then_some(usize::from(owner))
    }

    /// Equal for equal shards with equal slots.
    pub fn digest(&self) -> u64 {
        self.digest
    }
}

/// `from-to`, or one slot; not those on their way, `[slot->-node]`.
fn parse_range(word: &str) -> Option<Range> {
    let (from, to) = word.split_once('-').unwrap_or((word, word));
    Some((from.parse().ok()?, to.parse().ok()?))
}

/// `[slot->-node]`, `[slot-<-node]`
fn parse_moving(word: &str) -> Option<u16> {
    word.strip_prefix('[')?.split('-').next()?.parse().ok()
}

/// `host:port@busport[,hostname[,name=value...]]`
fn parse_address(word: &str, tls: bool) -> Option<(String, u16)> {
    let mut parts = word.split(',');
    let address = parts.next()?.split('@').next()?;
    let (host, port) = address.rsplit_once(':')?;
    let wanted = if tls { "tls-port=" } else { "tcp-port=" };
    let other = parts.find_map(|part| part.strip_prefix(wanted));
    let port = match other.and_then(|port| port.parse().ok()) {
        Some(port) if port != 0 => port,
        _ => port.parse().ok()?,
    };
    Some((host.to_owned(), port))
}

/// The slot of a key, as the server hashes it: of the part in braces, if there is one.
pub fn slot_of(key: &[u8]) -> u16 {
    let tag = key.iter().position(|&byte| byte == b'{').and_then(|open| {
        let rest = key.get(open + 1..)?;
        let close = rest.iter().position(|&byte| byte == b'}')?;
        rest.get(..close).filter(|tag| !tag.is_empty())
    });
    crc16(tag.unwrap_or(key)) & 0x3fff
}

/// The shortest text of letters and digits that hashes to a slot, and of those the first one in the
/// order of [`LETTERS`]. Keys that old scripts wrote contain these: they are those that Redis publishes
/// for its benchmark.
pub(super) fn tag_of(slot: u16) -> String {
    /// Every slot has one of three letters or fewer.
    const LONGEST: usize = 3;
    let mut tags: Vec<Vec<u8>> = vec![Vec::new()];
    for _ in 0..LONGEST {
        let longer = |tag: &Vec<u8>| {
            let tag = tag.clone();
            LETTERS
                .iter()
                .map(move |&letter| [tag.as_slice(), &[letter]].concat())
        };
        tags = tags.iter().flat_map(longer).collect();
        let found = tags.iter().find(|tag| crc16(tag) & 0x3fff == slot);
        if let Some(tag) = found {
            return String::from_utf8_lossy(tag).into_owned();
        }
    }
    String::new()
}

const LETTERS: &[u8] = b"0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ";

/// CRC-16/XMODEM, as the cluster specification of Redis has it.
fn crc16(bytes: &[u8]) -> u16 {
    const TABLE: [u16; 256] = crc16_table();
    let step = |crc: u16, &byte: &u8| (crc << 8) ^ TABLE[usize::from((crc >> 8) as u8 ^ byte)];
    bytes.iter().fold(0, step)
}

const fn crc16_table() -> [u16; 256] {
    let mut table = [0; 256];
    let mut byte = 0;
    while byte < 256 {
        let mut crc = (byte as u16) << 8;
        let mut bit = 0;
        while bit < 8 {
            crc = if crc & 0x8000 == 0 {
                crc << 1
            } else {
                (crc << 1) ^ 0x1021
            };
            bit += 1;
        }
        table[byte] = crc;
        byte += 1;
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(letter: u8) -> ShardId {
        ShardId::parse(&[letter; 40]).expect("an id")
    }

    fn shard(letter: u8, ranges: &[Range]) -> Shard {
        Shard {
            id: id(letter),
            host: "::1".into(),
            port: 7000,
            ranges: ranges.to_vec(),
        }
    }

    #[test]
    fn keys_hash_as_the_server_hashes_them() {
        assert_eq!(crc16(b"123456789"), 0x31c3);
        assert_eq!(slot_of(b"06S"), 0);
        assert_eq!(slot_of(b"foo"), 12182);
        assert_eq!(slot_of(b"{user1000}.following"), slot_of(b"user1000"));
        assert_eq!(slot_of(b"foo{{bar}}zap"), slot_of(b"{bar"));
        assert_eq!(slot_of(b"foo{bar}{zap}"), slot_of(b"bar"));
        // Empty braces are no tag, and only the first pair counts.
        assert_eq!(slot_of(b"foo{}{bar}"), crc16(b"foo{}{bar}") & 0x3fff);
        assert_eq!(slot_of(b""), 0);
    }

    #[test]
    fn tags_are_those_that_scripts_have_always_seen() {
        let some = [
            (0, "06S"),
            (1, "Qi"),
            (2, "5L5"),
            (5461, "8M"),
            (16383, "6ZJ"),
        ];
        for (slot, tag) in some {
            assert_eq!(tag_of(slot), tag);
            assert_eq!(slot_of(tag.as_bytes()), slot);
        }
    }

    #[test]
    fn every_slot_has_the_owner_that_was_named() {
        let masters = [
            shard(b'b', &[(8192, 16383)]),
            shard(b'a', &[(0, 100), (102, 8191)]),
        ];
        let topology = Topology::new(id(b'c'), masters);
        assert_eq!(topology.owner(0), Some(id(b'a')));
        assert_eq!(topology.owner(101), None);
        assert_eq!(topology.owner(16383), Some(id(b'b')));
        // A master without slots takes part where it is asked.
        assert_eq!(topology.shards().len(), 3);
        let wire = topology.wire();
        let shards = wire.shards.iter();
        let shards = shards.map(|id| ShardId::parse(id.as_bytes()).expect("an id"));
        let again = Slots::new(shards, wire.ranges.into_iter());
        assert!(again == *topology.slots());
        let first = topology.shards().first().expect("three");
        assert!(first.to_string().ends_with("aa ([::1]:7000)"), "{first}");
    }

    #[test]
    fn a_file_of_nodes_is_read() {
        let letters = [b'a', b'b', b'c', b'd', b'e'];
        let [a, b, c, d, e] = letters.map(|letter| id(letter).to_string());
        let file = format!(
            "{a} 127.0.0.1:7001@17001,,shard-id=x,tls-port=8001 myself,master - 0 0 1 connected \
             0-100 102 [93->-{b}] [94-<-{b}]\n\
             {b} ::1:7002@17002,host.name master,fail - 1 2 3 disconnected 101 103-16383\n\
             {c} 10.0.0.3:7003@17003 slave {a} 1 2 3 connected\n\
             {d} :0@0 master,noaddr - 1 2 3 disconnected\n\
             {e} 127.0.0.1:7005@17005 master - 1 2 3 connected\n\
             vars currentEpoch 6 lastVoteEpoch 0\n"
        );
        let topology = Topology::parse(&file, false).expect("this server is in it");
        assert_eq!(topology.me, id(b'a'));
        assert_eq!(topology.moving(), Some(93));
        let shards: Vec<_> = topology.shards().iter().map(Shard::to_string).collect();
        let want = [
            format!("shard {a} (127.0.0.1:7001)"),
            format!("shard {b} ([::1]:7002)"),
        ];
        assert_eq!(shards, want);
        let others: Vec<_> = topology.others().map(|shard| shard.id).collect();
        assert_eq!(others, [id(b'b'), id(b'e')]);
        assert_eq!(topology.owner(102), Some(id(b'a')));
        assert_eq!(topology.owner(101), Some(id(b'b')));
        let tls = Topology::parse(&file, true).expect("this server is in it");
        assert_eq!(tls.shard(id(b'a')).map(|shard| shard.port), Some(8001));
        let replica = file.replace("master,fail", "myself,slave");
        let replica = replica.replacen("myself,master", "master", 1);
        let replica = Topology::parse(&replica, false).expect("this server is in it");
        assert_eq!((replica.me, replica.is_cluster()), (id(b'b'), false));
        assert_eq!(replica.others().count(), 0);
        let listed: Vec<_> = replica.listed().iter().map(|shard| shard.id).collect();
        assert_eq!(listed, [id(b'a')]);
        assert!(Topology::parse("", false).is_none());
        for cut in 0..file.len() {
            let part = file.get(..cut).unwrap_or_default();
            assert!(Topology::parse(part, false).is_none(), "{part}");
        }
    }

    #[test]
    fn a_slot_that_moves_changes_the_digest() {
        let before = Topology::new(id(b'a'), [shard(b'a', &[(0, 9)]), shard(b'b', &[(10, 20)])]);
        let after = Topology::new(id(b'a'), [shard(b'a', &[(0, 8)]), shard(b'b', &[(9, 20)])]);
        assert_ne!(before.slots().digest(), after.slots().digest());
    }
}
