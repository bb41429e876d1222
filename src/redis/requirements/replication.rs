//! Requirements in the AOF and on replicas, which get each of them once, in pieces, before what needs it.

use std::sync::Arc;

use super::pieces::read_wheels;
use super::shards::Parcel;
use super::{Entered, Requirements};
use crate::engine::wire::{seal, unseal};
use crate::python::{Requirement, shown};
use crate::redis::raw::{self, Args, Ctx};

/// The command that brings them.
const COMMAND: &std::ffi::CStr = c"RG.INNERREQUIREMENT";

impl Requirements {
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
