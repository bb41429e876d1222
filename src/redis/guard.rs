//! The door: a panic in a command or callback never reaches the server, which would end.

use std::panic::{AssertUnwindSafe, catch_unwind};

/// Runs `body`; `None` after a panic, which the panic hook has logged.
pub(super) fn guard<R>(body: impl FnOnce() -> R) -> Option<R> {
    catch_unwind(AssertUnwindSafe(body)).ok()
}
