//! Where the folders of requirements are.

use std::fs::{self, DirBuilder, File};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use crate::engine::{Command, LogLevel, Reply, random_id};
use crate::redis::MODULE;
use crate::redis::raw::{self, Server};

/// What lies beside the data.
const NAME: &str = "geartrain-requirements";

/// Shows by a lock on it whether the process that made it lives.
const LOCK: &str = "lock";

/// A folder of this process.
pub(super) struct Base {
    pub(super) folder: PathBuf,
    /// Locked for as long as it is open.
    _lock: File,
}

impl Base {
    /// Makes one in `dir`, else beside the data, and removes those of processes that are gone. The
    /// server lock is held.
    pub(super) fn create(server: Server, dir: Option<PathBuf>) -> Result<Self, String> {
        let dir = match dir {
            Some(dir) => dir,
            None => data_dir(server)?,
        };
        let all = dir.join(NAME);
        let mut id = random_id();
        id.truncate(8);
        let folder = all.join(format!("{}-{id}", std::process::id()));
        let failed = |error: std::io::Error| format!("{}: {error}", folder.display());
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&folder)
            .map_err(failed)?;
        let lock = File::create(folder.join(LOCK)).map_err(failed)?;
        raw::lock_file(&lock);
        if let Some(module) = MODULE.get() {
            let own = folder.clone();
            module.run(Box::new(move || clear(server, &all, &own)));
        }
        Ok(Self {
            folder,
            _lock: lock,
        })
    }
}

/// The folder in which the server saves its data.
fn data_dir(server: Server) -> Result<PathBuf, String> {
    let command = Command::of(&[b"CONFIG", b"GET", b"dir"]);
    if let Ok(Reply::Array(pair)) = server.read(&command)
        && let Some(Reply::Bytes(dir)) = pair.get(1)
    {
        return Ok(PathBuf::from(String::from_utf8_lossy(dir).into_owned()));
    }
    Err("the server does not say where its data is".into())
}

/// Removes what processes left that are gone.
fn clear(server: Server, all: &Path, own: &Path) {
    let Ok(entries) = fs::read_dir(all) else {
        return;
    };
    for entry in entries.flatten() {
        let folder = entry.path();
        if folder == own {
            continue;
        }
        // One that has no lock yet is being made.
        let Ok(lock) = File::open(folder.join(LOCK)) else {
            continue;
        };
        if !raw::lock_file(&lock) {
            continue;
        }
        if let Err(error) = fs::remove_dir_all(&folder) {
            let text = format!("{} could not be removed: {error}", folder.display());
            server.log(LogLevel::Warning, &text);
        }
    }
}
