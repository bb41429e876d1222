//! The exchange: what moves records between the shards of an execution.

/// What `collect` and `repartition` ask. They are cuts in every plan; the exchange says whether a
/// cut has another side.
pub trait Exchange: Send + Sync {
    /// Whether this shard is the only one in the execution, so that every record stays where it is.
    fn is_alone(&self) -> bool;
}

/// The exchange of a single server, and of an execution that is local to its shard.
#[derive(Debug, Clone, Copy, Default)]
pub struct Alone;

impl Exchange for Alone {
    fn is_alone(&self) -> bool {
        true
    }
}
