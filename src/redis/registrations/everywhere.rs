//! Registrations on all shards: the same ones, whatever happens to single shards.
//!
//! A script's registrations are made in two steps. First every shard verifies them, and holds their
//! names free; if one refuses, nothing is done anywhere. Then all make them. A shard that was away
//! learns what it missed when it is there again: shards that meet compare versions, and the one with
//! the older version takes over what the other has.

use std::collections::HashSet;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use super::table::session_name;
use super::{Function, Registrations, Waiting};
use crate::engine::wire::{BundleWire, RegistrationWire, SessionWire, Version, seal, unseal};
use crate::engine::{Change, CommandTrigger, Id, LogLevel, ShardId, Trigger, random_id};
use crate::python::{self, Cpython, Session};
use crate::redis::MODULE;
use crate::redis::cluster::known_session;
use crate::redis::questions::{Question, Word};
use crate::redis::raw;

/// What was verified and is not applied after so long never will be.
const HELD: Duration = Duration::from_secs(120);

/// Transactions that were given up and are remembered.
const CANCELLED: usize = 100;

/// Registrations that went and are remembered.
const BURIED: usize = 10_000;

/// More functions than this may take long to unpack.
const MANY: usize = 100;

/// Registrations of another shard that were verified here.
pub(super) struct Held {
    bundle: BundleWire,
    made: Vec<Made>,
    since: Instant,
}

impl Held {
    /// What it would register.
    pub(super) fn functions(&self) -> impl Iterator<Item = &Arc<Function>> {
        self.made.iter().map(|made| &made.function)
    }
}

/// A registration, made of what was shipped.
struct Made {
    function: Arc<Function>,
    wire: RegistrationWire,
    session: Arc<Session>,
    session_wire: SessionWire,
}

/// Why registrations are made nowhere: a text for each shard that refuses, or one in all.
pub(in crate::redis) enum Refusal {
    One(String),
    Shards(Vec<String>),
}

impl Registrations {
    /// The version, and what is equal for equal registrations. The server lock is held.
    pub(in crate::redis) fn version(&self) -> (Version, u64) {
        let mut state = self.state();
        let digest = state.digest.unwrap_or_else(|| {
            let mut ids: Vec<_> = state.order_of.keys().map(Id::to_string).collect();
            ids.sort_unstable();
            let mut hasher = DefaultHasher::new();
            ids.hash(&mut hasher);
            hasher.finish()
        });
        state.digest = Some(digest);
        (state.version.clone(), digest)
    }

    /// Something changed here first: the version that others are told. The server lock is held.
    pub(super) fn next_version(&self) -> Version {
        let mut state = self.state();
        if state.version.lineage.is_empty() {
            state.version.lineage = random_id();
        }
        state.version.generation += 1;
        state.version.clone()
    }

    /// Others have changed something. The server lock is held.
    pub(super) fn adopt_version(&self, version: Version) {
        let mut state = self.state();
        if state.version.lineage != version.lineage || state.version.generation < version.generation
        {
            state.version = version;
        }
    }

    /// Makes the registrations of a script on all shards, or nowhere. On a thread that may wait.
    pub(in crate::redis) fn register_everywhere(
        &'static self,
        change: Change<Cpython>,
    ) -> Result<(), Refusal> {
        let session = change.session.clone();
        let listed = self.requirements.publish(session.requirements());
        let made = self.make_everywhere(change);
        if made.is_err() {
            self.requirements.withdraw(listed);
        }
        made
    }

    fn make_everywhere(&'static self, mut change: Change<Cpython>) -> Result<(), Refusal> {
        let Some(module) = MODULE.get().filter(|module| module.has_shards()) else {
            return crate::engine::Registrar::apply(&self, change).map_err(Refusal::One);
        };
        let transaction = random_id();
        let prepared = self.lock.with(|_| {
            self.refuse_writes()?;
            self.verify_all(&change)?;
            let mut bundle = self.bundle_of(&mut change);
            bundle.version = Some(self.coming_version());
            self.hold_names(&transaction, &bundle);
            Ok(bundle)
        });
        let bundle = prepared.map_err(Refusal::One)?;
        let done = self.agree(module, &transaction, &bundle);
        let applied = done.and_then(|()| {
            let made = self.lock.with(|_| {
                self.let_go_of(&transaction);
                self.refuse_writes()?;
                self.verify_all(&change)?;
                self.make(change, &bundle);
                self.server
                    .replicate(c"RG.INNERREGISTER", &[&seal(&bundle)]);
                Ok(())
            });
            made.map_err(Refusal::One)
        });
        if applied.is_err() {
            self.lock.with(|_| self.let_go_of(&transaction));
            module.tell_all(&Word::Cancel(transaction));
            return applied;
        }
        let question = Question::Apply(transaction);
        for (shard, answer) in self.ask(module, &question, &bundle) {
            // It was verified: a shard that fails now has gone, and learns of it when it is back.
            if let Err(error) = answer {
                let text = format!("shard {shard} will get registrations later: {error}");
                self.log(LogLevel::Warning, &text);
            }
        }
        Ok(())
    }

    /// Why nothing can be registered on this server now, if so. The server lock is held.
    pub(super) fn refuse_writes(&self) -> Result<(), String> {
        if raw::is_replica() {
            return Err("READONLY a replica takes registrations from its master only".to_owned());
        }
        if self.server.is_paused() {
            return Err(raw::NO_WRITES_NOW.to_owned());
        }
        Ok(())
    }

    /// The version that a change will have.
    fn coming_version(&self) -> Version {
        let mut version = self.state().version.clone();
        if version.lineage.is_empty() {
            version.lineage = random_id();
        }
        version.generation += 1;
        version
    }

    /// Whether all other shards can make these registrations.
    fn agree(
        &self,
        module: &'static crate::redis::Module,
        transaction: &str,
        bundle: &BundleWire,
    ) -> Result<(), Refusal> {
        let question = Question::Verify {
            transaction: transaction.to_owned(),
            bundle: bundle.clone(),
        };
        let mut refused: Vec<_> = self
            .ask(module, &question, bundle)
            .into_iter()
            .filter_map(|(_, answer)| answer.err())
            .collect();
        // All shards that are silent are one error, without a name: it is the last one.
        refused.dedup();
        if refused.is_empty() {
            Ok(())
        } else {
            Err(Refusal::Shards(refused))
        }
    }

    /// Asks all others about registrations, and waits.
    fn ask(
        &self,
        module: &'static crate::redis::Module,
        question: &Question,
        bundle: &BundleWire,
    ) -> Vec<(ShardId, Result<Vec<u8>, String>)> {
        let (send, receive) = mpsc::channel();
        let mut sessions = bundle.sessions.iter();
        let installs = sessions.any(|session| !session.requirements.is_empty());
        let most = if installs || bundle.add.len() > MANY {
            self.settings.max_install_idle()
        } else {
            self.settings.max_idle()
        };
        module.ask_all_for(
            question,
            most,
            Box::new(move |answers| {
                let _ = send.send(answers);
            }),
        );
        receive.recv().unwrap_or_default()
    }

    /// Holds the names of triggers and the ids of sessions free. The server lock is held.
    fn hold_names(&self, transaction: &str, bundle: &BundleWire) {
        let triggers = bundle.add.iter().filter_map(|wire| match &wire.trigger {
            Trigger::Command {
                what: CommandTrigger::Named(name),
                ..
            } => Some(name.clone().into_bytes()),
            _ => None,
        });
        let sessions = bundle.sessions.iter().map(|session| &session.id);
        let sessions = sessions.chain(&bundle.unlink).map(|id| session_name(id));
        let mut state = self.state();
        for name in triggers.chain(sessions) {
            let held = (transaction.to_owned(), Instant::now());
            state.held_names.insert(name, held);
        }
    }

    /// The names are free again. The server lock is held.
    fn let_go_of(&self, transaction: &str) {
        let mut state = self.state();
        let now = Instant::now();
        state
            .held_names
            .retain(|_, (other, since)| other != transaction && now - *since < HELD);
    }

    /// Whether a trigger's name is held for somebody.
    pub(super) fn is_held(&self, name: &[u8]) -> bool {
        let state = self.state();
        let held = state.held_names.get(name);
        held.is_some_and(|(_, since)| since.elapsed() < HELD)
    }

    /// Why one of these sessions can not change now, if so: a script is about to change it.
    pub(super) fn held_session<'a>(
        &self,
        mut ids: impl Iterator<Item = &'a str>,
    ) -> Option<String> {
        let held = ids.find(|id| self.is_held(&session_name(id)))?;
        Some(format!(
            "Session {held} is being changed by another script, try again"
        ))
    }

    /// Makes what was shipped. Needs no lock but those of the language.
    fn unpack(&self, bundle: &BundleWire, from: ShardId) -> Result<Vec<Made>, String> {
        let mut sessions = Vec::new();
        for wire in &bundle.sessions {
            let linked = self
                .lock
                .with(|_| self.linked_session(&wire.id, Some(wire)));
            let session = match linked.or_else(|| known_session(wire)) {
                Some(known) => known,
                None => self
                    .requirements
                    .needs(wire, from)
                    .and_then(|needs| python::receive_session(wire, needs))
                    .map_err(|error| format!("Failed deserializing session, {error}"))?,
            };
            sessions.push((wire, session));
        }
        let limits = self.registry.limits();
        let made = |wire: &RegistrationWire| {
            let failed = |why: &str| format!("Failed deserializing flat execution, {why}");
            let id = Id::parse(wire.id.as_bytes()).ok_or_else(|| failed("it has no id"))?;
            let of = sessions.iter().find(|(other, _)| other.id == wire.session);
            let (session_wire, session) = of.ok_or_else(|| failed("its session is missing"))?;
            let language = &session_wire.language;
            let function =
                python::receive_registration(wire, id, session, language, limits.clone());
            if let Some(broken) = &function.broken {
                return Err(failed(broken));
            }
            Ok(Made {
                function,
                wire: wire.clone(),
                session: session.clone(),
                session_wire: (*session_wire).clone(),
            })
        };
        let mut all: Vec<_> = bundle.add.iter().map(|_| None).collect();
        for at in Self::by_session(&bundle.add) {
            all[at] = Some(made(&bundle.add[at])?);
        }
        Ok(all.into_iter().flatten().collect())
    }

    /// Whether registrations of another shard can be made here; if so they are kept until it says to
    /// make them. The error names this shard.
    pub(in crate::redis) fn verify_for_others(
        &self,
        transaction: String,
        bundle: BundleWire,
        from: ShardId,
    ) -> Result<(), String> {
        let made = self.unpack(&bundle, from);
        let verified = made.and_then(|made| {
            self.lock.with(|_| {
                self.refuse_writes()?;
                if self.state().cancelled.contains(&transaction) {
                    return Err("the shard that asked has given up".to_owned());
                }
                if let Some(why) = self.refuse_bundle(&bundle) {
                    return Err(why);
                }
                self.hold_names(&transaction, &bundle);
                let mut state = self.state();
                let since = Instant::now();
                state.held.retain(|_, held| since - held.since < HELD);
                let held = Held {
                    bundle,
                    made,
                    since,
                };
                state.held.insert(transaction, held);
                Ok(())
            })
        });
        verified.map_err(|why| format!("-ERR shard-{}: {why}", self.registry.shard_id()))
    }

    /// Why registrations of another shard can not be made, if so. The server lock is held.
    fn refuse_bundle(&self, bundle: &BundleWire) -> Option<String> {
        let sessions = bundle.sessions.iter().map(|session| &session.id);
        let sessions = sessions.chain(&bundle.unlink).map(String::as_str);
        if let Some(held) = self.held_session(sessions) {
            return Some(held);
        }
        for session in &bundle.sessions {
            let own = self.linked_session(&session.id, Some(session)).is_some();
            let goes = bundle.unlink.contains(&session.id);
            if !own && !goes && self.has_session(&session.id) {
                return Some(format!("Session {} already exists", session.id));
            }
        }
        let replaced = bundle.unlink.first().map(String::as_str);
        let mut add = bundle.add.iter();
        add.find_map(|wire| self.refuse(&wire.trigger, &[], replaced))
    }

    /// Makes the registrations that were verified.
    pub(in crate::redis) fn apply_for_others(
        &'static self,
        transaction: &str,
    ) -> Result<String, String> {
        let held = self.lock.with(|_| self.state().held.remove(transaction));
        let Some(held) = held else {
            self.lock.with(|_| self.let_go_of(transaction));
            return Err("it does not know them any more".to_owned());
        };
        self.publish(&held.made);
        self.lock.with(|_| {
            self.let_go_of(transaction);
            self.join_made(&held.bundle, held.made);
            Ok("OK".to_owned())
        })
    }

    /// Lists what these need, and has replicas get it before them.
    fn publish(&self, made: &[Made]) {
        for one in made {
            self.requirements.publish(one.session.requirements());
        }
    }

    /// Where code on several shards registers the same name at once, that with the lowest id stays, on
    /// all of them: the own registration that has to go for another one.
    fn yields_to(&self, wire: &RegistrationWire) -> Option<Id> {
        let Trigger::Command {
            what: CommandTrigger::Named(name),
            ..
        } = &wire.trigger
        else {
            return None;
        };
        let state = self.state();
        let own = state.triggers.get(name.as_bytes())?.function.id;
        (own.to_string() > wire.id).then_some(own)
    }

    /// Makes registrations of others that are not to be refused; those that are go, with a line in the
    /// log. The server lock is held.
    fn join_if_free(&'static self, bundle: &mut BundleWire, made: Vec<Made>) -> usize {
        let mut joining = Vec::new();
        for one in made {
            if let Some(why) = self.refuse_session_wire(&one.session_wire) {
                let id = &one.wire.id;
                self.log(LogLevel::Warning, &format!("registration {id}: {why}"));
                continue;
            }
            if let Some(own) = self.yields_to(&one.wire) {
                bundle.remove.push(own.to_string());
            } else if let Some(why) = self.refuse(&one.wire.trigger, &[], None) {
                let id = &one.wire.id;
                self.log(LogLevel::Warning, &format!("registration {id}: {why}"));
                continue;
            }
            joining.push(one);
        }
        bundle.add = joining.iter().map(|one| one.wire.clone()).collect();
        let changed = joining.len() + bundle.remove.len();
        if changed > 0 {
            self.join_made(bundle, joining);
        } else if let Some(version) = &bundle.version {
            self.adopt_version(version.clone());
        }
        changed
    }

    /// Makes registrations. The server lock is held.
    fn join_made(&'static self, bundle: &BundleWire, made: Vec<Made>) {
        let replaced = self.unlinked(bundle);
        let ids = bundle.remove.iter();
        let ids: Vec<_> = ids.filter_map(|id| Id::parse(id.as_bytes())).collect();
        self.replace_sessions(bundle);
        self.remove_all(&ids, Waiting::AreAnswered);
        for one in made {
            let known = self.state().order_of.contains_key(&one.function.id);
            if !known {
                self.join(one.function, one.wire, &one.session, &one.session_wire);
            }
        }
        self.release(replaced);
        self.activate();
        if let Some(version) = &bundle.version {
            self.adopt_version(version.clone());
        }
        self.server.replicate(c"RG.INNERREGISTER", &[&seal(bundle)]);
    }

    /// Registrations that code on another shard made while it ran.
    pub(in crate::redis) fn take_for_others(
        &'static self,
        mut bundle: BundleWire,
        from: ShardId,
    ) -> Result<(), String> {
        let made = self.unpack(&bundle, from)?;
        self.publish(&made);
        self.lock.with(|_| {
            self.refuse_writes()?;
            self.join_if_free(&mut bundle, made);
            Ok(())
        })
    }

    /// What was verified, or is verified just now, is not made. The server lock is held.
    pub(in crate::redis) fn cancel(&self, transaction: &str) {
        self.let_go_of(transaction);
        let held = {
            let mut state = self.state();
            state.cancelled.push_back(transaction.to_owned());
            if state.cancelled.len() > CANCELLED {
                state.cancelled.pop_front();
            }
            state.held.remove(transaction)
        };
        drop(held);
    }

    /// A registration was removed on another shard.
    pub(in crate::redis) fn unregister_for_others(
        &'static self,
        id: &str,
        abort_pending: bool,
        version: Version,
    ) {
        self.lock.with(|_| {
            if raw::is_replica() {
                return;
            }
            if let Some(id) = Id::parse(id.as_bytes())
                && self.remove(id, abort_pending)
            {
                self.replicate_removal(id, abort_pending);
                self.listen();
            }
            self.adopt_version(version);
        });
    }

    /// All registrations as they travel. The server lock is held.
    pub(in crate::redis) fn all(&self) -> BundleWire {
        let state = self.state();
        BundleWire {
            sessions: state.with_registrations().map(|l| l.wire.clone()).collect(),
            add: state.entries.values().map(|e| e.wire.clone()).collect(),
            version: Some(state.version.clone()),
            ..BundleWire::default()
        }
    }

    /// Whether another shard has registrations that are missing here, or newer ones. The server lock
    /// is held.
    pub(in crate::redis) fn wants_from(
        &self,
        shard: ShardId,
        version: &Version,
        digest: u64,
    ) -> bool {
        if raw::is_replica() || self.is_loading() {
            return false;
        }
        let (own, own_digest) = self.version();
        if own_digest == digest {
            self.adopt_version(version.clone());
            return false;
        }
        // What gave nothing gives nothing again.
        let asked = (own_digest, digest);
        let before = self.state().asked.insert(shard, asked);
        before != Some(asked)
            && (own.lineage != version.lineage || own.generation <= version.generation)
    }

    /// A registration goes, here or elsewhere: it never comes again, whoever has not heard of that. The
    /// server lock is held.
    pub(in crate::redis) fn bury(&self, id: Id) {
        let mut state = self.state();
        state.buried.push_back(id);
        if state.buried.len() > BURIED {
            state.buried.pop_front();
        }
    }

    /// What a shard was asked for did not come. The server lock is held.
    pub(in crate::redis) fn ask_again(&self, shard: ShardId) {
        self.state().asked.remove(&shard);
    }

    /// Takes over the registrations of another shard: those it has come; those it has not go, if its
    /// version is the newer one of the same line. How many came or went.
    pub(in crate::redis) fn take_all(
        &'static self,
        sealed: &[u8],
        version: &Version,
        from: ShardId,
    ) -> Result<usize, String> {
        let mut bundle: BundleWire = unseal(sealed).map_err(|damage| damage.to_string())?;
        let (own, known) = self.lock.with(|_| {
            let state = self.state();
            let known: Vec<_> = state.order_of.keys().map(Id::to_string).collect();
            (state.version.clone(), known)
        });
        // A shard that never had any is at the beginning of every line.
        let same_line = own.lineage == version.lineage || own.generation == 0;
        let newer = same_line && own.generation < version.generation;
        if newer {
            let there = |id: &String| bundle.add.iter().any(|wire| wire.id == *id);
            let gone = known.iter().filter(|id| !there(id));
            bundle.remove = gone.cloned().collect();
        }
        let buried: HashSet<_> = self.lock.with(|_| {
            let state = self.state();
            state.buried.iter().map(Id::to_string).collect()
        });
        bundle
            .add
            .retain(|wire| !known.contains(&wire.id) && !buried.contains(&wire.id));
        let used = |session: &SessionWire| bundle.add.iter().any(|w| w.session == session.id);
        let sessions = std::mem::take(&mut bundle.sessions);
        bundle.sessions = sessions.into_iter().filter(used).collect();
        let made = self.unpack(&bundle, from)?;
        self.publish(&made);
        self.lock.with(|_| {
            self.refuse_writes()?;
            if !newer {
                return Ok(self.join_if_free(&mut bundle, made));
            }
            let changed = bundle.add.len() + bundle.remove.len();
            self.join_made(&bundle, made);
            Ok(changed)
        })
    }
}
