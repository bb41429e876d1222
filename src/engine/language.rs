//! The language that callbacks are written in, as the engine sees it.
//!
//! The engine is generic over it instead of using trait objects: a record is handed from step to
//! step a million times a second, and a boxed value per record would cost more than the steps.

use std::sync::Arc;

use super::{Asked, Caller, Instead, Native, Packed, RecordError, Results};

/// What the engine may know of a callback besides calling it. Results are the same without.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Hint {
    /// Nothing.
    #[default]
    None,
    /// As accumulator: it counts records and never looks at them.
    Counts,
    /// The same as accumulator by key.
    CountsByKey,
    /// It makes text of a record, for the reply.
    MakesText,
}

/// A callable.
pub trait Function: Send + Sync + 'static {
    /// What is known of it.
    fn hint(&self) -> Hint;
    /// Whether it may look at the value of a record of keys, its one argument.
    fn looks_at_value(&self) -> bool;
    /// How listings show it, such as `<function <lambda> at 0x7f...>`.
    fn describe(&self) -> &str;
}

/// Whom code runs for: a session. Crosses threads: workers run in it, commands interrupt it.
pub trait Context: Send + Sync + 'static {
    /// The user of the server with whose rights it runs.
    fn user(&self) -> &str;
    /// Asks the code that runs for `ticket`, if any, to stop. Asked again until it does.
    fn interrupt(&self, ticket: u64);
}

/// One record or several.
pub enum Many<O, I> {
    /// Passed on as it is.
    One(O),
    /// Passed on one by one.
    Several(I),
}

/// What a generator has next.
pub enum Next<O> {
    /// A record.
    Record(O),
    /// It failed, and ends.
    Failed(RecordError),
    /// Nothing.
    End,
}

/// On whose behalf an attached section runs.
pub struct Behalf<'a, C> {
    /// For whom.
    pub context: &'a Arc<C>,
    /// Names the section for [`Context::interrupt`].
    pub ticket: Ticket,
    /// Whose command it answers.
    pub caller: Option<&'a Arc<dyn Caller>>,
}

/// How a section can be interrupted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ticket {
    /// By this number.
    Number(u64),
    /// While the server waits for it, and only when it takes too long.
    Watched,
}

/// The types of a language, and how to enter it.
pub trait Language: Calls + Groups {
    /// Whom code runs for.
    type Context: Context;
    /// A reader that is written in the language.
    type Generator: Send + 'static;

    /// Runs `body` attached to the interpreter, on somebody's behalf. Never waits for the server
    /// lock.
    fn attach<R>(
        behalf: &Behalf<'_, Self::Context>,
        body: impl for<'a> FnOnce(Self::Scope<'a>) -> R,
    ) -> R;

    /// The next record of a generator.
    fn generate(s: Self::Scope<'_>, generator: &mut Self::Generator) -> Next<Self::Object>;
}

/// Values and what the engine does with them.
pub trait Values: Sized + Send + Sync + 'static {
    /// Proof of being attached.
    type Scope<'a>: Copy;
    /// A value.
    type Object: Send + Sync + 'static;

    /// Called between records: lets a thread go first for which the server waits.
    fn breathe(s: Self::Scope<'_>);
    /// A record of the server as a value.
    fn object(s: Self::Scope<'_>, record: &Native<'_>) -> Result<Self::Object, RecordError>;
    /// A number.
    fn number(s: Self::Scope<'_>, number: u64) -> Self::Object;
    /// The record `{'key': key, 'value': value}`.
    fn pair(
        s: Self::Scope<'_>,
        key: Self::Object,
        value: Self::Object,
    ) -> Result<Self::Object, RecordError>;
    /// Reads the text of a key that [`Calls::key`] made.
    fn read_key<R>(
        s: Self::Scope<'_>,
        key: &Self::Object,
        read: impl FnOnce(&[u8]) -> R,
    ) -> Result<R, RecordError>;
    /// Values as bytes, for another shard. With `pairs` two stand and fall together.
    fn pack(s: Self::Scope<'_>, values: Vec<Self::Object>, pairs: bool) -> Packed;
    /// What [`Values::pack`] made there.
    fn unpack(s: Self::Scope<'_>, bytes: &[u8]) -> Result<Vec<Self::Object>, RecordError>;
    /// About how many bytes a value occupies.
    fn size(s: Self::Scope<'_>, value: &Self::Object) -> usize;
    /// Encodes a final record for the reply.
    fn emit(
        s: Self::Scope<'_>,
        record: Self::Object,
        results: &mut Results,
    ) -> Result<(), RecordError>;
}

/// Calling callbacks.
pub trait Calls: Values {
    /// A callable.
    type Function: Function;
    /// Several records, to be passed on in this order.
    type Several: Iterator<Item = Self::Object> + Send + Sync;

    /// `f(x)`
    fn map(
        s: Self::Scope<'_>,
        f: &Self::Function,
        x: Self::Object,
    ) -> Asked<Self::Object, Self::Object>;
    /// Whether `f(x)` is true.
    fn test(s: Self::Scope<'_>, f: &Self::Function, x: &Self::Object) -> Asked<bool, Self::Object>;
    /// Whether what was promised for [`Calls::test`] is true.
    fn is_true(s: Self::Scope<'_>, value: &Self::Object) -> Result<bool, RecordError>;
    /// `f(x)` for what it does.
    fn visit(s: Self::Scope<'_>, f: &Self::Function, x: &Self::Object) -> Asked<(), Self::Object>;
    /// `f(x)`, expanded.
    fn expand(
        s: Self::Scope<'_>,
        f: &Self::Function,
        x: Self::Object,
    ) -> Asked<Many<Self::Object, Self::Several>, Self::Object>;
    /// What was promised for [`Calls::expand`], expanded.
    fn several(s: Self::Scope<'_>, value: Self::Object) -> Many<Self::Object, Self::Several>;
    /// `f(accumulator, x)`; there is no accumulator on the first call.
    fn accumulate(
        s: Self::Scope<'_>,
        f: &Self::Function,
        accumulator: Option<Self::Object>,
        x: Self::Object,
    ) -> Asked<Self::Object, Self::Object>;
    /// The key that `f(x)` names, normalised to text.
    fn key(
        s: Self::Scope<'_>,
        f: &Self::Function,
        x: &Self::Object,
    ) -> Result<Self::Object, RecordError>;
}

/// Records and accumulators by key.
pub trait Groups: Calls {
    /// Keys with their accumulators, or with the list of their records.
    type Groups: Send + Sync + 'static;

    /// No key yet.
    fn groups(s: Self::Scope<'_>) -> Self::Groups;
    /// `accumulator[key] = f(key, accumulator[key], x)`; a failure forgets the accumulator. With what
    /// comes instead the key is given back.
    fn fold(
        s: Self::Scope<'_>,
        groups: &mut Self::Groups,
        f: &Self::Function,
        key: Self::Object,
        x: Self::Object,
    ) -> Result<(), (Instead<Self::Object>, Self::Object)>;
    /// `accumulator[key] = value`, which was promised for [`Groups::fold`].
    fn put(
        s: Self::Scope<'_>,
        groups: &mut Self::Groups,
        key: Self::Object,
        value: Self::Object,
    ) -> Result<(), RecordError>;
    /// Forgets an accumulator.
    fn remove(s: Self::Scope<'_>, groups: &mut Self::Groups, key: Self::Object);
    /// Adds a record to the list of its key.
    fn gather(
        s: Self::Scope<'_>,
        groups: &mut Self::Groups,
        key: Self::Object,
        x: Self::Object,
    ) -> Result<(), RecordError>;
    /// `f(key, records)`
    fn reduce(
        s: Self::Scope<'_>,
        f: &Self::Function,
        key: &Self::Object,
        records: Self::Object,
    ) -> Result<Self::Object, RecordError>;
    /// Keys and what they hold, in the order in which the keys were first seen.
    fn drain(s: Self::Scope<'_>, groups: Self::Groups) -> Vec<(Self::Object, Self::Object)>;
}
