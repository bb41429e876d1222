//! Plans: a reader and its steps, as data.

use std::sync::Arc;

use super::Language;

/// One operation of a plan.
pub enum Step<L: Language> {
    /// The first step of every plan: a record of the server becomes a value.
    Open,
    /// `map(f)`
    Map(Arc<L::Function>),
    /// `filter(f)`
    Filter(Arc<L::Function>),
    /// `flatmap(f)`
    FlatMap(Arc<L::Function>),
    /// `foreach(f)`
    ForEach(Arc<L::Function>),
    /// `accumulate(f)`
    Accumulate(Arc<L::Function>),
    /// `localgroupby(extract, f)`, and the second half of `groupby`.
    AccumulateByKey {
        /// Names the key of a record.
        extract: Arc<L::Function>,
        /// The reducer.
        f: Arc<L::Function>,
        /// Whether records move to the shard of their key first.
        repartition: bool,
    },
    /// `batchgroupby(extract, f)`
    Group {
        /// Names the key of a record.
        extract: Arc<L::Function>,
        /// The reducer.
        f: Arc<L::Function>,
    },
    /// `repartition(extract)`
    Repartition(Arc<L::Function>),
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

impl<L: Language> Clone for Step<L> {
    fn clone(&self) -> Self {
        match self {
            Self::Open => Self::Open,
            Self::Map(f) => Self::Map(f.clone()),
            Self::Filter(f) => Self::Filter(f.clone()),
            Self::FlatMap(f) => Self::FlatMap(f.clone()),
            Self::ForEach(f) => Self::ForEach(f.clone()),
            Self::Accumulate(f) => Self::Accumulate(f.clone()),
            Self::AccumulateByKey {
                extract,
                f,
                repartition,
            } => Self::AccumulateByKey {
                extract: extract.clone(),
                f: f.clone(),
                repartition: *repartition,
            },
            Self::Group { extract, f } => Self::Group {
                extract: extract.clone(),
                f: f.clone(),
            },
            Self::Repartition(f) => Self::Repartition(f.clone()),
            Self::Collect => Self::Collect,
            Self::Limit { skip, take } => Self::Limit {
                skip: *skip,
                take: *take,
            },
        }
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
    /// The operation of the plan, by position, whose time counts as this step's.
    pub timed: Option<usize>,
}

impl<L: Language> Step<L> {
    /// What a listing shows, in the order of the data. One operation may be several steps there.
    fn describe(&self, step: usize, out: &mut Vec<StepInfo>) {
        let begin = out.len();
        let mut add = |kind, name, f: Option<&Arc<L::Function>>| {
            let arg = f
                .map(|f| super::Function::describe(&**f).to_owned())
                .unwrap_or_default();
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
        // Of several steps the last one with a callback does the work.
        let steps = out.get_mut(begin..).unwrap_or_default();
        let at = steps
            .iter()
            .rposition(|info| !info.arg.is_empty())
            .unwrap_or(0);
        if let Some(info) = steps.get_mut(at) {
            info.timed = Some(step);
        }
    }
}

/// A reader and its steps. Immutable; shared by all executions that run it.
pub struct Plan<L: Language> {
    /// Name of the reader, as the user gave it.
    pub reader: String,
    /// What the user says of it.
    pub description: Option<String>,
    /// The operations in the order of the data.
    pub steps: Vec<Step<L>>,
    /// Whom its code runs for.
    pub context: Arc<L::Context>,
}

impl<L: Language> Plan<L> {
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
    steps: Vec<Step<L>>,
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
    pub fn push(&mut self, step: Step<L>) {
        self.steps.push(step);
    }

    /// Name of the reader.
    pub fn reader(&self) -> &str {
        &self.reader
    }

    /// The plan as it stands, to run for `context`; the builder can go on.
    pub fn build(&self, context: Arc<L::Context>) -> Plan<L> {
        Plan {
            reader: self.reader.clone(),
            description: self.description.clone(),
            steps: self.steps.clone(),
            context,
        }
    }
}
