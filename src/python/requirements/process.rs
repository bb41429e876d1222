//! Python programs that run beside the server: pip, and what unpacks wheels.

use std::ffi::OsStr;
use std::io::{BufRead, BufReader, pipe};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use pyo3::prelude::*;

/// Nothing takes longer than this, not even to compile the largest package.
const LONGEST: Duration = Duration::from_secs(3600);

/// Lines of output that are kept.
const KEPT: usize = 1000;

/// The last line of our programs, before how they ended.
const ENDED: &str = "geartrain: ";

/// How a program ended, and the end of what it wrote.
pub(super) struct Ended {
    pub(super) how: String,
    pub(super) output: Vec<String>,
}

/// The program of the Python that is embedded: the very same version, with the same packages.
fn program() -> PyResult<PathBuf> {
    Python::attach(|py| {
        let sys = py.import("sys")?;
        let prefix: PathBuf = sys.getattr("prefix")?.extract()?;
        let version = py.version_info();
        let name = format!("python{}.{}", version.major, version.minor);
        Ok(prefix.join("bin").join(name))
    })
}

/// Runs a script of ours with these arguments. Each line that it writes goes to `tell`, when it
/// comes. The error says why it could not run.
pub(super) fn run<S: AsRef<OsStr>>(
    options: &[&str],
    script: &str,
    arguments: &[S],
    tell: &mut dyn FnMut(&str),
) -> Result<Ended, String> {
    let program = program().map_err(|error| error.to_string())?;
    let failed = |error: std::io::Error| format!("{}: {error}", program.display());
    let (reader, writer) = pipe().map_err(failed)?;
    let mut command = Command::new(&program);
    command
        .args(options)
        .args(["-c", script])
        .args(arguments)
        .stdin(Stdio::null())
        .stderr(writer.try_clone().map_err(failed)?)
        .stdout(writer);
    let mut child = command.spawn().map_err(failed)?;
    // It holds the other end of the pipe.
    drop(command);
    let (send, lines) = mpsc::channel();
    let read = thread::Builder::new()
        .name("geartrain-lines".into())
        .spawn(move || {
            let mut reader = BufReader::new(reader);
            let mut line = Vec::new();
            while reader.read_until(b'\n', &mut line).is_ok_and(|len| len > 0) {
                let text = String::from_utf8_lossy(&line).trim_end().to_owned();
                line.clear();
                if send.send(text).is_err() {
                    break;
                }
            }
        });
    if let Err(error) = read {
        end(&mut child);
        return Err(failed(error));
    }
    listen(&mut child, &lines, tell)
}

/// Takes what a program writes until it ends.
fn listen(
    child: &mut Child,
    lines: &mpsc::Receiver<String>,
    tell: &mut dyn FnMut(&str),
) -> Result<Ended, String> {
    let until = Instant::now() + LONGEST;
    let mut output = Vec::new();
    loop {
        let left = until.saturating_duration_since(Instant::now());
        match lines.recv_timeout(left) {
            Ok(line) => {
                if let Some(how) = line.strip_prefix(ENDED) {
                    // What it started itself may go on writing: nobody waits for that.
                    let how = how.to_owned();
                    let _ = child.wait();
                    return Ok(Ended { how, output });
                }
                if line.is_empty() {
                    continue;
                }
                tell(&line);
                if output.len() < KEPT {
                    output.push(line);
                }
            }
            Err(mpsc::RecvTimeoutError::Disconnected) => {
                // The server may have asked for its end first.
                let status = child.wait().map(|status| status.to_string());
                let how = status.unwrap_or_else(|_| "it was ended".into());
                return Ok(Ended { how, output });
            }
            Err(mpsc::RecvTimeoutError::Timeout) => {
                end(child);
                return Err(format!(
                    "it took longer than {} s and was ended",
                    LONGEST.as_secs()
                ));
            }
        }
    }
}

fn end(child: &mut Child) {
    let _ = child.kill();
    let _ = child.wait();
}
