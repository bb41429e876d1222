//! What shards ask each other, and let each other know, about executions and registrations.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::Module;
use super::commands;
use crate::cluster::{Answer, Answers};
use crate::engine::wire::{BundleWire, RequirementWire, Version};
use crate::engine::{Id, LogLevel, Results, ShardId};

/// What another shard is to answer.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) enum Question {
    /// Stop an execution.
    Abort(String),
    /// Describe an execution.
    Describe(String),
    /// Pause functions that read streams, or let them go on.
    Pause {
        /// Which.
        ids: Vec<String>,
        /// Rather than go on.
        pauses: bool,
    },
    /// Set statistics to zero.
    ClearStatistics,
    /// Whether these registrations can be made. If so their names are held free for a while.
    Verify {
        /// Names them in what follows.
        transaction: String,
        /// They.
        bundle: BundleWire,
    },
    /// Make the registrations that were verified.
    Apply(String),
    /// All registrations.
    Registrations,
    /// Have these requirements, and list them.
    Require(Vec<RequirementWire>),
    /// The names of the wheels of a requirement, by its build.
    Wheels(String),
    /// A piece of one of them.
    Wheel {
        /// The build of the requirement.
        build: String,
        /// The name of the wheel.
        file: String,
        /// Where the piece begins.
        at: u64,
    },
}

/// What another shard is to know.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) enum Word {
    /// A registration is removed.
    Unregister {
        /// Which.
        id: String,
        /// With what waits to run.
        abort_pending: bool,
        /// The registrations after that.
        version: Version,
    },
    /// These registrations are made.
    Register(BundleWire),
    /// The registrations that were verified are not made.
    Cancel(String),
    /// An execution is dropped.
    Drop(String),
    /// Which registrations a shard has.
    Has {
        /// Their version.
        version: Version,
        /// Equal for equal ones.
        digest: u64,
    },
}

impl Question {
    fn encode(&self) -> Vec<u8> {
        rmp_serde::to_vec_named(self).expect("plain data can always be encoded")
    }
}

impl Word {
    /// As bytes.
    pub(super) fn encode(&self) -> Vec<u8> {
        rmp_serde::to_vec_named(self).expect("plain data can always be encoded")
    }
}

impl Module {
    /// Asks all other shards; `done` gets their answers. Without others it gets none, at once.
    pub(super) fn ask_all(&self, question: &Question, done: Answers) {
        self.ask_all_for(question, self.settings.max_idle(), done);
    }

    /// The same for a question that may take longer.
    pub(super) fn ask_all_for(&self, question: &Question, most: Duration, done: Answers) {
        match self.cluster() {
            Some(cluster) => cluster.ask_all(&question.encode(), most, done),
            None => done(Vec::new()),
        }
    }

    /// Asks one shard.
    pub(super) fn ask_one(&self, shard: ShardId, question: &Question, done: Answers) {
        if let Some(cluster) = self.cluster() {
            let idle = self.settings.max_idle();
            cluster.ask(&[shard], &question.encode(), idle, done);
        }
    }

    /// Lets all other shards know something.
    pub(super) fn tell_all(&self, word: &Word) {
        if let Some(cluster) = self.cluster() {
            cluster.tell_all(&word.encode());
        }
    }

    /// Whether there are other shards.
    pub(super) fn has_shards(&self) -> bool {
        self.registry.has_shards()
    }

    /// Answers another shard. On the main thread, with the server lock held.
    pub(super) fn answer(&'static self, from: ShardId, question: &[u8], answer: Answer) {
        let question = match rmp_serde::from_slice(question) {
            Ok(question) => question,
            Err(error) => return answer(Err(format!("the question makes no sense: {error}"))),
        };
        let plain = |done: Result<(), String>| done.map(|()| Vec::new());
        match question {
            Question::Abort(id) => {
                let done = move |aborted| answer(plain(aborted));
                commands::abort(self, id.as_bytes(), Box::new(done));
            }
            Question::Describe(id) => {
                let execution = self.registry.find(id.as_bytes());
                match execution {
                    Ok(execution) => self.run(Box::new(move || {
                        let described = commands::describe(self, &execution);
                        answer(Ok(described.into_bytes()));
                    })),
                    Err(error) => answer(Err(error.to_string())),
                }
            }
            Question::Pause { ids, pauses } => {
                answer(plain(self.registrations.pause_here(&ids, pauses)));
            }
            Question::ClearStatistics => {
                self.registrations.clear_statistics_here();
                answer(Ok(Vec::new()));
            }
            Question::Verify {
                transaction,
                bundle,
            } => self.run(Box::new(move || {
                let verified = self
                    .registrations
                    .verify_for_others(transaction, bundle, from);
                answer(plain(verified));
            })),
            Question::Apply(transaction) => self.run(Box::new(move || {
                let applied = self.registrations.apply_for_others(&transaction);
                answer(applied.map(String::into_bytes));
            })),
            Question::Require(wires) => self.run(Box::new(move || {
                answer(plain(self.requirements.require(&wires, from)));
            })),
            Question::Wheels(build) => self.run(Box::new(move || {
                answer(self.requirements.wheels_for_others(&build));
            })),
            Question::Wheel { build, file, at } => self.run(Box::new(move || {
                answer(self.requirements.wheel_for_others(&build, &file, at));
            })),
            Question::Registrations => {
                let all = self.registrations.all();
                self.log_sync(from, "asks for all registrations");
                self.run(Box::new(move || {
                    answer(Ok(crate::engine::wire::seal(&all)));
                }));
            }
        }
    }

    fn log_sync(&self, shard: ShardId, what: &str) {
        let text = format!("shard {shard} {what}");
        self.server.log(LogLevel::Verbose, &text);
    }

    /// Hears something of another shard. On the main thread, with the server lock held.
    pub(super) fn hear(&'static self, from: ShardId, word: &[u8]) {
        let word = match rmp_serde::from_slice(word) {
            Ok(word) => word,
            Err(error) => {
                return self.warn(&format!("shard {from} said what makes no sense: {error}"));
            }
        };
        match word {
            Word::Unregister {
                id,
                abort_pending,
                version,
            } => {
                if let Some(id) = Id::parse(id.as_bytes()) {
                    self.registrations.bury(id);
                }
                // Callbacks may run, for which nobody is made to wait here.
                self.run(Box::new(move || {
                    self.registrations
                        .unregister_for_others(&id, abort_pending, version);
                }));
            }
            Word::Register(bundle) => self.run(Box::new(move || {
                if let Err(error) = self.registrations.take_for_others(bundle, from) {
                    self.warn(&format!("registrations of shard {from}: {error}"));
                }
            })),
            Word::Cancel(transaction) => self.registrations.cancel(&transaction),
            Word::Drop(id) => {
                if let Some(id) = Id::parse(id.as_bytes()) {
                    self.registry.drop_soon(id);
                }
            }
            Word::Has { version, digest } => {
                if self.registrations.wants_from(from, &version, digest) {
                    self.fetch_registrations(from, version);
                }
            }
        }
    }

    /// All other shards learn which registrations there are here. The server lock is held.
    pub(super) fn tell_what_is_registered(&self) {
        let (version, digest) = self.registrations.version();
        self.tell_all(&Word::Has { version, digest });
    }

    /// A shard can be talked to: it learns which registrations there are here.
    pub(super) fn meet(&self, shard: ShardId) {
        let (version, digest) = self.lock.with(|_| self.registrations.version());
        if let Some(cluster) = self.cluster() {
            cluster.tell(shard, Word::Has { version, digest }.encode());
        }
    }

    fn fetch_registrations(&'static self, from: ShardId, version: Version) {
        let done: Answers = Box::new(move |answers| {
            self.run(Box::new(move || {
                for (_, answer) in answers {
                    let taken = answer.and_then(|all| self.registrations.take_all(&all, &version, from));
                    match taken {
                        Ok(0) => {}
                        Ok(changed) => self.server.log(
                            LogLevel::Notice,
                            &format!(
                                "took over the registrations of shard {from}: {changed} came or went"
                            ),
                        ),
                        Err(error) => {
                            self.lock.with(|_| self.registrations.ask_again(from));
                            self.warn(&format!(
                                "the registrations of shard {from} could not be taken over: {error}"
                            ));
                        }
                    }
                }
            }));
        });
        self.ask_one(from, &Question::Registrations, done);
    }
}

/// Descriptions that shards sent, each as results.
pub(super) fn described(answers: Vec<(ShardId, Result<Vec<u8>, String>)>) -> Vec<Results> {
    let bytes = answers.into_iter().filter_map(|(_, answer)| answer.ok());
    bytes.map(Results::from_bytes).collect()
}
