//! Results to replies.

use super::raw::Ctx;
use super::{MODULE, Module};
use crate::engine::{Item, Outcome, Results};

/// `[[results...], [errors...]]`
pub(super) fn outcome(ctx: Ctx<'_>, outcome: &Outcome) {
    ctx.array(2);
    ctx.array(outcome.results.len());
    items_of_array(ctx, &outcome.results);
    ctx.array(outcome.errors.len());
    for error in &outcome.errors {
        ctx.bulk(error.as_bytes());
    }
}

/// A result that is a reply of its own.
pub(super) fn result(ctx: Ctx<'_>, result: &Results) {
    match result.items().next() {
        Some(Item::Error(text)) => ctx.error(text),
        _ => items_of_array(ctx, result),
    }
}

/// Results one behind the other, without a head.
pub(super) fn items_of_array(ctx: Ctx<'_>, results: &Results) {
    for item in results.items() {
        match item {
            Item::Bulk(text) => ctx.bulk(text),
            Item::Status(text) => ctx.status(text),
            Item::Error(text) => error_in_array(ctx, text),
            Item::Integer(number) => ctx.integer(number),
            Item::Array(len) => ctx.array(len),
        }
    }
}

/// An error as an element of an array; as the text that the function gave, where it would do harm.
fn error_in_array(ctx: Ctx<'_>, text: &[u8]) {
    let harms = |module: &Module| module.server.script_fails_at_errors_in_arrays();
    if MODULE.get().is_some_and(harms) {
        ctx.bulk(&[b"-", text].concat());
    } else {
        ctx.error(text);
    }
}

/// A function's reply: its first error, or all results.
pub(super) fn results_or_error(ctx: Ctx<'_>, results: &Results, errors: &[String]) {
    match errors.first() {
        Some(error) => ctx.error(error.as_bytes()),
        None => {
            ctx.array(results.len());
            items_of_array(ctx, results);
        }
    }
}

/// Text as a bulk string.
pub(super) fn text(ctx: Ctx<'_>, text: &str) {
    ctx.bulk(text.as_bytes());
}

/// A name and its number.
pub(super) fn number(ctx: Ctx<'_>, name: &str, value: u64) {
    text(ctx, name);
    ctx.integer(i64::try_from(value).unwrap_or(i64::MAX));
}

/// A name and its text.
pub(super) fn field(ctx: Ctx<'_>, name: &str, value: &str) {
    text(ctx, name);
    text(ctx, value);
}
