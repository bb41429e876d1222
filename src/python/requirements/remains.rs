//! What is left of requirements that nobody uses any more.

use std::path::{Path, PathBuf};
use std::{fs, io};

use super::{is_file_name, paths, world};
use crate::engine::LogLevel;

/// What is left of a requirement that nobody uses any more.
pub(crate) struct Remains {
    /// Its text.
    pub(crate) name: String,
    pub(super) folder: PathBuf,
    pub(super) installed: bool,
}

impl Remains {
    /// Its folder.
    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }

    /// Whether modules can be imported from it.
    pub(crate) fn is_installed(&self) -> bool {
        self.installed
    }

    /// Removes all of it.
    pub(crate) fn remove(&self) {
        if self.installed
            && let Err(error) = paths::forget(&self.folder.join("site"))
        {
            world().environment.log(LogLevel::Warning, &error);
        }
        match fs::remove_dir_all(&self.folder) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                let text = format!("{} could not be removed: {error}", self.folder.display());
                world().environment.log(LogLevel::Warning, &text);
            }
            _ => {}
        }
    }
}

/// Removes the wheels in a folder. Modules may still be imported from it.
pub(crate) fn remove_wheels(folder: &Path) {
    let Ok(entries) = fs::read_dir(folder) else {
        return;
    };
    for entry in entries.flatten() {
        if is_file_name(&entry.file_name().to_string_lossy()) {
            let _ = fs::remove_file(entry.path());
        }
    }
}
