//! What the server says of commands, and which of them can have hooks.

use crate::engine::{Command, Reply};
use crate::redis::raw::{self, Server};

/// What the server says of a command.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct CommandSpec {
    arity: i64,
    first: i64,
    last: i64,
    step: i64,
    pub(super) writes: bool,
    /// Replicas get it although it does not write, such as PUBLISH.
    pub(super) may_replicate: bool,
    pub(super) deny_oom: bool,
    no_script: bool,
    movable: bool,
    /// Of a command such as XGROUP: what the server says of XGROUP CREATE and so on.
    subs: Vec<(Vec<u8>, CommandSpec)>,
}

impl CommandSpec {
    /// Asks the server; `None` if it has no such command. The server lock is held.
    pub(super) fn of(server: Server, name: &str) -> Option<Self> {
        // One part of a command, `object|freq`, is nothing that a client sends.
        if name.contains('|') {
            return None;
        }
        let command = Command::of(&[b"COMMAND", b"INFO", name.as_bytes()]);
        let Ok(Reply::Array(infos)) = server.read(&command) else {
            return None;
        };
        match infos.first() {
            Some(Reply::Array(info)) => Some(Self::read(info)),
            _ => None,
        }
    }

    fn read(info: &[Reply]) -> Self {
        let number = |at: usize| match info.get(at) {
            Some(Reply::Integer(number)) => *number,
            _ => 0,
        };
        let list = |at: usize| match info.get(at) {
            Some(Reply::Array(list)) => list.as_slice(),
            _ => &[],
        };
        let has = |flag: &[u8]| {
            list(2)
                .iter()
                .any(|has| matches!(has, Reply::Bytes(text) if text == flag))
        };
        let name = |info: &[Reply]| match info.first() {
            Some(Reply::Bytes(name)) => name.clone(),
            _ => Vec::new(),
        };
        let sub = |info: &Reply| {
            let Reply::Array(info) = info else {
                return None;
            };
            let whole = name(info);
            let bar = whole.iter().position(|&byte| byte == b'|')?;
            Some((whole.get(bar + 1..)?.to_vec(), Self::read(info)))
        };
        Self {
            arity: number(1),
            first: number(3),
            last: number(4),
            step: number(5),
            writes: has(b"write"),
            may_replicate: raw::may_replicate(&name(info)),
            deny_oom: has(b"denyoom"),
            no_script: has(b"noscript"),
            movable: has(b"movablekeys"),
            subs: list(9).iter().filter_map(sub).collect(),
        }
    }

    /// What it says of a command with this second word; `None` if there is no such part of it.
    pub(super) fn with(&self, second: &[u8]) -> Option<&Self> {
        if self.subs.is_empty() {
            return Some(self);
        }
        let found = self
            .subs
            .iter()
            .find(|(name, _)| name.eq_ignore_ascii_case(second));
        found.map(|(_, spec)| spec)
    }

    /// Whether scripts may not run it, or some part of it.
    fn is_for_clients(&self) -> bool {
        self.no_script || self.subs.iter().any(|(_, sub)| sub.no_script)
    }

    pub(super) fn takes(&self, words: usize) -> bool {
        let words = i64::try_from(words).unwrap_or(i64::MAX);
        if self.arity >= 0 {
            words == self.arity
        } else {
            words >= -self.arity
        }
    }

    /// Positions of its keys among so many words, where they can be told from that.
    pub(super) fn keys(&self, words: usize) -> impl Iterator<Item = usize> + use<> {
        let count = i64::try_from(words).unwrap_or(0);
        let last = if self.last < 0 {
            count + self.last
        } else {
            self.last.min(count - 1)
        };
        let (first, step) = (self.first, self.step);
        let known = first > 0 && step > 0;
        (0..)
            .map(move |number: i64| first + number * step)
            .take_while(move |&at| known && at <= last)
            .filter_map(|at| usize::try_from(at).ok())
    }
}

/// Whether a command is one of this module's: a hook on one of them could lock everybody out.
fn is_own(command: &str) -> bool {
    command.to_ascii_lowercase().starts_with("rg.")
}

/// Why a CommandReader can not hook a command, if so.
pub(super) fn refuse_hook(
    command: &str,
    spec: Option<&CommandSpec>,
    by_prefix: bool,
) -> Option<&'static str> {
    if is_own(command) {
        return Some("Can not override a command of this module");
    }
    let Some(spec) = spec else {
        return Some("Can not override an unexisting command");
    };
    if spec.is_for_clients() {
        return Some("Can not override a command which are not allowed inside a script");
    }
    if command.eq_ignore_ascii_case("select") {
        return Some("Can not override a command that changes its client");
    }
    if !by_prefix {
        return None;
    }
    if spec.movable {
        Some("Can not override a command with moveable keys by key prefix")
    } else if spec.first <= 0 {
        Some("Can not override a command by key prefix with none positive first key")
    } else if spec.step <= 0 {
        Some("Can not override a command by key prefix with none positive jump")
    } else {
        None
    }
}

/// The same for a KeysReader with `commands`.
pub(super) fn refuse_keys_hook(
    command: &str,
    spec: Option<&CommandSpec>,
    prefix: &str,
) -> Option<&'static str> {
    if is_own(command) {
        return Some("Can not hook a command of this module");
    }
    let Some(spec) = spec else {
        return Some("bad reply on COMMAND command");
    };
    if prefix.is_empty() {
        return Some("Empty perfix given to command hooker");
    }
    if spec.is_for_clients() {
        Some("Can not hook a command which are not allowed inside a script")
    } else if spec.movable {
        Some("Can not hook a command with moveable keys by key prefix")
    } else if spec.first <= 0 {
        Some("Can not hook a command by key prefix with none positive first key")
    } else if spec.step <= 0 {
        Some("Can not override a command by key prefix with none positive jump")
    } else {
        None
    }
}
