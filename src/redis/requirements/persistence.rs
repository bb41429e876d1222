//! Requirements in the RDB, and those of sessions that are loaded.
//!
//! They come before the keys, so that their wheels are unpacked while those are loaded. A child writes
//! them: it reads the wheels from the disk, a piece at a time.

use std::sync::TryLockError;
use std::sync::{Arc, Weak};
use std::time::Instant;

use super::pieces::{PIECE, Receiving, read_wheels};
use super::shards::Parcel;
use super::{MODULE, REQUIREMENTS, Requirements, State};
use crate::engine::LogLevel;
use crate::engine::wire::{SessionWire, seal, unseal};
use crate::python::{Needs, Requirement, Uses, shown};
use crate::redis::raw::{Loaded, Writer};

/// More of them in a file are damage.
const MOST: u64 = 1 << 20;

/// Runs `body` on the state if nobody has it, which would be a defect: a child would wait for ever.
fn peek<R>(body: impl FnOnce(&State) -> R) -> Option<R> {
    let requirements = REQUIREMENTS.get()?;
    match requirements.state.try_lock() {
        Ok(state) => Some(body(&state)),
        Err(TryLockError::Poisoned(state)) => Some(body(&state.into_inner())),
        Err(TryLockError::WouldBlock) => None,
    }
}

/// What is saved, in the order in which it came: what is listed, and what sessions use besides.
fn saved(state: &State) -> Vec<(Arc<Requirement>, bool)> {
    let mut listed: Vec<_> = state.listed.values().collect();
    listed.sort_unstable_by_key(|listed| listed.order);
    let listed = listed.into_iter().map(|one| one.requirement.clone());
    let listed: Vec<_> = listed.collect();
    let live = state.live.values().filter_map(Weak::upgrade);
    let others = live.filter(|one| {
        let known = listed.iter().any(|other| Arc::ptr_eq(one, other));
        !known && one.users() > 0 && one.is_installed()
    });
    let mut all: Vec<_> = others.map(|one| (one, false)).collect();
    all.extend(listed.into_iter().map(|one| (one, true)));
    all
}

/// Whether there is nothing to save.
pub(in crate::redis) fn is_empty() -> bool {
    peek(|state| saved(state).is_empty()) == Some(true)
}

/// Writes them; `false` if some are missing.
pub(in crate::redis) fn save(writer: &mut Writer) -> bool {
    let Some(saved) = peek(saved) else {
        writer.number(0);
        return false;
    };
    let all = saved.len();
    let parcel = |(requirement, listed): (Arc<Requirement>, bool)| {
        let parcel = Parcel::of(&requirement).ok()?;
        Some((Parcel { listed, ..parcel }, requirement))
    };
    let parcels: Vec<_> = saved.into_iter().filter_map(parcel).collect();
    writer.number(parcels.len());
    let mut whole = parcels.len() == all;
    for (parcel, requirement) in &parcels {
        writer.blob(&seal(parcel));
        let mut pieces = pieces_of(parcel);
        let read = read_wheels(requirement, parcel, &mut |piece| {
            writer.blob(piece);
            pieces -= 1;
        });
        whole &= read.is_ok();
        // What follows must be readable all the same.
        for _ in 0..pieces {
            writer.blob(&[]);
        }
    }
    whole
}

/// How many pieces the wheels of a requirement have.
fn pieces_of(parcel: &Parcel) -> u64 {
    let pieces = parcel.wheels.iter();
    let pieces = pieces.map(|(_, len)| len.div_ceil(PIECE as u64));
    pieces.fold(0, u64::saturating_add)
}

/// Takes what was saved; the wheels are unpacked by and by.
pub(in crate::redis) fn load(loaded: &mut Loaded) -> Result<(), String> {
    let requirements = REQUIREMENTS.get().ok_or("the module is not loaded")?;
    let count = loaded.number()?;
    if count > MOST {
        return Err(format!("{count} requirements can not be"));
    }
    let mut received = Vec::new();
    for number in 1..=count {
        let parcel: Parcel = unseal(&loaded.blob()?)
            .map_err(|damage| format!("requirement {number} of {count}: {damage}"))?;
        let pieces = pieces_of(&parcel);
        received.extend(requirements.load_one(loaded, parcel, pieces)?);
    }
    requirements.install_soon(received);
    Ok(())
}

impl Requirements {
    /// Loads a requirement; it, unless it is installed already. What can not be written is no reason to
    /// refuse the data: its functions then can not run.
    fn load_one(
        &self,
        loaded: &mut Loaded,
        parcel: Parcel,
        pieces: u64,
    ) -> Result<Option<Arc<Requirement>>, String> {
        let mut receiving = match self.find(&parcel.wire.build) {
            Some(known) if known.is_installed() => {
                self.keep(known, parcel.listed);
                None
            }
            _ => self.begin(parcel),
        };
        for _ in 0..pieces {
            let piece = loaded.blob()?;
            if let Some(one) = &mut receiving
                && let Err(error) = one.piece(&piece)
            {
                one.requirement.fail(&error);
                receiving = None;
            }
        }
        let requirement = receiving.and_then(|one| {
            let requirement = one.requirement.clone();
            let ended = one.end().map_err(|error| requirement.fail(&error));
            ended.ok()
        });
        Ok(requirement)
    }

    /// Lists a requirement, or keeps it until the data is loaded.
    fn keep(&self, requirement: Arc<Requirement>, listed: bool) {
        if listed {
            self.enter(&[requirement]);
        } else {
            self.state().before_load.push(requirement);
        }
    }

    /// Begins to receive a requirement.
    pub(super) fn begin(&self, parcel: Parcel) -> Option<Receiving> {
        let requirement = self.create(&parcel.wire).ok()?;
        // What came this way is where it comes from.
        requirement.mark_sent();
        self.keep(requirement.clone(), parcel.listed);
        let begun = Receiving::begin(requirement.clone(), parcel);
        begun.map_err(|error| requirement.fail(&error)).ok()
    }

    /// Installs what was received, in this order, on a thread that may wait.
    pub(super) fn install_soon(&'static self, received: Vec<Arc<Requirement>>) {
        let (Some(module), false) = (MODULE.get(), received.is_empty()) else {
            return;
        };
        module.run(Box::new(move || {
            let unpacked = |one: &Arc<Requirement>| one.unpack().is_ok();
            let (mut done, rest): (Vec<_>, Vec<_>) = received.into_iter().partition(unpacked);
            // The server may wait for the others, but not for pip.
            for requirement in &rest {
                requirement.fail("its wheels can not be used: pip is asked for others");
            }
            let made = |one: &Arc<Requirement>| one.retry() && self.make_here(one);
            done.extend(rest.into_iter().filter(made));
            for requirement in &done {
                self.tidy(requirement.name());
            }
            if !done.is_empty() {
                module.registrations.revive();
            }
        }));
    }

    /// Waits while wheels that are here are unpacked: nobody is served anyway while data is loaded. The
    /// server lock is held.
    pub(super) fn wait_unpacked(&self, requirements: &[Arc<Requirement>]) {
        let until = Instant::now() + self.settings.max_install_idle();
        for requirement in requirements {
            requirement.wait_unpacked(until.saturating_duration_since(Instant::now()));
        }
    }

    /// The requirements of a session that was loaded or came from the master. Those that are missing
    /// are made here by and by. The server lock is held.
    pub(in crate::redis) fn obtain(
        &'static self,
        session: &SessionWire,
        loading: bool,
    ) -> Result<Needs, String> {
        let mut all = Vec::new();
        for wire in &session.requirements {
            all.push(match self.find(&wire.build) {
                Some(requirement) => {
                    if requirement.retry() {
                        self.make_soon(&requirement);
                    }
                    requirement
                }
                None => {
                    let requirement = self.create(wire).map_err(|f| f.text().to_owned())?;
                    self.make_soon(&requirement);
                    requirement
                }
            });
        }
        if loading {
            self.wait_unpacked(&all);
        }
        Ok(Needs {
            uses: Uses::new(all),
            installed: session.installed,
        })
    }

    /// Has pip get what came without wheels, or with damaged ones. The server lock is held.
    fn make_soon(&'static self, requirement: &Arc<Requirement>) {
        let name = shown(requirement.name());
        let text = format!("requirement {name} came without good wheels: pip is asked for it");
        self.server.log(LogLevel::Notice, &text);
        if self.named(requirement.name()).is_none() {
            self.enter(std::slice::from_ref(requirement));
        }
        let (Some(module), job) = (MODULE.get(), requirement.clone()) else {
            return;
        };
        module.run(Box::new(move || {
            if self.make_here(&job) {
                module.registrations.revive();
            }
        }));
    }
}
