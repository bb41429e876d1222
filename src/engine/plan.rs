//! Plans: a reader and its steps, as data.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::planner::{For, Prepared, compile};
use super::{Calls, Function, Language, Spent};

/// One operation of a plan, over callbacks or what stands for them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Step<F> {
    /// The first step of every plan: a record of the server becomes a value.
    Open,
    /// `map(f)`
    Map(F),
    /// `filter(f)`
    Filter(F),
    /// `flatmap(f)`
    FlatMap(F),
    /// `foreach(f)`
    ForEach(F),
    /// `accumulate(f)`
    Accumulate(F),
    /// `localgroupby(extract, f)`, and the second half of `groupby`.
    AccumulateByKey {
        /// Names the key of a record.
        extract: F,
        /// The reducer.
        f: F,
        /// Whether records move to the shard of their key first.
        repartition: bool,
    },
    /// `batchgroupby(extract, f)`
    Group {
        /// Names the key of a record.
        extract: F,
        /// The reducer.
        f: F,
    },
    /// `repartition(extract)`
    Repartition(F),
    /// `collect()`
    Collect,
    /// `limit(take, skip)`
    Limit {
        /// Records to pass over.
        skip: u64,
        /// Records to pass on.
        take: u64,
    },
}

impl<F> Step<F> {
    /// The same operation over what `change` makes of its callbacks.
    pub fn try_map<G, E>(&self, mut change: impl FnMut(&F) -> Result<G, E>) -> Result<Step<G>, E> {
        Ok(match self {
            Self::Open => Step::Open,
            Self::Map(f) => Step::Map(change(f)?),
            Self::Filter(f) => Step::Filter(change(f)?),
            Self::FlatMap(f) => Step::FlatMap(change(f)?),
            Self::ForEach(f) => Step::ForEach(change(f)?),
            Self::Accumulate(f) => Step::Accumulate(change(f)?),
            Self::AccumulateByKey {
                extract,
                f,
                repartition,
            } => Step::AccumulateByKey {
                extract: change(extract)?,
                f: change(f)?,
                repartition: *repartition,
            },
            Self::Group { extract, f } => Step::Group {
                extract: change(extract)?,
                f: change(f)?,
            },
            Self::Repartition(f) => Step::Repartition(change(f)?),
            Self::Collect => Step::Collect,
            Self::Limit { skip, take } => Step::Limit {
                skip: *skip,
                take: *take,
            },
        })
    }
}

/// How a listing names a step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StepInfo {
    /// The kind, such as `map`.
    pub kind: &'static str,
    /// The name RedisGears 1.x gives it.
    pub name: &'static str,
    /// The callback as text; empty without.
    pub arg: String,
    /// What of the time of the plan's operations counts as this step's.
    pub timed: Option<Timed>,
}

/// A part of the time that an operation of a plan took; the operation by position.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Timed {
    /// For the keys of records.
    Extracting(usize),
    /// All the rest.
    Working(usize),
}

impl Timed {
    /// That part.
    pub fn of(self, operations: &[Spent]) -> Duration {
        let spent = |at: usize| operations.get(at).copied().unwrap_or_default();
        match self {
            Self::Extracting(at) => spent(at).extracting,
            Self::Working(at) => spent(at).working,
        }
    }
}

impl<F: Function> Step<Arc<F>> {
    /// What a listing shows, in the order of the data. One operation may be several steps there.
    fn describe(&self, step: usize, out: &mut Vec<StepInfo>) {
        let begin = out.len();
        let mut add = |kind, name, f: Option<&Arc<F>>| {
            let arg = f.map(|f| f.describe().to_owned()).unwrap_or_default();
            out.push(StepInfo {
                kind,
                name,
                arg,
                timed: None,
            });
        };
        const EXTRACT: &str = "RedisGearsPy_PyCallbackExtractor";
        const TO_VALUE: &str = "RedisGearsPy_ToPyRecordMapper";
        match self {
            Self::Open => add("map", TO_VALUE, None),
            Self::Map(f) => add("map", "RedisGearsPy_PyCallbackMapper", Some(f)),
            Self::Filter(f) => add("filter", "RedisGearsPy_PyCallbackFilter", Some(f)),
            Self::FlatMap(f) => {
                add("map", "RedisGearsPy_PyCallbackFlatMapper", Some(f));
                add("flatmap", "flatmap", None);
            }
            Self::ForEach(f) => add("foreach", "RedisGearsPy_PyCallbackForEach", Some(f)),
            Self::Accumulate(f) => add("accumulate", "RedisGearsPy_PyCallbackAccumulate", Some(f)),
            Self::AccumulateByKey {
                extract,
                f,
                repartition,
            } => {
                add("extractkey", EXTRACT, Some(extract));
                if *repartition {
                    add("repartition", "repartition", None);
                }
                add(
                    "accumulatebykey",
                    "RedisGearsPy_PyCallbackAccumulateByKey",
                    Some(f),
                );
                add("map", TO_VALUE, None);
            }
            Self::Group { extract, f } => {
                add("extractkey", EXTRACT, Some(extract));
                add("repartition", "repartition", None);
                add("group", "group", None);
                add("reduce", "RedisGearsPy_PyCallbackReducer", Some(f));
                add("map", TO_VALUE, None);
            }
            Self::Repartition(f) => {
                add("extractkey", EXTRACT, Some(f));
                add("repartition", "repartition", None);
                add("map", "GetValueMapper", None);
            }
            Self::Collect => add("collect", "collect", None),
            Self::Limit { .. } => add("limit", "limit", None),
        }
        let steps = out.get_mut(begin..).unwrap_or_default();
        if let Some(first) = steps.first_mut() {
            first.timed = Some(Timed::Extracting(step));
        }
        // Of several steps the last one with a callback does the work.
        let at = steps
            .iter()
            .rposition(|info| !info.arg.is_empty())
            .unwrap_or(0);
        if let Some(info) = steps.get_mut(at) {
            info.timed = Some(Timed::Working(step));
        }
    }
}

/// The steps of a plan in a language.
pub type Steps<L> = Vec<Step<Arc<<L as Calls>::Function>>>;

/// A reader and its steps. Immutable; shared by all executions that run it.
pub struct Plan<L: Language> {
    /// Name of the reader, as the user gave it.
    pub reader: String,
    /// What the user says of it.
    pub description: Option<String>,
    /// The operations in the order of the data.
    pub steps: Steps<L>,
    /// Whom its code runs for.
    pub context: Arc<L::Context>,
    alone: OnceLock<Prepared<L>>,
    shared: OnceLock<Prepared<L>>,
}

impl<L: Language> Plan<L> {
    /// A plan of these steps, to run for `context`.
    pub fn new(
        reader: String,
        description: Option<String>,
        steps: Steps<L>,
        context: Arc<L::Context>,
    ) -> Self {
        Self {
            reader,
            description,
            steps,
            context,
            alone: OnceLock::new(),
            shared: OnceLock::new(),
        }
    }

    /// What runs on this shard alone, or on several. Made once: finding out what the callbacks look
    /// at takes a while.
    pub(super) fn prepared(&self, shared: bool) -> &Prepared<L> {
        if shared {
            self.shared.get_or_init(|| compile(self, For::Team))
        } else {
            self.alone.get_or_init(|| compile(self, For::Alone))
        }
    }

    /// Whether that was found out for several shards, so that nobody has to wait for it.
    pub fn is_prepared(&self) -> bool {
        self.shared.get().is_some()
    }

    /// Whether records move to the shards of their keys.
    pub fn moves_by_key(&self) -> bool {
        self.steps.iter().any(|step| {
            matches!(
                step,
                Step::Repartition(_)
                    | Step::Group { .. }
                    | Step::AccumulateByKey {
                        repartition: true,
                        ..
                    }
            )
        })
    }

    /// The steps as a listing shows them, in the order of the data.
    pub fn describe(&self) -> Vec<StepInfo> {
        let mut infos = Vec::new();
        for (at, step) in self.steps.iter().enumerate() {
            step.describe(at, &mut infos);
        }
        infos
    }
}

/// A plan in the making.
pub struct PlanBuilder<L: Language> {
    reader: String,
    description: Option<String>,
    steps: Steps<L>,
}

impl<L: Language> PlanBuilder<L> {
    /// A plan that only reads.
    pub fn new(reader: String, description: Option<String>) -> Self {
        Self {
            reader,
            description,
            steps: vec![Step::Open],
        }
    }

    /// Appends an operation.
    pub fn push(&mut self, step: Step<Arc<L::Function>>) {
        self.steps.push(step);
    }

    /// Name of the reader.
    pub fn reader(&self) -> &str {
        &self.reader
    }

    /// The plan as it stands, to run for `context`; the builder can go on.
    pub fn build(&self, context: Arc<L::Context>) -> Plan<L> {
        Plan::new(
            self.reader.clone(),
            self.description.clone(),
            self.steps.clone(),
            context,
        )
    }
}
