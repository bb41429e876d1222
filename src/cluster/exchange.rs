//! What carries the parcels of one execution.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};

use serde_bytes::ByteBuf;

use super::Cluster;
use super::message::{Message, Prepare};
use super::topology::{SLOTS, Slots, SlotsWire, Topology, slot_of};
use crate::engine::{Exchange, Id, Parcel, Part, ShardId};

/// An execution that other shards have to do with.
pub(super) struct Attendance {
    part: Option<Weak<dyn Part>>,
    /// What came while the part was made.
    early: Vec<(usize, Vec<Parcel>)>,
    pub(super) shards: Arc<[ShardId]>,
    pub(super) slots: Arc<Slots>,
}

impl Attendance {
    pub(super) fn new(shards: Arc<[ShardId]>, slots: Arc<Slots>) -> Self {
        Self {
            part: None,
            early: Vec::new(),
            shards,
            slots,
        }
    }

    /// The part is there: what came before.
    pub(super) fn attend(&mut self, part: Weak<dyn Part>) -> Vec<(usize, Vec<Parcel>)> {
        self.part = Some(part);
        std::mem::take(&mut self.early)
    }

    /// Keeps parcels for a part that is being made; gives them back if there is one.
    pub(super) fn keep(&mut self, from: usize, parcels: Vec<Parcel>) -> Option<Vec<Parcel>> {
        if self.part.is_some() {
            return Some(parcels);
        }
        self.early.push((from, parcels));
        None
    }

    /// A shard is gone: a part that is being made has to know.
    pub(super) fn lost(&mut self, shard: ShardId, why: &str) {
        if let (None, Some(place)) = (&self.part, self.place(shard)) {
            self.early
                .push((place, vec![Parcel::Failed(why.to_owned())]));
        }
    }

    /// The part that runs here, if it does.
    pub(super) fn part(&self) -> Option<Arc<dyn Part>> {
        self.part.as_ref().and_then(Weak::upgrade)
    }

    /// The position of a shard in the team.
    pub(super) fn place(&self, shard: ShardId) -> Option<usize> {
        self.shards.iter().position(|&other| other == shard)
    }

    /// Which slot has another owner now, if any.
    pub(super) fn moved(&self, now: &Topology) -> Option<String> {
        if now.slots().digest() == self.slots.digest() {
            return None;
        }
        (0..SLOTS as u16).find_map(|slot| {
            let before = self.owner(slot);
            let after = now.owner(slot);
            (before != after).then(|| moved(slot, before, after))
        })
    }

    fn owner(&self, slot: u16) -> Option<ShardId> {
        let at = self.slots.owner(slot)?;
        self.shards.get(at).copied()
    }
}

fn moved(slot: u16, before: Option<ShardId>, after: Option<ShardId>) -> String {
    let name = |shard: Option<ShardId>| shard.map_or("no shard".into(), |id| format!("shard {id}"));
    format!(
        "slot {slot} moved from {} to {} while the execution ran",
        name(before),
        name(after)
    )
}

/// Carries the parcels of one execution.
pub(super) struct ClusterExchange {
    pub(super) cluster: Weak<Cluster>,
    pub(super) id: Id,
    pub(super) shards: Arc<[ShardId]>,
    pub(super) slots: Arc<Slots>,
    /// For those who are told what to run.
    pub(super) wire: Option<SlotsWire>,
}

impl Exchange for ClusterExchange {
    fn owner(&self, key: &[u8]) -> Result<usize, String> {
        let slot = slot_of(key);
        let place = self.slots.owner(slot).ok_or_else(|| {
            let key = String::from_utf8_lossy(key);
            format!("no shard owns slot {slot}, that of '{key}': the cluster is not whole")
        })?;
        let Some(cluster) = self.cluster.upgrade() else {
            return Ok(place);
        };
        if cluster.digest.load(Ordering::Relaxed) != self.slots.digest()
            && let Some(now) = cluster.topology()
        {
            let before = self.shards.get(place).copied();
            let after = now.owner(slot);
            if before != after {
                return Err(moved(slot, before, after));
            }
        }
        Ok(place)
    }

    fn send(&self, to: usize, mut parcels: Vec<Parcel>) {
        let (Some(cluster), Some(&shard)) = (self.cluster.upgrade(), self.shards.get(to)) else {
            return;
        };
        let mut messages = Vec::with_capacity(1);
        // It comes before all others, and is a message of its own.
        if let (Some(Parcel::Prepare { run, keep }), Some(slots)) = (parcels.first(), &self.wire) {
            let idle = cluster.surroundings.idle().as_millis();
            messages.push(Message::Prepare(Prepare {
                id: self.id.to_string(),
                slots: slots.clone(),
                idle: u64::try_from(idle).unwrap_or(u64::MAX),
                keep: *keep,
                run: ByteBuf::from(run.to_vec()),
            }));
            parcels.remove(0);
        }
        if !parcels.is_empty() {
            messages.push(Message::Parcels(self.id, parcels));
        }
        for message in messages {
            if let Err(why) = cluster.send(shard, message) {
                return cluster.lose(self.id, why);
            }
        }
    }

    fn name(&self, shard: usize) -> String {
        let Some(&id) = self.shards.get(shard) else {
            return "a shard".into();
        };
        let topology = self
            .cluster
            .upgrade()
            .and_then(|cluster| cluster.topology());
        let shard = topology.as_ref().and_then(|topology| topology.shard(id));
        match shard {
            Some(shard) if !shard.host.is_empty() => shard.to_string(),
            _ => format!("shard {id}"),
        }
    }
}
