//! Packages that scripts need. Each requirement has a folder of its own with the wheels that pip
//! fetched or built, and what they hold unpacked: the system's packages stay as they are, and two
//! requirements never write into each other. Modules are looked for in the folder of the one that
//! was asked for last.

mod install;
mod name;
mod os;
mod paths;
mod payload;
mod process;
mod remains;

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::interpreter::world;
use crate::engine::wire::RequirementWire;
use crate::engine::{LogLevel, random_id};

use install::NotUnpacked;
use name::Parts;
pub(crate) use name::{Alias, Allowed};
use os::os;
pub(super) use paths::load_own_cloudpickle;
pub(crate) use payload::Payload;
use payload::is_file_name;
pub(crate) use remains::{Remains, remove_wheels};

/// Lines of the log are no longer than that.
const LONGEST_LINE: usize = 500;

/// What may be installed, and from where.
#[derive(Debug, Clone, Default)]
pub(crate) struct Sources {
    /// A folder of wheels: nothing else is looked at.
    pub(crate) wheels: Option<PathBuf>,
    /// What requirements may match, if not all are allowed.
    pub(crate) allowed: Option<Vec<Allowed>>,
    /// What is installed in place of others.
    pub(crate) aliases: Vec<Alias>,
}

impl Sources {
    /// Whether a requirement may be handed to pip. The error says why not.
    pub(crate) fn check(&self, name: &str) -> Result<(), String> {
        name::check(name)?;
        match &self.allowed {
            Some(allowed) if !name::is_allowed(name, allowed) => Err(format!(
                "'{}' is not one of AllowedRequirements",
                shown(name)
            )),
            _ => Ok(()),
        }
    }

    /// Whether pip would be asked for a path where nothing is.
    pub(crate) fn lead_nowhere(&self, name: &str) -> bool {
        let parts = Parts::of(name, &self.aliases);
        let mut paths = parts.all().filter_map(|part| name::path(part));
        paths.any(|path| !Path::new(path).exists())
    }
}

/// How far a requirement is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// Its wheels are being fetched, built or received.
    Waiting,
    /// They are there.
    Downloaded,
    /// Modules can be imported from it.
    Installed,
    /// They can not, and the log says why.
    Failed,
}

struct State {
    stage: Stage,
    /// Where its wheels were made.
    os: String,
    /// Their names, sorted.
    wheels: Vec<String>,
    /// What can be imported from it.
    names: Vec<String>,
}

/// Told when nobody uses a requirement any more.
pub(crate) type Ends = Arc<dyn Fn(Remains) + Send + Sync>;

/// A requirement. Crosses threads: one installs it, commands look at it, sessions keep it.
pub(crate) struct Requirement {
    name: String,
    build: String,
    folder: PathBuf,
    state: Mutex<State>,
    changed: Condvar,
    /// Sessions that use it.
    users: AtomicUsize,
    /// Whether replicas and AOF have it.
    sent: AtomicBool,
    ends: Ends,
}

impl Requirement {
    /// One that has no wheels yet, to be installed in a folder below `base`.
    pub(crate) fn new(wire: &RequirementWire, base: &Path, ends: Ends) -> Arc<Self> {
        // Two of the same build may follow each other: one before and one after a load.
        let mut unique = random_id();
        unique.truncate(10);
        let folder = format!("{}_{unique}", name::of_folder(&wire.name));
        Arc::new(Self {
            name: wire.name.clone(),
            build: wire.build.clone(),
            folder: base.join(folder),
            state: Mutex::new(State {
                stage: Stage::Waiting,
                os: os().to_owned(),
                wheels: Vec::new(),
                names: Vec::new(),
            }),
            changed: Condvar::new(),
            users: AtomicUsize::new(0),
            sent: AtomicBool::new(false),
            ends,
        })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The text after REQUIREMENTS.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Tells it from others of the same text; the same on all shards.
    pub(crate) fn build(&self) -> &str {
        &self.build
    }

    /// How it is named on other servers.
    pub(crate) fn wire(&self) -> RequirementWire {
        RequirementWire {
            name: self.name.clone(),
            build: self.build.clone(),
        }
    }

    /// Its folder.
    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }

    /// Where its wheels were made.
    pub(crate) fn os(&self) -> String {
        self.state().os.clone()
    }

    /// Its wheels, once it has them.
    pub(crate) fn wheels(&self) -> Option<Vec<String>> {
        let state = self.state();
        let has = matches!(state.stage, Stage::Downloaded | Stage::Installed);
        has.then(|| state.wheels.clone())
    }

    /// Where a wheel lies.
    pub(crate) fn wheel(&self, file: &str) -> PathBuf {
        self.folder.join(file)
    }

    /// Whether its wheels are where they were put, for others to have them.
    pub(crate) fn has_wheels(&self) -> bool {
        let wheels = self.wheels();
        wheels.is_some_and(|wheels| wheels.iter().all(|file| self.wheel(file).is_file()))
    }

    /// Whether modules can be imported from it.
    pub(crate) fn is_installed(&self) -> bool {
        self.state().stage == Stage::Installed
    }

    /// Whether they never will.
    pub(crate) fn is_failed(&self) -> bool {
        self.state().stage == Stage::Failed
    }

    /// It can be tried again. Whether it had failed.
    pub(crate) fn retry(&self) -> bool {
        let mut state = self.state();
        let failed = state.stage == Stage::Failed;
        if failed {
            state.stage = Stage::Waiting;
        }
        failed
    }

    /// Waits while wheels that are here are being unpacked.
    pub(crate) fn wait_unpacked(&self, most: Duration) {
        self.wait_while(most, |stage| stage == Stage::Downloaded);
    }

    /// Sessions that use it.
    pub(crate) fn users(&self) -> usize {
        self.users.load(Ordering::Relaxed)
    }

    /// Replicas and AOF have it from now on; whether they had it before.
    pub(crate) fn mark_sent(&self) -> bool {
        self.sent.swap(true, Ordering::Relaxed)
    }

    /// Waits until it is installed or failed; whether it is installed.
    pub(crate) fn wait(&self, most: Duration) -> bool {
        let done = |stage| matches!(stage, Stage::Installed | Stage::Failed);
        self.wait_while(most, |stage| !done(stage)) == Stage::Installed
    }

    fn wait_while(&self, most: Duration, so: impl Fn(Stage) -> bool) -> Stage {
        let until = Instant::now() + most;
        let mut state = self.state();
        loop {
            let left = until.saturating_duration_since(Instant::now());
            if !so(state.stage) || left.is_zero() {
                return state.stage;
            }
            let waited = self.changed.wait_timeout(state, left);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    fn set(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.state());
        self.changed.notify_all();
    }

    fn tell(&self, line: &str) {
        let cut = line
            .char_indices()
            .nth(LONGEST_LINE)
            .map_or(line.len(), |(at, _)| at);
        let line = line.get(..cut).unwrap_or_default();
        let text = format!("requirement {}: {line}", shown(&self.name));
        world().environment.log(LogLevel::Notice, &text);
    }

    /// It can not be installed; the log says why.
    pub(crate) fn fail(&self, why: &str) {
        let text = format!("requirement {}: {why}", shown(&self.name));
        world().environment.log(LogLevel::Warning, &text);
        self.set(|state| state.stage = Stage::Failed);
    }

    /// Makes its folder.
    pub(crate) fn create_folder(&self) -> io::Result<()> {
        fs::create_dir_all(&self.folder)
    }

    /// Has pip fetch or build its wheels, and installs them. Takes as long as it takes. Nothing is
    /// imported from it before [`prefer`]: others of the same script may fail.
    pub(crate) fn make(&self, sources: &Sources) -> Result<(), Failure> {
        let made = self.try_make(sources);
        if let Err(failure) = made {
            self.fail(failure.text());
        }
        made
    }

    fn try_make(&self, sources: &Sources) -> Result<(), Failure> {
        self.create_folder().map_err(|error| {
            self.tell(&format!("{}: {error}", self.folder.display()));
            Failure::Folder
        })?;
        // Those that came and do not fit.
        remove_wheels(&self.folder);
        let mut tell = |line: &str| self.tell(line);
        let wheels = sources.wheels.as_deref();
        let parts = Parts::of(&self.name, &sources.aliases);
        if !parts.all().eq([&self.name]) {
            let parts = parts.all().map(String::as_str).collect::<Vec<_>>();
            tell(&format!("{} are installed in its place", parts.join(", ")));
        }
        for (parts, alone) in [(&parts.alone, true), (&parts.whole, false)] {
            if !parts.is_empty() {
                install::fetch(parts, alone, &self.folder, wheels, &mut tell)
                    .map_err(|()| Failure::Build)?;
            }
        }
        let found = self.find_wheels().map_err(|error| {
            self.tell(&format!("{}: {error}", self.folder.display()));
            Failure::Build
        })?;
        if let Some(project) = name::twice(&found) {
            self.tell(&format!(
                "two versions of {project} would be installed: name the one to take in its \
                 RequirementAlias"
            ));
            return Err(Failure::Build);
        }
        self.received(os().to_owned(), found);
        self.unpack_wheels().map_err(|_| Failure::Install)
    }

    fn find_wheels(&self) -> io::Result<Vec<String>> {
        let mut wheels = Vec::new();
        for entry in fs::read_dir(&self.folder)? {
            let name = entry?.file_name().to_string_lossy().into_owned();
            if is_file_name(&name) {
                wheels.push(name);
            }
        }
        Ok(wheels)
    }

    /// A file for one of the wheels that are received.
    pub(crate) fn create_wheel(&self, file: &str) -> io::Result<File> {
        if !is_file_name(file) {
            let text = format!("'{file}' is not the name of a wheel");
            return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
        }
        File::create(self.wheel(file))
    }

    /// All of its wheels are in its folder.
    pub(crate) fn received(&self, os: String, mut wheels: Vec<String>) {
        wheels.sort_unstable();
        self.set(|state| {
            state.os = os;
            state.wheels = wheels;
            state.stage = Stage::Downloaded;
        });
    }

    /// Installs its wheels, and has modules looked for in them. The error is [`NotHere::Unfit`] if those
    /// of another platform were received: it can still be made here.
    pub(crate) fn unpack(&self) -> Result<(), NotHere> {
        self.unpack_wheels()?;
        paths::prefer(&[self.place()]).map_err(|error| {
            self.tell(&error);
            NotHere::Failed
        })
    }

    fn unpack_wheels(&self) -> Result<(), NotHere> {
        let (os, files) = {
            let state = self.state();
            (state.os.clone(), state.wheels.clone())
        };
        let wheels: Vec<_> = files.iter().map(|file| self.wheel(file)).collect();
        let (site, names) = (self.site(), self.folder.join("names"));
        let mut tell = |line: &str| self.tell(line);
        match install::unpack(&wheels, &os, &site, &names, &mut tell) {
            Ok(()) => {}
            Err(NotUnpacked::Unfit) => {
                self.set(|state| state.stage = Stage::Waiting);
                return Err(NotHere::Unfit);
            }
            Err(NotUnpacked::Failed) => return Err(NotHere::Failed),
        }
        let names = fs::read_to_string(names).unwrap_or_default();
        let names: Vec<_> = names.lines().map(str::to_owned).collect();
        self.state().names = names;
        self.tell(&format!("installed in {}", self.folder.display()));
        self.set(|state| state.stage = Stage::Installed);
        Ok(())
    }

    fn site(&self) -> PathBuf {
        self.folder.join("site")
    }

    fn place(&self) -> paths::Place {
        (self.site(), self.state().names.clone())
    }
}

impl Drop for Requirement {
    fn drop(&mut self) {
        let remains = Remains {
            name: std::mem::take(&mut self.name),
            folder: std::mem::take(&mut self.folder),
            installed: self.is_installed(),
        };
        (self.ends)(remains);
    }
}

/// Has modules looked for in these requirements before all others, in the last one first.
pub(crate) fn prefer(requirements: &[Arc<Requirement>]) {
    let installed = requirements.iter().filter(|one| one.is_installed());
    let places: Vec<_> = installed.map(|one| one.place()).collect();
    if places.is_empty() {
        return;
    }
    if let Err(error) = paths::prefer(&places) {
        world().environment.log(LogLevel::Warning, &error);
    }
}

/// The requirements of a session, for as long as it lives.
#[derive(Default)]
pub(crate) struct Uses(Vec<Arc<Requirement>>);

impl Uses {
    /// One more user of each.
    pub(crate) fn new(requirements: Vec<Arc<Requirement>>) -> Self {
        for requirement in &requirements {
            requirement.users.fetch_add(1, Ordering::Relaxed);
        }
        Self(requirements)
    }

    /// They, in the order in which they were asked for.
    pub(crate) fn list(&self) -> &[Arc<Requirement>] {
        &self.0
    }
}

impl Drop for Uses {
    fn drop(&mut self) {
        for requirement in &self.0 {
            requirement.users.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

/// Why a requirement is not there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Failure {
    /// It has no folder.
    Folder,
    /// It has no wheels.
    Build,
    /// They could not be installed.
    Install,
}

impl Failure {
    /// The text for the client, that of RedisGears 1.x.
    pub(crate) fn text(self) -> &'static str {
        match self {
            Self::Folder => {
                "Could not satisfy requirements, look at the log file for more information."
            }
            Self::Build => {
                "Could not satisfy requirements (look at redis log file for more information)"
            }
            Self::Install => {
                "Failed installing requirements on shard, please check shard logs for more details."
            }
        }
    }
}

/// Why wheels that were received are not installed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum NotHere {
    /// They are for another platform.
    Unfit,
    /// The log says why.
    Failed,
}

/// A requirement in the log.
pub(crate) fn shown(name: &str) -> String {
    name::without_secrets(name)
}
