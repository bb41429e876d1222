//! How a requirement gets from its text into a folder that modules are imported from.

use std::ffi::OsString;
use std::path::Path;
use std::thread;
use std::time::Duration;

use super::name::without_secrets;
use super::process::{self, Ended};

const PIP: &str = include_str!("../../../python/prelude/pip.py");
const UNPACK: &str = include_str!("../../../python/prelude/unpack.py");

/// How often pip is asked.
const ATTEMPTS: u32 = 3;

/// How long after that failed it is asked again.
const PAUSE: Duration = Duration::from_secs(1);

/// What pip says of a requirement that nobody has.
const NOBODY_HAS_IT: &str = "No matching distribution found";

/// What it says before that if it could not look.
const TROUBLE: [&str; 4] = [
    "Retrying (",
    "Could not fetch URL",
    "connection",
    "timed out",
];

/// What it says if it is the package's own fault, as it will be next time.
const HOPELESS: [&str; 6] = [
    "Failed building wheel",
    "metadata-generation-failed",
    "build backend",
    "Invalid requirement",
    "Invalid marker",
    "is not a supported wheel on this platform",
];

/// Why wheels are not unpacked.
pub(super) enum NotUnpacked {
    /// They are for another platform.
    Unfit,
    /// They are damaged, or it could not be done.
    Failed,
}

/// Has pip fetch or build wheels into a folder, and those of what is needed, or not of that.
pub(super) fn fetch(
    parts: &[String],
    alone: bool,
    folder: &Path,
    wheels: Option<&Path>,
    tell: &mut dyn FnMut(&str),
) -> Result<(), ()> {
    let mut arguments: Vec<OsString> = Vec::new();
    let fixed = [
        "wheel",
        "--no-input",
        "--disable-pip-version-check",
        "--progress-bar=off",
        "--wheel-dir",
    ];
    arguments.extend(fixed.map(OsString::from));
    arguments.push(folder.into());
    if let Some(wheels) = wheels {
        arguments.extend(["--no-index".into(), "--find-links".into(), wheels.into()]);
    }
    if alone {
        arguments.push("--no-deps".into());
    }
    arguments.push("--".into());
    arguments.extend(parts.iter().map(OsString::from));
    for attempt in 1..=ATTEMPTS {
        let mut tell_safely = |line: &str| tell(&without_secrets(line));
        match process::run(&["-I"], PIP, &arguments, &mut tell_safely) {
            Ok(ended) if ended.how == "0" => return Ok(()),
            Ok(ended) if ended.how == "no pip" => {
                tell(
                    "the Python of the server has no pip: install it, as by: apt-get install \
                      python3-pip",
                );
                return Err(());
            }
            Ok(ended) => {
                tell(&format!("pip ended with {}", ended.how));
                if is_final(&ended) {
                    return Err(());
                }
            }
            Err(error) => tell(&format!("pip could not be run: {error}")),
        }
        if attempt < ATTEMPTS {
            tell(&format!("attempt {} of {ATTEMPTS}", attempt + 1));
            thread::sleep(PAUSE);
        }
    }
    Err(())
}

/// Whether the next attempt would end in the same way.
fn is_final(ended: &Ended) -> bool {
    let says = |words: &[&str]| {
        let mut lines = ended.output.iter();
        lines.any(|line| words.iter().any(|word| line.contains(word)))
    };
    says(&HOPELESS) || (says(&[NOBODY_HAS_IT]) && !says(&TROUBLE))
}

/// Unpacks wheels into a folder; names of what can be imported from it go into a file.
pub(super) fn unpack(
    wheels: &[impl AsRef<Path>],
    made_on: &str,
    folder: &Path,
    names: &Path,
    tell: &mut dyn FnMut(&str),
) -> Result<(), NotUnpacked> {
    let mut arguments: Vec<OsString> = vec![folder.into(), names.into()];
    arguments.extend([OsString::from(made_on), super::os().into()]);
    arguments.extend(wheels.iter().map(|wheel| wheel.as_ref().into()));
    match process::run(&["-I", "-S"], UNPACK, &arguments, tell) {
        Ok(ended) => match ended.how.as_str() {
            "0" => Ok(()),
            "unfit" => Err(NotUnpacked::Unfit),
            how => {
                tell(&format!("its wheels could not be unpacked ({how})"));
                Err(NotUnpacked::Failed)
            }
        },
        Err(error) => {
            tell(&format!("its wheels could not be unpacked: {error}"));
            Err(NotUnpacked::Failed)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(output: &[&str], last: bool) {
        let ended = Ended {
            how: "1".into(),
            output: output.iter().map(|line| (*line).to_owned()).collect(),
        };
        assert_eq!(is_final(&ended), last, "{output:?}");
    }

    #[test]
    fn pip_is_asked_again_where_that_may_help() {
        check(&["ERROR: No matching distribution found for x"], true);
        check(
            &[
                "WARNING: Retrying (Retry(total=4)) after connection broken",
                "ERROR: No matching distribution found for x",
            ],
            false,
        );
        check(&["ERROR: Failed building wheel for x"], true);
        check(
            &["packaging.markers.InvalidMarker: Invalid marker: 'x'"],
            true,
        );
        check(&["error: subprocess-exited-with-error"], false);
        check(&[], false);
    }
}
