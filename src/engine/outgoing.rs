//! Records that leave a pipeline for other shards: put together until they are worth a message.

use std::sync::Arc;

use super::pipeline::Placed;
use super::remote::Remote;
use super::{Batch, Body, Chunk, Language, RecordError};

/// Bytes of a message, about.
const SIZE: usize = 64 << 10;
/// Values of a message at the most; fewer where they are large.
const MOST: usize = 1000;
/// The same of the first message, when nobody knows how large they are.
const FIRST: usize = 4;
/// Larger messages are refused: a server takes no argument of more than twice that.
const LARGEST: usize = 256 << 20;

/// The cuts of a plan, as this shard crosses them.
pub(super) struct Outgoing<L: Language> {
    remote: Arc<Remote>,
    cuts: Vec<Cut<L>>,
}

struct Cut<L: Language> {
    /// The stage that records come to.
    entry: usize,
    collects: bool,
    to: Vec<Pending<L>>,
    /// Values of the next message.
    most: usize,
    /// This shard drops what comes.
    closed: bool,
    /// There was no room for more when the last message went.
    full: bool,
}

struct Pending<L: Language> {
    native: Option<Chunk>,
    /// With the keys before them, if they move by those.
    values: Vec<L::Object>,
    keyed: bool,
    /// Errors that can not be told at once: the stage that made them is at work.
    errors: Vec<String>,
    /// The shard drops what comes.
    enough: bool,
}

impl<L: Language> Outgoing<L> {
    pub(super) fn new(stages: &[Placed<L>], remote: Arc<Remote>) -> Self {
        let pending = |_| Pending {
            native: None,
            values: Vec::new(),
            keyed: false,
            errors: Vec::new(),
            enough: false,
        };
        let cut = |(at, placed): (usize, &Placed<L>)| {
            let (_, collects) = placed.cut()?;
            Some(Cut {
                // Records that move by key come to the very stage that groups them.
                entry: if placed.groups() { at } else { at + 1 },
                collects,
                to: (0..remote.team.size).map(pending).collect(),
                most: FIRST,
                closed: false,
                full: false,
            })
        };
        Self {
            cuts: stages.iter().enumerate().filter_map(cut).collect(),
            remote,
        }
    }

    /// The stage behind a cut.
    pub(super) fn entry(&self, cut: usize) -> Option<usize> {
        self.cuts.get(cut).map(|cut| cut.entry)
    }

    pub(super) fn initiator(&self) -> usize {
        self.remote.team.initiator
    }

    /// Whether what is collected leaves this shard.
    pub(super) fn collects_elsewhere(&self) -> bool {
        !self.remote.team.is_initiator()
    }

    /// The shard that owns a key, unless it is this one.
    pub(super) fn owner<M: Language<Object = L::Object>>(
        &self,
        s: M::Scope<'_>,
        key: &L::Object,
    ) -> Result<Option<usize>, RecordError> {
        let team = &self.remote.team;
        let owner = M::read_key(s, key, |key| team.exchange.owner(key))?;
        let owner = owner.map_err(RecordError::new)?;
        Ok((owner != team.me).then_some(owner))
    }

    /// A record as it came from the server.
    pub(super) fn native(&mut self, cut: usize, to: usize, of: &Chunk, record: &[u8]) {
        let Some(pending) = self.pending(cut, to) else {
            return;
        };
        let chunk = pending.native.get_or_insert_with(|| of.same_kind());
        chunk.push_bytes(record);
        if chunk.size() >= SIZE || chunk.len() >= MOST {
            self.send_native(cut, to);
        }
    }

    /// A chunk as it came from the server, to the initiator.
    pub(super) fn chunk(&mut self, cut: usize, chunk: &Chunk) {
        let to = self.initiator();
        if self.pending(cut, to).is_some() {
            let body = Body::Native(chunk.clone());
            self.send(to, Batch { cut, body });
        }
    }

    /// So many records, to the initiator.
    pub(super) fn count(&mut self, cut: usize, records: u64) {
        let to = self.initiator();
        if let Some(pending) = self.pending(cut, to) {
            let chunk = pending.native.get_or_insert_with(|| Chunk::counted(0));
            chunk.count_on(usize::try_from(records).unwrap_or(usize::MAX));
        }
    }

    /// A value.
    pub(super) fn value(&mut self, s: L::Scope<'_>, cut: usize, to: usize, record: L::Object) {
        if let Some(pending) = self.pending(cut, to) {
            pending.values.push(record);
            self.send_if_full(s, cut, to);
        }
    }

    /// A value with the key that it moves by.
    pub(super) fn keyed(
        &mut self,
        s: L::Scope<'_>,
        cut: usize,
        to: usize,
        key: L::Object,
        record: L::Object,
    ) {
        if let Some(pending) = self.pending(cut, to) {
            pending.keyed = true;
            pending.values.push(key);
            pending.values.push(record);
            self.send_if_full(s, cut, to);
        }
    }

    fn pending(&mut self, cut: usize, to: usize) -> Option<&mut Pending<L>> {
        let pending = self.cuts.get_mut(cut)?.to.get_mut(to)?;
        (!pending.enough).then_some(pending)
    }

    fn send_if_full(&mut self, s: L::Scope<'_>, cut: usize, to: usize) {
        let full = self.cuts.get(cut).is_some_and(|cut| {
            let pending = cut.to.get(to);
            pending.is_some_and(|pending| pending.values.len() >= cut.most)
        });
        if full {
            self.send_values(s, cut, to);
        }
    }

    fn send_native(&mut self, cut: usize, to: usize) {
        let chunk = self
            .pending(cut, to)
            .and_then(|pending| pending.native.take());
        if let Some(chunk) = chunk {
            let body = Body::Native(chunk);
            self.send(to, Batch { cut, body });
        }
    }

    /// Packs what waits for a shard. What can not be packed is an error where it can not.
    fn send_values(&mut self, s: L::Scope<'_>, cut: usize, to: usize) {
        let Some(out) = self.cuts.get_mut(cut) else {
            return;
        };
        let Some(pending) = out.to.get_mut(to) else {
            return;
        };
        let values = std::mem::take(&mut pending.values);
        if values.is_empty() {
            return;
        }
        let packed = L::pack(s, values, pending.keyed);
        let failed = packed.failed.into_iter().map(|error| error.text);
        pending.errors.extend(failed);
        if packed.len == 0 {
            return;
        }
        let each = (packed.bytes.len() / packed.len).max(1);
        out.most = (SIZE / each).clamp(1, MOST);
        if packed.bytes.len() > LARGEST {
            pending.errors.push(format!(
                "{} values of {} bytes are too large to be sent to another shard: {LARGEST} bytes go \
                 in one message",
                packed.len,
                packed.bytes.len()
            ));
            return;
        }
        let keyed = pending.keyed;
        let (bytes, len) = (packed.bytes, packed.len);
        let body = Body::Values { bytes, len, keyed };
        self.send(to, Batch { cut, body });
    }

    /// Sends all that waits at a cut, and says that nothing more comes. Returns the errors that stay
    /// here.
    pub(super) fn finish(&mut self, s: L::Scope<'_>, cut: usize) -> Vec<RecordError> {
        let mut failed = Vec::new();
        for to in 0..self.remote.team.size {
            self.send_native(cut, to);
            self.send_values(s, cut, to);
            failed.extend(self.take_errors(cut, to));
        }
        let collects = self.cuts.get(cut).is_some_and(|cut| cut.collects);
        let mut stay = Vec::new();
        if collects && self.collects_elsewhere() {
            self.send_errors(cut, failed);
        } else {
            stay = failed.into_iter().map(RecordError::new).collect();
        }
        self.remote.end(cut, collects);
        if let Some(cut) = self.cuts.get_mut(cut) {
            cut.full = false;
        }
        stay
    }

    fn take_errors(&mut self, cut: usize, to: usize) -> Vec<String> {
        let pending = self.cuts.get_mut(cut).and_then(|cut| cut.to.get_mut(to));
        pending
            .map(|pending| std::mem::take(&mut pending.errors))
            .unwrap_or_default()
    }

    fn send_errors(&mut self, cut: usize, errors: Vec<String>) {
        if !errors.is_empty() {
            let body = Body::Errors(errors);
            self.send(self.initiator(), Batch { cut, body });
        }
    }

    /// An error of a stage: it goes to the initiator where it would be collected, else it comes back.
    pub(super) fn fail(&mut self, stage: usize, error: RecordError) -> Result<(), RecordError> {
        let collect = self
            .cuts
            .iter()
            .position(|cut| cut.collects && cut.entry > stage);
        match collect {
            Some(cut) if self.collects_elsewhere() => {
                self.send_errors(cut, vec![error.text]);
                Ok(())
            }
            _ => Err(error),
        }
    }

    /// Errors of records that could not be packed meanwhile, by the cut they were to cross.
    pub(super) fn unpacked(&mut self) -> Vec<(usize, String)> {
        let mut errors = Vec::new();
        for cut in &mut self.cuts {
            let stage = cut.entry.saturating_sub(1);
            for pending in &mut cut.to {
                errors.extend(pending.errors.drain(..).map(|text| (stage, text)));
            }
        }
        errors
    }

    /// Cuts whose records come to this stage or one before it.
    pub(super) fn cuts_before(&self, stage: usize) -> usize {
        self.cuts.iter().filter(|cut| cut.entry <= stage).count()
    }

    /// Whether a cut has no room for what comes to this stage.
    pub(super) fn is_full(&self, from: usize) -> bool {
        self.cuts.iter().any(|cut| cut.full && cut.entry >= from)
    }

    fn send(&mut self, to: usize, batch: Batch) {
        let at = batch.cut;
        let full = self.remote.send(to, batch);
        if let Some(cut) = self.cuts.get_mut(at) {
            cut.full = full;
        }
    }

    /// Learns which shards want nothing more, and where there is room.
    pub(super) fn refresh(&mut self) {
        for (at, cut) in self.cuts.iter_mut().enumerate() {
            cut.full = self.remote.is_full(at);
            for (pending, enough) in cut.to.iter_mut().zip(self.remote.enough(at)) {
                pending.enough |= enough;
            }
        }
    }

    /// A limit is full. The first stage before it that takes nothing more: that behind the last cut
    /// between, of which the others learn.
    pub(super) fn close(&mut self, limit: usize) -> usize {
        let last = self.cuts.iter().rposition(|cut| cut.entry <= limit);
        let Some(at) = last else { return 0 };
        self.close_cut(at);
        self.entry(at).unwrap_or(0)
    }

    /// Nothing is wanted any more.
    pub(super) fn close_all(&mut self) {
        for at in 0..self.cuts.len() {
            self.close_cut(at);
        }
    }

    fn close_cut(&mut self, at: usize) {
        if let Some(cut) = self.cuts.get_mut(at) {
            cut.closed = true;
            self.remote.say_enough(at, cut.collects);
        }
    }

    /// Whether somebody still wants what is read.
    pub(super) fn is_wanted(&self) -> bool {
        let me = self.remote.team.me;
        self.cuts.iter().all(|cut| {
            if cut.collects && self.collects_elsewhere() {
                let to = cut.to.get(self.remote.team.initiator);
                return to.is_none_or(|pending| !pending.enough);
            }
            if !cut.closed {
                return true;
            }
            // The initiator keeps what it collects, and others send theirs for themselves.
            let mut others = cut.to.iter().enumerate().filter(|(shard, _)| *shard != me);
            !cut.collects && others.any(|(_, pending)| !pending.enough)
        })
    }

    /// Whether nothing waits to be sent.
    pub(super) fn is_empty(&self) -> bool {
        let mut all = self.cuts.iter().flat_map(|cut| &cut.to);
        all.all(|pending| pending.values.is_empty())
    }
}
