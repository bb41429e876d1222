//! Requirements in the RDB, in the AOF and on replicas.
//!
//! In the RDB they come before the keys, so that their wheels are unpacked while those are loaded. A
//! child writes them: it reads the wheels from the disk, a piece at a time. Replicas and AOF get each
//! requirement once, in pieces, before what needs it.

use std::fs::File;
use std::io::{Read, Write};
use std::sync::TryLockError;
use std::sync::{Arc, Weak};
use std::time::Instant;

use super::shards::Parcel;
use super::{Entered, MODULE, REQUIREMENTS, Requirements, State};
use crate::engine::LogLevel;
use crate::engine::wire::{SessionWire, seal, unseal};
use crate::python::{Needs, Requirement, Uses, shown};
use crate::redis::raw::{self, Args, Ctx, Loaded, Writer};

/// Nothing is written, sent or read in larger pieces.
const PIECE: usize = 256 << 10;

/// More of them in a file are damage.
const MOST: u64 = 1 << 20;

/// The command that brings a requirement to replicas and into the AOF.
const COMMAND: &std::ffi::CStr = c"RG.INNERREQUIREMENT";

/// A requirement of which some pieces have come.
pub(super) struct Receiving {
    requirement: Arc<Requirement>,
    parcel: Parcel,
    /// The wheel that is being written, and what is missing of it.
    at: usize,
    file: Option<(File, u64)>,
}

impl Receiving {
    /// Its folder and first file.
    fn begin(requirement: Arc<Requirement>, parcel: Parcel) -> Result<Self, String> {
        requirement.create_folder().map_err(|e| e.to_string())?;
        let mut receiving = Self {
            requirement,
            parcel,
            at: 0,
            file: None,
        };
        receiving.next_file()?;
        Ok(receiving)
    }

    /// Opens the next wheel that has anything in it.
    fn next_file(&mut self) -> Result<(), String> {
        while let Some((name, len)) = self.parcel.wheels.get(self.at) {
            let file = self.requirement.create_wheel(name);
            let file = file.map_err(|error| error.to_string())?;
            if *len > 0 {
                self.file = Some((file, *len));
                return Ok(());
            }
            self.at += 1;
        }
        self.file = None;
        Ok(())
    }

    fn piece(&mut self, piece: &[u8]) -> Result<(), String> {
        let (file, missing) = self.file.as_mut().ok_or("more came than was announced")?;
        let len = piece.len() as u64;
        *missing = missing.checked_sub(len).ok_or("a wheel is too long")?;
        file.write_all(piece).map_err(|error| error.to_string())?;
        if *missing == 0 {
            self.at += 1;
            self.next_file()?;
        }
        Ok(())
    }

    /// All of it came.
    fn end(self) -> Result<Arc<Requirement>, String> {
        if self.file.is_some() {
            return Err("a wheel is too short".into());
        }
        let files = self.parcel.wheels.into_iter().map(|(file, _)| file);
        self.requirement.received(self.parcel.os, files.collect());
        Ok(self.requirement)
    }
}

/// Hands the wheels of a requirement on in pieces.
fn read_wheels(
    requirement: &Requirement,
    parcel: &Parcel,
    take: &mut dyn FnMut(&[u8]),
) -> std::io::Result<()> {
    let mut buffer = vec![0; PIECE];
    for (name, len) in &parcel.wheels {
        let mut file = File::open(requirement.wheel(name))?;
        let mut left = *len;
        while left > 0 {
            let most = usize::try_from(left).unwrap_or(PIECE).min(PIECE);
            let piece = &mut buffer[..most];
            file.read_exact(piece)?;
            take(piece);
            left -= most as u64;
        }
    }
    Ok(())
}

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
    fn begin(&self, parcel: Parcel) -> Option<Receiving> {
        let requirement = self.create(&parcel.wire).ok()?;
        // What came this way is where it comes from.
        requirement.mark_sent();
        self.keep(requirement.clone(), parcel.listed);
        let begun = Receiving::begin(requirement.clone(), parcel);
        begun.map_err(|error| requirement.fail(&error)).ok()
    }

    /// Installs what was received, in this order, on a thread that may wait.
    fn install_soon(&'static self, received: Vec<Arc<Requirement>>) {
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

    /// Lists requirements, and has replicas and AOF get them; what changed. On a thread that may wait.
    pub(in crate::redis) fn publish(&self, requirements: &[Arc<Requirement>]) -> Vec<Entered> {
        if requirements.is_empty() {
            return Vec::new();
        }
        let entered = self.lock.with(|_| self.enter(requirements));
        for requirement in requirements {
            self.tidy(requirement.name());
            if requirement.mark_sent() {
                continue;
            }
            let sent = Parcel::of(requirement).and_then(|parcel| {
                self.replicate(requirement, b"begin", &seal(&parcel));
                read_wheels(requirement, &parcel, &mut |piece| {
                    self.replicate(requirement, b"piece", piece);
                })
            });
            match sent {
                Ok(()) => self.replicate(requirement, b"end", b""),
                Err(error) => {
                    let name = shown(requirement.name());
                    self.warn(&format!("requirement {name} could not be sent: {error}"));
                    self.replicate(requirement, b"forget", b"");
                }
            }
        }
        entered
    }

    /// What was listed for something that then did not happen is listed no more. On a thread that may
    /// wait.
    pub(in crate::redis) fn withdraw(&self, entered: Vec<Entered>) {
        for one in entered {
            self.replicate(&one.requirement, b"forget", b"");
            self.lock.with(|_| self.leave(&[one.requirement]));
            let Some(before) = one.before else { continue };
            if let Ok(parcel) = Parcel::of(&before) {
                // They have it still, if anybody uses it.
                self.replicate(&before, b"begin", &seal(&parcel));
            }
            self.lock.with(|_| self.enter(&[before]));
        }
    }

    fn replicate(&self, requirement: &Requirement, what: &[u8], data: &[u8]) {
        let words = [requirement.build().as_bytes(), what, data];
        self.lock.with(|server| {
            if !raw::is_replica() {
                server.replicate(COMMAND, &words);
            }
        });
    }

    /// Sends all that are listed into the part of the AOF that begins now. The server lock is held.
    pub(in crate::redis) fn send_all(&self) {
        for requirement in self.in_order() {
            let Ok(parcel) = Parcel::of(&requirement) else {
                continue;
            };
            self.replicate(&requirement, b"begin", &seal(&parcel));
            let sent = read_wheels(&requirement, &parcel, &mut |piece| {
                self.replicate(&requirement, b"piece", piece);
            });
            if sent.is_ok() {
                self.replicate(&requirement, b"end", b"");
            }
        }
    }

    /// `RG.INNERREQUIREMENT build begin|piece|end|forget data`: from the master or the AOF.
    pub(in crate::redis) fn inner_requirement(&'static self, ctx: Ctx<'_>, args: &Args<'_>) {
        if !ctx.is_replayed() {
            return ctx.error(b"ERR RG.INNERREQUIREMENT is internal: scripts name REQUIREMENTS");
        }
        let [build, what, data] = args.rest() else {
            return ctx.wrong_arity();
        };
        let build = String::from_utf8_lossy(build);
        let taken = match *what {
            b"begin" => self.replay_begin(&build, data),
            b"piece" => self.replay_piece(&build, data),
            b"end" => self.replay_end(&build),
            b"forget" => {
                self.replay_forget(&build);
                Ok(())
            }
            _ => Err("it makes no sense".into()),
        };
        ctx.replicate_verbatim();
        match taken {
            Ok(()) => ctx.status(b"OK"),
            Err(error) => {
                let message = format!("a requirement can not be taken: {error}");
                self.warn(&message);
                ctx.error(format!("ERR {message}").as_bytes());
            }
        }
    }

    fn replay_begin(&self, build: &str, data: &[u8]) -> Result<(), String> {
        let parcel: Parcel = unseal(data).map_err(|damage| damage.to_string())?;
        // Sent once more for an AOF that is written anew.
        if let Some(known) = self.find(build).filter(|known| !known.is_failed()) {
            self.enter(&[known]);
            return Ok(());
        }
        if let Some(receiving) = self.begin(parcel) {
            let before = self.state().receiving.insert(build.to_owned(), receiving);
            drop(before);
        }
        Ok(())
    }

    fn replay_piece(&self, build: &str, data: &[u8]) -> Result<(), String> {
        let receiving = self.state().receiving.remove(build);
        // Known already, or failed.
        let Some(mut receiving) = receiving else {
            return Ok(());
        };
        if let Err(error) = receiving.piece(data) {
            receiving.requirement.fail(&error);
            return Err(error);
        }
        self.state().receiving.insert(build.to_owned(), receiving);
        Ok(())
    }

    fn replay_end(&'static self, build: &str) -> Result<(), String> {
        let receiving = self.state().receiving.remove(build);
        let Some(receiving) = receiving else {
            return Ok(());
        };
        let requirement = receiving.requirement.clone();
        let ended = receiving.end().inspect_err(|error| requirement.fail(error));
        self.install_soon(vec![ended?]);
        Ok(())
    }

    fn replay_forget(&self, build: &str) {
        let receiving = self.state().receiving.remove(build);
        drop(receiving);
        if let Some(known) = self.find(build) {
            drop(self.leave(&[known]));
        }
    }
}
