//! Results to replies.

use super::raw::Ctx;
use crate::engine::{Item, Outcome, Results};

/// `[[results...], [errors...]]`
pub(super) fn outcome(ctx: Ctx<'_>, outcome: &Outcome) {
    ctx.array(2);
    ctx.array(outcome.results.len());
    items(ctx, &outcome.results);
    ctx.array(outcome.errors.len());
    for error in &outcome.errors {
        ctx.bulk(error.as_bytes());
    }
}

/// The results one behind the other, without a head.
pub(super) fn items(ctx: Ctx<'_>, results: &Results) {
    for item in results.items() {
        match item {
            Item::Bulk(text) => ctx.bulk(text),
            Item::Status(text) => ctx.status(text),
            Item::Error(text) => ctx.error(text),
            Item::Integer(number) => ctx.integer(number),
            Item::Array(len) => ctx.array(len),
        }
    }
}

/// A function's reply: its first error, or all results.
pub(super) fn results_or_error(ctx: Ctx<'_>, results: &Results, errors: &[String]) {
    match errors.first() {
        Some(error) => ctx.error(error.as_bytes()),
        None => {
            ctx.array(results.len());
            items(ctx, results);
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
