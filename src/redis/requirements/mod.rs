//! The requirements of this server: which there are, who installs them, where they lie.
//!
//! Like the registrations, all state is behind one mutex that is only taken with the server lock
//! held, so that it is free when the server makes a child to save the data. Nothing here waits for
//! pip or for files with a lock held: that is the work of the installer's thread and of jobs.

mod base;
mod installer;
mod persistence;
mod pieces;
mod replication;
mod shards;

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};

use super::MODULE;
use super::config::Settings;
use super::lock::Lock;
use super::raw::Server;
use crate::engine::wire::RequirementWire;
use crate::engine::{Enter, LogLevel};
use crate::python::{Ends, Failure, Remains, Requirement, Sources, prefer, remove_wheels, shown};

use base::Base;
use installer::Installer;
pub(super) use persistence::{is_empty, load, save};
use pieces::Receiving;

/// Packages of requirements that nobody uses any more, and that are kept importable.
const MOST_LEFT: usize = 32;

/// A requirement that RG.PYDUMPREQS lists.
struct Listed {
    requirement: Arc<Requirement>,
    /// When it came.
    order: u64,
}

#[derive(Default)]
struct State {
    /// The dictionary of requirements, by name.
    listed: BTreeMap<String, Listed>,
    next_order: u64,
    /// All that somebody uses, by build.
    live: HashMap<String, Weak<Requirement>>,
    /// What the master, or the AOF, sends just now, by build.
    receiving: HashMap<String, Receiving>,
    /// Those before a data set that is loaded, which may have them as well, and those that it has for
    /// sessions that come later.
    before_load: Vec<Arc<Requirement>>,
    /// Whose packages stay importable although nobody uses them: the oldest first.
    left: Vec<Remains>,
    /// What is removed when no child reads it any more.
    graves: Vec<Remains>,
    base: Option<Base>,
}

/// The requirements.
pub(super) struct Requirements {
    server: Server,
    lock: Arc<Lock>,
    settings: Arc<Settings>,
    sources: Sources,
    state: Mutex<State>,
    installer: Installer,
    /// Whether the server has a child that may read wheels.
    child: AtomicBool,
}

static REQUIREMENTS: OnceLock<Requirements> = OnceLock::new();

/// A requirement that is listed now and was not before.
pub(super) struct Entered {
    requirement: Arc<Requirement>,
    /// What was listed under its name.
    before: Option<Arc<Requirement>>,
}

/// What a script asks for.
pub(super) enum Wanted {
    /// All of it is there, or nothing was asked for.
    Known(Vec<Arc<Requirement>>),
    /// It has to be installed.
    New(Vec<Arc<Requirement>>),
}

impl Requirements {
    /// The requirements, none yet. Made once, when the module loads. They are installed inside
    /// `enter`.
    pub(super) fn open(
        server: Server,
        lock: Arc<Lock>,
        settings: Arc<Settings>,
        enter: Enter,
    ) -> Result<&'static Self, String> {
        let sources = settings.sources()?;
        Ok(REQUIREMENTS.get_or_init(|| Self {
            server,
            lock,
            settings,
            sources,
            state: Mutex::default(),
            installer: Installer::new(enter),
            child: AtomicBool::new(false),
        }))
    }

    /// The server lock is held.
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn warn(&self, message: &str) {
        self.server.log(LogLevel::Warning, message);
    }

    /// A requirement that nobody has yet. The server lock is held.
    pub(super) fn create(&self, wire: &RequirementWire) -> Result<Arc<Requirement>, Failure> {
        let folder = self.base().map_err(|error| {
            let name = shown(&wire.name);
            self.warn(&format!("requirement {name} has no folder: {error}"));
            Failure::Folder
        })?;
        let ends: Ends = Arc::new(|remains| {
            if let Some(module) = MODULE.get() {
                module.run(Box::new(|| module.requirements.bury(remains)));
            }
        });
        let requirement = Requirement::new(wire, &folder, ends);
        let mut state = self.state();
        state
            .live
            .insert(wire.build.clone(), Arc::downgrade(&requirement));
        Ok(requirement)
    }

    /// Where folders are made. The server lock is held.
    fn base(&self) -> Result<std::path::PathBuf, String> {
        let known = self.state().base.as_ref().map(|base| base.folder.clone());
        match known {
            Some(folder) => Ok(folder),
            None => {
                let base = Base::create(self.server, self.settings.installation_dir())?;
                let folder = base.folder.clone();
                self.state().base = Some(base);
                Ok(folder)
            }
        }
    }

    /// A requirement that somebody uses. The server lock is held.
    fn find(&self, build: &str) -> Option<Arc<Requirement>> {
        self.state().live.get(build).and_then(Weak::upgrade)
    }

    /// One that is listed. The server lock is held.
    pub(super) fn named(&self, name: &str) -> Option<Arc<Requirement>> {
        let state = self.state();
        let listed = state.listed.get(name);
        listed.map(|listed| listed.requirement.clone())
    }

    /// Those that are listed, in the order in which they came. The server lock is held.
    fn in_order(&self) -> Vec<Arc<Requirement>> {
        let state = self.state();
        let mut listed: Vec<_> = state.listed.values().collect();
        listed.sort_unstable_by_key(|listed| listed.order);
        let all = listed.into_iter();
        all.map(|listed| listed.requirement.clone()).collect()
    }

    /// Whether this very requirement is listed. The server lock is held.
    pub(super) fn is_listed(&self, requirement: &Requirement) -> bool {
        let state = self.state();
        let listed = state.listed.get(requirement.name());
        listed.is_some_and(|listed| listed.requirement.build() == requirement.build())
    }

    /// Those that are listed, and those that are being installed. The server lock is held.
    pub(super) fn list(&self) -> Vec<Arc<Requirement>> {
        let state = self.state();
        let listed = state.listed.values();
        let mut list: Vec<_> = listed.map(|l| l.requirement.clone()).collect();
        let live: Vec<_> = state.live.values().filter_map(Weak::upgrade).collect();
        drop(state);
        for requirement in live {
            let known = list.iter().any(|one| Arc::ptr_eq(one, &requirement));
            if !known && !requirement.is_installed() && !requirement.is_failed() {
                list.push(requirement);
            }
        }
        list
    }

    /// What a script asks for. The error is for the client. The server lock is held.
    pub(super) fn want(&self, names: &[String], anew: bool) -> Result<Wanted, String> {
        let mut distinct: Vec<&String> = Vec::new();
        for name in names {
            if !distinct.contains(&name) {
                distinct.push(name);
            }
        }
        let known = distinct.iter().map(|name| self.named(name));
        let known = known.map(|known| known.filter(|one| !one.is_failed()));
        if let (Some(known), false) = (known.collect(), anew) {
            return Ok(Wanted::Known(known));
        }
        for name in &distinct {
            self.check(name)
                .map_err(|why| format!("Could not satisfy requirements: {why}"))?;
            if self.sources.lead_nowhere(name) {
                let name = shown(name);
                self.warn(&format!("requirement {name} is a path where nothing is"));
                return Err(Failure::Folder.text().to_owned());
            }
        }
        let made = distinct.iter().map(|name| {
            self.create(&RequirementWire {
                name: (*name).clone(),
                build: new_build(),
            })
        });
        let made: Result<Vec<_>, _> = made.collect();
        made.map(Wanted::New)
            .map_err(|failure| failure.text().to_owned())
    }

    /// Whether a requirement may be installed. The error says why not.
    pub(super) fn check(&self, name: &str) -> Result<(), String> {
        if !self.settings.installs() {
            return Err("InstallRequirements is off".into());
        }
        self.sources.check(name)
    }

    /// Runs a job on the installer's thread.
    pub(super) fn install(&self, job: super::threads::Job) {
        if let Err(error) = self.installer.run(job) {
            self.warn(&format!(
                "the installer could not start, so that requirements are not installed: {error}"
            ));
        }
    }

    /// Makes requirements one after another. On the installer's thread.
    pub(super) fn make(&self, requirements: &[Arc<Requirement>]) -> Result<(), Failure> {
        for requirement in requirements {
            requirement.make(&self.sources)?;
        }
        Ok(())
    }

    /// Lists requirements; what changed. The server lock is held.
    pub(super) fn enter(&self, requirements: &[Arc<Requirement>]) -> Vec<Entered> {
        let mut entered = Vec::new();
        let mut state = self.state();
        for requirement in requirements {
            let before = state.listed.get(requirement.name());
            if before.is_some_and(|before| Arc::ptr_eq(&before.requirement, requirement)) {
                continue;
            }
            let order = state.next_order;
            state.next_order += 1;
            let listed = Listed {
                requirement: requirement.clone(),
                order,
            };
            let before = state.listed.insert(requirement.name().to_owned(), listed);
            entered.push(Entered {
                requirement: requirement.clone(),
                before: before.map(|listed| listed.requirement),
            });
        }
        entered
    }

    /// Lists requirements no more, if those are the ones that are listed. The server lock is held.
    fn leave(&self, requirements: &[Arc<Requirement>]) -> Vec<Arc<Requirement>> {
        let mut state = self.state();
        let mut gone = Vec::new();
        for requirement in requirements {
            let listed = state.listed.get(requirement.name());
            if listed.is_some_and(|listed| Arc::ptr_eq(&listed.requirement, requirement)) {
                gone.extend(state.listed.remove(requirement.name()));
            }
        }
        drop(state);
        gone.into_iter().map(|listed| listed.requirement).collect()
    }

    /// A session was replaced: what only it used is listed no more. The server lock is held.
    pub(super) fn unlink(&self, only: &[Arc<Requirement>]) {
        drop(self.leave(only));
    }

    /// A data set begins to be loaded: it brings its own requirements. The server lock is held.
    pub(super) fn loading(&self) {
        let mut state = self.state();
        let listed = std::mem::take(&mut state.listed);
        let mut kept = std::mem::take(&mut state.before_load);
        kept.extend(listed.into_values().map(|listed| listed.requirement));
        state.before_load = kept;
        let cut = std::mem::take(&mut state.receiving);
        drop(state);
        drop(cut);
    }

    /// It is loaded. Wheels that came with it are unpacked before anybody is served; pip, where it is
    /// needed, nobody waits for. The server lock is held.
    pub(super) fn loaded(&self) {
        let gone = std::mem::take(&mut self.state().before_load);
        drop(gone);
        self.wait_unpacked(&self.list());
        // Registrations had theirs preferred.
        let listed = self.in_order();
        prefer(&listed);
    }

    /// The server has a child, or it has gone. The server lock is held.
    pub(super) fn has_child(&self, there: bool) {
        self.child.store(there, Ordering::Relaxed);
        if there {
            return;
        }
        let graves = std::mem::take(&mut self.state().graves);
        if let (Some(module), false) = (MODULE.get(), graves.is_empty()) {
            module.run(Box::new(move || {
                for remains in graves {
                    module.requirements.bury(remains);
                }
            }));
        }
    }

    /// Nobody uses a requirement any more: it is removed, but for packages that nothing replaces,
    /// which modules that are loaded may need. On a thread that may wait.
    fn bury(&self, remains: Remains) {
        let folder = remains.folder().to_owned();
        let (remove, keeps) = self.lock.with(|_| self.sort_out(remains));
        for remains in remove {
            remains.remove();
        }
        if keeps {
            remove_wheels(&folder);
        }
    }

    /// What is to be removed now that nobody uses this any more, and whether it is only the wheels of
    /// this. The server lock is held.
    fn sort_out(&self, remains: Remains) -> (Vec<Remains>, bool) {
        let mut state = self.state();
        state.live.retain(|_, one| one.strong_count() > 0);
        // Decided with the lock held: the server makes no child meanwhile.
        if self.child.load(Ordering::Relaxed) {
            state.graves.push(remains);
            return (Vec::new(), false);
        }
        let live: Vec<_> = state.live.values().filter_map(Weak::upgrade).collect();
        let replaces = |one: &Arc<Requirement>| one.name() == remains.name && one.is_installed();
        if !remains.is_installed() || live.iter().any(replaces) {
            return (vec![remains], false);
        }
        let name = remains.name.clone();
        let mut remove: Vec<_> = state.left.extract_if(.., |one| one.name == name).collect();
        state.left.push(remains);
        if state.left.len() > MOST_LEFT {
            remove.push(state.left.remove(0));
        }
        (remove, true)
    }

    /// Packages that were left behind go, now that others of the same name are there.
    fn tidy(&self, name: &str) {
        let gone: Vec<_> = self.lock.with(|_| {
            let mut state = self.state();
            state.left.extract_if(.., |one| one.name == name).collect()
        });
        for remains in gone {
            self.bury(remains);
        }
    }
}

/// Tells one requirement from all others of the same text.
pub(super) fn new_build() -> String {
    let mut build = crate::engine::random_id();
    build.truncate(10);
    build
}
