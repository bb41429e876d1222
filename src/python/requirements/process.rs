//! Python programs that run beside the server: pip, and what unpacks wheels.

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::io::{BufRead, BufReader, pipe};
use std::os::unix::ffi::OsStringExt;
use std::os::unix::process::CommandExt;
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

/// Where programs are looked for, if nobody says.
const PATH: &str = "/usr/local/bin:/usr/bin:/bin";

/// The environment of the server. Some (Valkey 9.1 of Debian testing) have none where libraries look
/// for it; how they were started then says what it was.
fn environment() -> HashMap<OsString, OsString> {
    let mut all: HashMap<_, _> = std::env::vars_os().collect();
    if all.is_empty() {
        let started = std::fs::read("/proc/self/environ").unwrap_or_default();
        all = parse_environment(&started);
    }
    all.entry("PATH".into()).or_insert_with(|| PATH.into());
    all
}

/// `name=value` pairs with a NUL behind each.
fn parse_environment(bytes: &[u8]) -> HashMap<OsString, OsString> {
    let text = |bytes: &[u8]| OsString::from_vec(bytes.to_vec());
    let pairs = bytes.split(|&byte| byte == 0).filter_map(|pair| {
        let at = pair.iter().position(|&byte| byte == b'=')?;
        let (name, value) = pair.split_at(at);
        (!name.is_empty()).then(|| (text(name), text(&value[1..])))
    });
    pairs.collect()
}

/// Runs a script of ours with these arguments. Each line that it writes goes to `tell`, when it
/// comes. Its input ends when it is to end, and when this process does. The error says why it could
/// not run.
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
        .env_clear()
        .envs(environment())
        .process_group(0)
        .stdin(Stdio::piped())
        .stderr(writer.try_clone().map_err(failed)?)
        .stdout(writer);
    let mut child = command.spawn().map_err(failed)?;
    let input = child.stdin.take();
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
    let ended = match read {
        Ok(_) => listen(&mut child, &lines, tell),
        Err(error) => Err(failed(error)),
    };
    if ended.is_err() {
        drop(input);
        end(&mut child);
    }
    ended
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
                return Err(format!(
                    "it took longer than {} s and was ended",
                    LONGEST.as_secs()
                ));
            }
        }
    }
}

/// Ends a program whose input has ended.
fn end(child: &mut Child) {
    // It ends what it started as well, if it can.
    for _ in 0..100 {
        if child.try_wait().is_ok_and(|ended| ended.is_some()) {
            return;
        }
        thread::sleep(Duration::from_millis(10));
    }
    let _ = child.kill();
    let _ = child.wait();
}

#[cfg(test)]
mod tests {
    use super::parse_environment;

    #[test]
    fn an_environment_is_read() {
        let all = parse_environment(b"A=1\0B=x=y\0C=\0nonsense\0=z\0\0");
        let mut all: Vec<_> = all.iter().map(|(a, b)| (a.to_str(), b.to_str())).collect();
        all.sort_unstable();
        let want = [("A", "1"), ("B", "x=y"), ("C", "")];
        assert_eq!(all, want.map(|(a, b)| (Some(a), Some(b))));
    }
}
