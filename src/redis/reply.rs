//! Results to replies.

use super::raw::Ctx;
use crate::engine::{Item, Outcome};

/// `[[results...], [errors...]]`
pub(super) fn outcome(ctx: Ctx<'_>, outcome: &Outcome) {
    ctx.array(2);
    ctx.array(outcome.results.len());
    for item in outcome.results.items() {
        match item {
            Item::Bulk(text) => ctx.bulk(text),
            Item::Status(text) => ctx.status(text),
            Item::Error(text) => ctx.error(text),
            Item::Integer(number) => ctx.integer(number),
            Item::Array(len) => ctx.array(len),
        }
    }
    ctx.array(outcome.errors.len());
    for error in &outcome.errors {
        ctx.bulk(error.as_bytes());
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
