//! Requirements on other shards: a shard that is told of one which it has not asks for its wheels.

use std::io::{self, Write};
use std::os::unix::fs::FileExt;
use std::sync::{Arc, mpsc};

use serde::{Deserialize, Serialize};

use super::pieces::PIECE;
use super::{REQUIREMENTS, Requirements};
use crate::engine::wire::{RequirementWire, SessionWire};
use crate::engine::{LogLevel, ShardId};
use crate::python::{self, Failure, Needs, NotHere, Requirement, Uses, shown};
use crate::redis::questions::Question;
use crate::redis::{MODULE, Module};

/// What one shard tells another of a requirement.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Parcel {
    /// Which.
    pub(super) wire: RequirementWire,
    /// Where its wheels were made.
    pub(super) os: String,
    /// Their names, and how many bytes they have.
    pub(super) wheels: Vec<(String, u64)>,
    /// Whether it is listed, rather than only used.
    #[serde(default = "yes")]
    pub(super) listed: bool,
}

fn yes() -> bool {
    true
}

impl Parcel {
    /// What there is to tell of a requirement that has its wheels.
    pub(super) fn of(requirement: &Requirement) -> io::Result<Self> {
        let wheels = requirement.wheels();
        let missing = || io::Error::new(io::ErrorKind::NotFound, "it has no wheels");
        let sized = |file: String| {
            let len = std::fs::metadata(requirement.wheel(&file))?.len();
            Ok((file, len))
        };
        let wheels = wheels.ok_or_else(missing)?.into_iter().map(sized);
        Ok(Self {
            wire: requirement.wire(),
            os: requirement.os(),
            wheels: wheels.collect::<io::Result<_>>()?,
            listed: true,
        })
    }
}

impl Requirements {
    /// Has requirements here that another shard has: they are installed, from its wheels if they fit.
    /// The error says which is not. On a thread that may wait.
    pub(in crate::redis) fn ensure(
        &self,
        wires: &[RequirementWire],
        from: ShardId,
    ) -> Result<Vec<Arc<Requirement>>, Failure> {
        let most = self.settings.max_install_idle();
        let mut all = Vec::new();
        for wire in wires {
            let found = self.lock.with(|_| match self.find(&wire.build) {
                Some(requirement) => {
                    let again = requirement.retry();
                    Ok((requirement, again))
                }
                None => self.create(wire).map(|requirement| (requirement, true)),
            });
            let (requirement, mine) = found?;
            let done = if mine {
                self.receive(&requirement, from)
            } else {
                requirement.wait(most)
            };
            if !done {
                return Err(Failure::Install);
            }
            all.push(requirement);
        }
        python::prefer(&all);
        Ok(all)
    }

    /// What a session that came from another shard needs. The error is the reason of a refusal. On a
    /// thread that may wait.
    pub(in crate::redis) fn needs(
        &self,
        session: &SessionWire,
        from: ShardId,
    ) -> Result<Needs, String> {
        let all = self
            .ensure(&session.requirements, from)
            .map_err(|failure| failure.text().to_owned())?;
        Ok(Needs {
            uses: Uses::new(all),
            installed: session.installed,
        })
    }

    /// Asks a shard for wheels, and installs them; whether that went well.
    fn receive(&self, requirement: &Arc<Requirement>, from: ShardId) -> bool {
        if let Err(error) = self.copy(requirement, from) {
            requirement.fail(&format!("shard {from} did not send its wheels: {error}"));
            return false;
        }
        let name = shown(requirement.name());
        let text = format!("requirement {name}: its wheels came from shard {from}");
        self.server.log(LogLevel::Notice, &text);
        self.install_received(requirement)
    }

    /// Installs wheels that were received, or, where they are for another platform, has pip get
    /// others. Whether that went well. On a thread that may wait; the server may wait for it, so it
    /// takes no server lock.
    pub(in crate::redis) fn install_received(&self, requirement: &Arc<Requirement>) -> bool {
        match requirement.unpack() {
            Ok(()) => true,
            Err(NotHere::Failed) => {
                requirement.fail(Failure::Install.text());
                false
            }
            Err(NotHere::Unfit) => self.make_here(requirement),
        }
    }

    /// Has pip get wheels for this server, since there are none, or those of another platform; whether
    /// that went well. On a thread that may wait.
    pub(super) fn make_here(&self, requirement: &Arc<Requirement>) -> bool {
        if let Err(why) = self.check(requirement.name()) {
            requirement.fail(&why);
            return false;
        }
        let (send, done) = mpsc::channel();
        let job = requirement.clone();
        self.install(Box::new(move || {
            if let Some(requirements) = REQUIREMENTS.get() {
                let wanted = [job];
                let made = requirements.make(&wanted).is_ok();
                if made {
                    python::prefer(&wanted);
                }
                let _ = send.send(made);
            }
        }));
        done.recv().unwrap_or(false)
    }

    fn copy(&self, requirement: &Requirement, from: ShardId) -> Result<(), String> {
        let module = MODULE.get().ok_or("the module is not loaded")?;
        let build = requirement.build().to_owned();
        let answer = module.ask_and_wait(from, &Question::Wheels(build.clone()))?;
        let parcel: Parcel = rmp_serde::from_slice(&answer).map_err(|error| error.to_string())?;
        requirement.create_folder().map_err(|e| e.to_string())?;
        for (file, len) in &parcel.wheels {
            let mut copy = requirement.create_wheel(file).map_err(|e| e.to_string())?;
            let mut at = 0;
            while at < *len {
                let question = Question::Wheel {
                    build: build.clone(),
                    file: file.clone(),
                    at,
                };
                let piece = module.ask_and_wait(from, &question)?;
                if piece.is_empty() {
                    return Err(format!("{file} ends early"));
                }
                at += piece.len() as u64;
                copy.write_all(&piece).map_err(|error| error.to_string())?;
            }
        }
        let files = parcel.wheels.into_iter().map(|(file, _)| file);
        requirement.received(parcel.os, files.collect());
        Ok(())
    }

    /// What another shard asks for: the wheels of a requirement. On a thread that may wait.
    pub(in crate::redis) fn wheels_for_others(&self, build: &str) -> Result<Vec<u8>, String> {
        let requirement = self.for_others(build)?;
        let parcel = Parcel::of(&requirement).map_err(|error| error.to_string())?;
        Ok(rmp_serde::to_vec_named(&parcel).expect("plain data can always be encoded"))
    }

    /// A piece of one of them.
    pub(in crate::redis) fn wheel_for_others(
        &self,
        build: &str,
        file: &str,
        at: u64,
    ) -> Result<Vec<u8>, String> {
        let requirement = self.for_others(build)?;
        let known = requirement.wheels();
        if !known.is_some_and(|wheels| wheels.iter().any(|wheel| wheel == file)) {
            return Err(format!("{file} is not one of its wheels"));
        }
        let mut piece = vec![0; PIECE];
        let read = std::fs::File::open(requirement.wheel(file)).and_then(|wheel| {
            let len = wheel.read_at(&mut piece, at)?;
            piece.truncate(len);
            Ok(())
        });
        read.map(|()| piece).map_err(|error| error.to_string())
    }

    fn for_others(&self, build: &str) -> Result<Arc<Requirement>, String> {
        let found = self.lock.with(|_| self.find(build));
        found.ok_or_else(|| "it is not there any more".into())
    }

    /// Has all other shards install requirements and list them. The errors of those that can not. On a
    /// thread that may wait.
    pub(in crate::redis) fn spread(&self, requirements: &[Arc<Requirement>]) -> Vec<String> {
        let module = MODULE.get().filter(|module| module.has_shards());
        let (Some(module), false) = (module, requirements.is_empty()) else {
            return Vec::new();
        };
        let wires = requirements.iter().map(|one| one.wire()).collect();
        let (send, receive) = mpsc::channel();
        module.ask_all_for(
            &Question::Require(wires),
            self.settings.max_install_idle(),
            Box::new(move |answers| {
                let _ = send.send(answers);
            }),
        );
        let answers = receive.recv().unwrap_or_default();
        answers
            .into_iter()
            .filter_map(|(_, answer)| answer.err())
            .collect()
    }

    /// What [`Requirements::spread`] asks for, on this shard.
    pub(in crate::redis) fn require(
        &self,
        wires: &[RequirementWire],
        from: ShardId,
    ) -> Result<(), String> {
        let all = self
            .ensure(wires, from)
            .map_err(|failure| failure.text().to_owned())?;
        self.publish(&all);
        Ok(())
    }
}

impl Module {
    /// Asks one shard, and waits for its answer.
    fn ask_and_wait(&self, shard: ShardId, question: &Question) -> Result<Vec<u8>, String> {
        let (send, receive) = mpsc::channel();
        self.ask_one(
            shard,
            question,
            Box::new(move |answers| {
                let _ = send.send(answers);
            }),
        );
        let answers = receive.recv().unwrap_or_default();
        let first = answers.into_iter().next();
        first.map_or_else(
            || Err("it is not known any more".into()),
            |(_, answer)| answer,
        )
    }
}
